"""Small pieces of HTML for the viewer.

Every text that comes from outside (file names, error messages, titles) goes through `html.escape`
here and nowhere else becomes markup.
"""

from __future__ import annotations

import base64
import os
import re
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from apps.job_files import Job
from apps.viewer.course import left_s, whole_share
from geo3d.errors import Geo3dError

_FOLDERS = re.compile(
    r"(?<![\w:/.<])(?:/[^\s/'\"<>]+)*/(?=[^\s/'\"<>]+)|\b[A-Za-z]:\\(?:[^\s\\]+\\)*"
)
"""The folders of an absolute path."""
STATE_LOOKS = {
    "queued": "info",
    "running": "info",
    "cancelling": "warning",
    "done": "good",
    "failed": "bad",
    "cancelled": "neutral",
}
SILENT_S = 15.0
"""A running job without a sign of life for this long is pointed out."""

MAP_ALT = "The functional map as a square of colours: source patterns across, target patterns down"
MAP_WORDS = (
    "Each column tells how one wave pattern of the source is made up of wave patterns of the "
    "target, coarse patterns first (upper left), fine ones last. A thin diagonal is good: every "
    "pattern finds its like. Red or blue says only which way round a pattern counts. Colour spread "
    "far from the diagonal means a vague map, or shapes that differ."
)


def badge(look: str, text: str) -> str:
    """Return a small coloured label; ``look`` is good, info, warning, bad or neutral."""
    return f'<span class="g3-badge g3-{look}">{escape(text)}</span>'


def mesh_card(
    name: str, n_vertices: int, n_faces: int, defects: Sequence[Mapping[str, Any]]
) -> str:
    """Return the health of a mesh: a badge, its size, and what was found, worst first.

    ``defects`` are mappings with severity, message and hint, as in `geo3d.mesh.check`.
    """
    worst = {d["severity"] for d in defects}
    if "error" in worst:
        mark = badge("bad", "needs repair")
    elif "warning" in worst:
        mark = badge("warning", "usable, with remarks")
    else:
        mark = badge("good", "healthy")
    size = f'<span class="g3-dim">{n_vertices:,} vertices, {n_faces:,} faces</span>'
    head = f'<div class="g3-row">{mark}<b>{escape(name)}</b>{size}</div>'
    order = {"error": 0, "warning": 1, "info": 2}
    shown = sorted(defects, key=lambda d: order[d["severity"]])
    items = "".join(
        f'<li>{escape(d["message"])} <span class="g3-dim">{escape(d["hint"])}</span></li>'
        for d in shown
    )
    if not items:
        return f'<div class="g3-card">{head}</div>'
    count = f"{len(shown)} remark{'s' if len(shown) > 1 else ''}"
    return (
        f'<div class="g3-card">{head}<details{" open" if "error" in worst else ""}>'
        f"<summary>{count}</summary><ul>{items}</ul></details></div>"
    )


def error_card(error: Geo3dError | Mapping[str, str], about: str = "") -> str:
    """Return a deliberate error as sentence, hint and code; ``about`` names what it concerns."""
    parts = error.to_dict() if isinstance(error, Geo3dError) else error
    said, advice = without_folders(parts["message"]), without_folders(parts.get("hint", ""))
    hint = f"<p>{escape(advice)}</p>" if advice else ""
    name = f'<span class="g3-dim">{escape(about)}</span> ' if about and about not in said else ""
    message = f"<p>{name}<b>{escape(said)}</b></p>"
    return (
        f'<div class="g3-card g3-error" role="alert">{message}{hint}'
        f'<code class="g3-code">{escape(parts["code"])}</code></div>'
    )


def without_folders(text: str) -> str:
    """Return ``text`` with files by their names alone: where they lie is the server's affair.

    >>> without_folders("/srv/my-runs/jobs/0a/in.png has 49 megapixels, half of 98/2 (see a/b).")
    'in.png has 49 megapixels, half of 98/2 (see a/b).'
    """
    for root in (os.environ.get("GRADIO_TEMP_DIR"), tempfile.gettempdir(), Path.cwd()):
        if root and len(str(root)) > 1:
            text = re.sub(re.escape(str(root)) + r"[\\/](?:[^\s/\\]+[\\/])*", "", text)
    return _FOLDERS.sub("", text)


def empty(text: str) -> str:
    """Return what stands where a result will be."""
    return f'<div class="g3-empty">{escape(text)}</div>'


def note(text: str) -> str:
    """Return a quiet line of text."""
    return f'<div class="g3-note">{escape(text)}</div>'


def job_card(job: Job, before: Sequence[Job] = ()) -> str:
    """Return state, stage, bar and times of a job; an error if it failed.

    Args:
        before: the jobs that a waiting one waits for.
    """
    look = STATE_LOOKS[job.state]
    row = (
        f'<div class="g3-row">{badge(look, job.state)}<b>{escape(job.title)}</b>'
        f'<span class="g3-dim">{_times(job)}</span></div>'
    )
    parts = [row]
    if job.state == "queued":
        parts.append(note(_place(before)))
    elif not job.ended:
        parts.append(_bar(job))
    if job.silent_s > SILENT_S:
        parts.append(note(f"No sign of life for {job.silent_s:.0f} s."))
    card = f'<div class="g3-card" role="status" aria-live="polite">{"".join(parts)}</div>'
    return card + (error_card(job.error) if job.error else "")


