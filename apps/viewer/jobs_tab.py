"""The tab "Jobs": everything that was ever started here, with links that open it again."""

from __future__ import annotations

import time
from html import escape

import gradio as gr

from apps.job_files import Job
from apps.jobs import Jobs
from apps.viewer import fragments
from apps.viewer.job_tab import QUIET
from geo3d.errors import Geo3dError

REFRESH_S = 2.0
SHOWN = 100
"""How many jobs the list shows, newest first."""


class JobsTab:
    """The list of jobs; `start` and `stop` its refreshing as the tab is opened and left."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self.table = gr.HTML(elem_id="jobs")
        # viewer.js presses it for a row's button; hidden and not absent, so that it can.
        self.asked = gr.Button(visible="hidden", elem_id="jobs-asked")
        self.wanted = gr.Textbox(visible="hidden")
        self.timer = gr.Timer(REFRESH_S, active=False)
        self.timer.tick(self.render, None, self.table, queue=False, **QUIET)
        self.asked.click(
            self._cancel, self.wanted, self.table, js="() => [window.geo3dCancel]", **QUIET
        )

    def _cancel(self, job_id: str) -> str:
        """Ask a job of the list to stop."""
        try:
            self._jobs.cancel(str(job_id))
        except Geo3dError as error:
            return fragments.error_card(error) + self.render()
        return self.render()

    def render(self) -> str:
        """Return the list as HTML."""
        jobs = self._jobs.all()
        if not jobs:
            return fragments.note("No jobs yet. Start one in another tab; it will stay here.")
        rows = "".join(map(self._row, jobs[:SHOWN]))
        head = "".join(
            f'<th scope="col">{name}</th>' for name in ("State", "Job", "Started", "Time", "")
        )
        more = len(jobs) - SHOWN
        rest = fragments.note(f"and {more} older ones") if more > 0 else ""
        table = f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody>"
        return f'<table class="g3-table">{table}</table>{rest}'

    def _row(self, job: Job) -> str:
        started = time.strftime("%d %b %H:%M:%S", time.localtime(job.created))
        look = fragments.STATE_LOOKS[job.state]
        told = job.error["message"] if job.error else ""
        if job.state == "queued" and (before := self._jobs.before(job)):
            told = f"{len(before)} before it"
        title = escape(job.title, quote=True)
        # The id is hexadecimal: `Jobs.all` lists no other folder.
        ways = f'<a href="?job={job.id}" aria-label="Open {title}">Open</a>'
        if job.state in ("queued", "running"):
            ways += (
                f' <button type="button" class="g3-small" data-cancel="{job.id}" '
                f'aria-label="Cancel {title}">Cancel</button>'
            )
        cells = (
            fragments.badge(look, job.state),
            escape(job.title) + (f' <span class="g3-dim">{escape(told)}</span>' if told else ""),
            started,
            fragments.age(job.seconds) if job.seconds else "",
            ways,
        )
        return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
