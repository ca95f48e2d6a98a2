"""The gallery of runs as one page: a picture, numbers and the command of each."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

from apps.report.gallery import method_of, tags_of
from apps.report.pictures import thumbnail
from apps.report.records import RunRecord, shell_line
from apps.report.summary import main_facts, verdict
from geo3d import __version__

_HERE = Path(__file__).resolve().parent
_FACTS = 4


def gallery_page(runs: Sequence[RunRecord]) -> str:
    """Return a page of these runs that needs nothing else."""
    style = (_HERE / "page.css").read_text("utf-8")
    cards = "".join(map(_card, runs)) or "<p>No runs.</p>"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "img-src data:; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>geo3d runs</title><style>{style}</style></head><body>"
        f"<header><h1>{len(runs)} runs</h1></header><main><div class=cards>{cards}</div></main>"
        f"<footer>Made by geo3d {escape(__version__)}.</footer></body></html>"
    )


def _card(run: RunRecord) -> str:
    picture = thumbnail(run.folder)
    shown = ""
    if picture is not None:
        data = base64.b64encode(picture).decode("ascii")
        shown = f'<img alt="" src="data:image/jpeg;base64,{data}">'
    when = run.created.strftime("%Y-%m-%d %H:%M UTC") if run.created else ""
    kind = " ".join(text for text in (run.verb, method_of(run)) if text)
    tags = "".join(f" <span class=tag>{escape(tag)}</span>" for tag in tags_of(run))
    found = verdict(run)
    facts = "".join(
        f"<li>{escape(fact.label)}: <b>{escape(fact.value)}</b></li>"
        for fact in main_facts(run)[:_FACTS]
    )
    return (
        f'<article class="card">{shown}<h2>{escape(run.name)}</h2>'
        f'<p class="dim">{escape(kind)} · {escape(when)}{tags}</p>'
        f'<p class="verdict {found.look}">{escape(found.text)}</p><ul>{facts}</ul>'
        f'<pre class="command">{escape(shell_line(run.command))}</pre>'
        f'<p class="dim">{escape(str(run.folder))}</p></article>'
    )
