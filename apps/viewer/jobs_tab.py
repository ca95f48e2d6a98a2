"""The tab "Jobs": everything that was ever started here, with links that open it again."""

from __future__ import annotations

import time
from html import escape

import gradio as gr

from apps.job_files import Job
from apps.jobs import Jobs
from apps.viewer import fragments
from apps.viewer.job_tab import QUIET

REFRESH_S = 2.0
SHOWN = 100
"""How many jobs the list shows, newest first."""


class JobsTab:
    """The list of jobs; `start` and `stop` its refreshing as the tab is opened and left."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self.table = gr.HTML(elem_id="jobs")
        self.timer = gr.Timer(REFRESH_S, active=False)
        self.timer.tick(self.render, None, self.table, queue=False, **QUIET)

    def render(self) -> str:
        """Return the list as HTML."""
        jobs = self._jobs.all()
        if not jobs:
            return fragments.note("No jobs yet. Start one in another tab; it will stay here.")
        rows = "".join(map(_row, jobs[:SHOWN]))
        head = "".join(
            f'<th scope="col">{name}</th>' for name in ("State", "Job", "Started", "Time", "")
        )
        more = len(jobs) - SHOWN
        rest = fragments.note(f"and {more} older ones in {self._jobs.root}") if more > 0 else ""
        table = f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody>"
        return f'<table class="g3-table">{table}</table>{rest}'


def _row(job: Job) -> str:
    started = time.strftime("%d %b %H:%M:%S", time.localtime(job.created))
    look = fragments.STATE_LOOKS[job.state]
    problem = f' <span class="g3-dim">{escape(job.error["message"])}</span>' if job.error else ""
    cells = (
        fragments.badge(look, job.state),
        f"{escape(job.title)}{problem}",
        started,
        fragments.age(job.seconds) if job.seconds else "",
        # The id is hexadecimal: `Jobs.all` lists no other folder.
        f'<a href="?job={job.id}" aria-label="Open {escape(job.title, quote=True)}">Open</a>',
    )
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