def job_links(jobs: Sequence[Job]) -> str:
    """Return links to further jobs that were started together; empty without."""
    if not jobs:
        return ""
    # ids are hexadecimal
    links = ", ".join(f'<a href="?job={job.id}">{escape(job.title)}</a>' for job in jobs)
    return f'<div class="g3-note">Queued as well: {links}.</div>'


def facts_card(facts: Iterable[tuple[str, str, str]], remarks: Sequence[str], mark: str) -> str:
    """Return a result: tiles of (label, value, explanation), a badge, and remarks below."""
    tiles = "".join(
        f'<div class="g3-tile"><span class="g3-dim">{escape(label)}</span><b>{escape(value)}</b>'
        + (f"<small>{escape(why)}</small></div>" if why else "</div>")
        for label, value, why in facts
    )
    notes = "".join(f"<li>{escape(text)}</li>" for text in remarks)
    listed = f"<ul>{notes}</ul>" if notes else ""
    grid = f'<div class="g3-tiles">{tiles}</div>' if tiles else ""
    return f'<div class="g3-card">{mark}{grid}{listed}</div>'


def folded_table(title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table that opens when its title is pressed."""

    def row(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    body = "".join(row(cells, "td") for cells in rows)
    return (
        f'<details class="g3-card"><summary>{escape(title)}</summary><table class="g3-table">'
        f"<thead>{row(head, 'th')}</thead><tbody>{body}</tbody></table></details>"
    )


def commands(lines: Sequence[str]) -> str:
    """Return how to do the same without the page."""
    text = escape("\n".join(lines))
    return (
        '<details class="g3-card"><summary>The same from the command line and in Python</summary>'
        f'<pre class="g3-commands">{text}</pre></details>'
    )


def image(png: bytes, alt: str, *, hidden: bool = False) -> str:
    """Return an image that needs no address."""
    data = base64.b64encode(png).decode("ascii")
    more = " hidden" if hidden else ""
    return f'<img src="data:image/png;base64,{data}" alt="{escape(alt)}"{more}>'


def map_figure(png: bytes, running: bool) -> str:
    """Return the image of a functional map with its explanation."""
    when = "The map as it is now." if running else "The final map."
    return (
        f'<figure class="g3-card g3-map">{image(png, MAP_ALT)}<figcaption class="g3-dim">'
        f"<b>{when}</b> {escape(MAP_WORDS)}</figcaption></figure>"
    )


def time_bars(names: Sequence[str], stages: Sequence[tuple[str, Sequence[float]]]) -> str:
    """Return the seconds of every stage as bars, one per name, to a common scale."""
    longest = max((t for _, times in stages for t in times), default=0.0) or 1.0
    rows = []
    for title, times in stages:
        bars = "".join(
            f'<div class="g3-time" title="{escape(name)}"><i class="g3-series-{i}" '
            f'style="width: {100 * t / longest:.1f}%"></i><span>{t:.2f} s</span></div>'
            for i, (name, t) in enumerate(zip(names, times, strict=True))
        )
        rows.append(f'<div class="g3-dim">{escape(title)}</div><div>{bars}</div>')
    legend = "".join(
        f'<span><i class="g3-series-{i}"></i>{escape(name)}</span>' for i, name in enumerate(names)
    )
    return (
        f'<div class="g3-card"><div class="g3-legend">{legend}</div>'
        f'<div class="g3-times">{"".join(rows)}</div></div>'
    )


def scale(colors: Sequence[Sequence[int]], low: str, high: str, label: str) -> str:
    """Return a colour bar with its two ends named."""
    stops = ", ".join("rgb({}, {}, {})".format(*map(int, c)) for c in colors)
    ramp = f'<i style="background: linear-gradient(90deg, {stops})"></i>'
    return (
        f'<div class="g3-scale"><span>{escape(label)}</span><span>{escape(low)}</span>'
        f"{ramp}<span>{escape(high)}</span></div>"
    )


def age(seconds: float) -> str:
    """Return a time span in words a person would use.

    >>> age(3.25), age(75), age(7300)
    ('3 s', '1 min 15 s', '2 h 1 min')
    """
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _times(job: Job) -> str:
    if job.state == "queued":
        return f"waiting for {age(time.time() - job.created)}"
    left = None if job.ended else left_s(job)
    return age(job.seconds) + ("" if left is None else f", about {age(left)} left")


def _place(before: Sequence[Job]) -> str:
    """Return a waiting job's place in the queue."""
    if not before:
        return "It begins in a moment."
    count = f"{len(before)} job{'s' if len(before) > 1 else ''} before it"
    waits = [float(j.settings.get("expected_s") or 0) for j in before if j.state == "queued"]
    waits += [left_s(j) or 0.0 for j in before if j.state != "queued"]
    known = all(waits)
    return f"{count}; it begins in about {age(sum(waits))}." if known else f"{count}."


def _bar(job: Job) -> str:
    """Return one bar for the whole job, and what is being done."""
    stage, step, total = (job.progress.get(key) for key in ("stage", "step", "total"))
    words = str(stage or "starting")
    if stage and total and isinstance(step, int | float):
        words += f": {step} of {total}"
    share = whole_share(job)
    if share is None:
        return f'<div class="g3-bar g3-busy"><i></i></div><div class="g3-dim">{escape(words)}</div>'
    percent = 100.0 * share
    return (
        f'<div class="g3-bar" role="progressbar" aria-label="The whole job" '
        f'aria-valuenow="{percent:.0f}" aria-valuemin="0" aria-valuemax="100">'
        f'<i style="width: {percent:.1f}%"></i></div><div class="g3-dim">{escape(words)}</div>'
    )
