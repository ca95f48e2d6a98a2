"""The page of one run, or of several: HTML, styles, code, pictures and shapes in one file.

The page asks for nothing: its content policy lets in only what is written in it, and of code only
its own scripts.  Texts from files are escaped; shapes are numbers and JSON, read as data.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from apps.report import pictures, shapes
from apps.report.packing import packed_group
from apps.report.panes import panes_html
from apps.report.records import RunRecord, shell_line
from apps.report.summary import Fact, main_facts, verdict
from apps.report.tables import csv_tables, numbers_html, table
from geo3d import __version__

_HERE = Path(__file__).resolve().parent
_MOST_TEXT = 40_000
"""Characters of settings and log that are shown."""


def page(runs: Sequence[RunRecord], title: str = "", note: str = "") -> str:
    """Return the page of these runs.

    Args:
        runs: at least one.
        title: of the page; by default the first run's.
        note: a sentence below the title.
    """
    title = title or (_title(runs[0]) if len(runs) == 1 else f"{len(runs)} runs")
    models: list[dict[str, Any]] = []
    data: dict[str, str] = {}
    parts = [_section(run, models, data, len(runs)) for run in runs]
    style = _text_of("panes.css") + _text_of("page.css")
    code = f'"use strict";\nconst open = ({panes_code()})();\n{_text_of("page.js")}'
    policy = (
        f"default-src 'none'; img-src data:; media-src data:; style-src {_hash(style)}; "
        f"script-src {_hash(code)}; base-uri 'none'; form-action 'none'"
    )
    numbers = "".join(
        f'<script type="application/octet-stream" id="{name}">{text}</script>'
        for name, text in data.items()
    )
    compared = side_by_side(runs) if len(runs) > 1 else ""
    said = f"<p>{escape(note)}</p>" if note else ""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="referrer" content="no-referrer">'
        f"<title>{escape(title)}</title><style>{style}</style></head><body>"
        f"<header><h1>{escape(title)}</h1>{said}{_contents(runs)}</header>"
        f"<main>{compared}{''.join(parts)}</main>"
        f"<footer>Made by geo3d {escape(__version__)}. This file needs no network.</footer>"
        f'<script type="application/json" id="groups">{_json(models)}</script>'
        f"{numbers}<script>{code}</script></body></html>"
    )


def panes_code() -> str:
    """Return the function, as JavaScript, whose result opens a group of shapes in its section."""
    return _text_of("panes.js").rstrip()


def _text_of(name: str) -> str:
    return (_HERE / name).read_text("utf-8")


def _title(run: RunRecord) -> str:
    return f"geo3d {run.verb}: {run.name}"


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


def _json(value: Any) -> str:
    """Return JSON that cannot end the element it stands in."""
    return json.dumps(value, allow_nan=False).replace("<", "\\u003c").replace("&", "\\u0026")


def _contents(runs: Sequence[RunRecord]) -> str:
    if len(runs) == 1:
        return ""
    links = "".join(f'<a href="#run-{i}">{escape(_title(run))}</a>' for i, run in enumerate(runs))
    return f'<nav aria-label="Runs">{links}</nav>'


def _section(run: RunRecord, models: list[dict[str, Any]], data: dict[str, str], of: int) -> str:
    """Return what is told of one run; its shapes are added to ``models`` and ``data``."""
    index = sum(1 for group in models if group.get("last"))
    found = verdict(run)
    when = run.created.strftime("%Y-%m-%d %H:%M UTC") if run.created else ""
    took = f"{run.seconds:,.0f} s in all" if run.seconds is not None else ""
    about = " · ".join(escape(text) for text in (f"geo3d {run.verb}", when, took) if text)
    heading = "" if of == 1 else f"<h2>{escape(_title(run))}</h2>"
    parts = [
        f'<article id="run-{index}">{heading}<p class="dim">{about}</p>',
        f'<p class="verdict {found.look}">{escape(found.text)}</p>',
        facts_html(main_facts(run)),
        _shapes(run, models, data),
        _pictures(run, of),
        _command(run),
        _details(run),
        "</article>",
    ]
    models.append({"last": True, "models": [], "sets": []})
    return "".join(parts)


def facts_html(facts: Sequence[Fact]) -> str:
    """Return numbers as tiles."""
    tiles = "".join(
        f'<div class="tile"><span>{escape(fact.label)}</span><b>{escape(fact.value)}</b>'
        f"<small>{escape(fact.meaning)}</small></div>"
        for fact in facts
    )
    return f'<div class="tiles">{tiles}</div>' if tiles else ""


def _shapes(run: RunRecord, models: list[dict[str, Any]], data: dict[str, str]) -> str:
    group = shapes.shapes_of(run.folder, run.verb)
    if group is None:
        return ""
    header, numbers = packed_group(group, len(data))
    data |= numbers
    number = len(models)
    models.append(header)
    shown = panes_html(group, {"data-group": str(number)})
    return f"<section><h3>In 3D</h3>{shown}</section>"


def _pictures(run: RunRecord, of: int) -> str:
    found, left_out = pictures.pictures_of(run.folder, run.verb, pictures.BUDGET // of)
    if not found:
        return ""
    figures = "".join(_figure(picture) for picture in found)
    more = f'<p class="dim">{left_out} more are in the run folder.</p>' if left_out else ""
    return f'<section><h3>Pictures</h3><div class="pictures">{figures}</div>{more}</section>'


def _figure(picture: pictures.Picture) -> str:
    name = escape(picture.title)
    shown = f'<img alt="{name}" loading="lazy" src="{picture.address}">'
    if picture.is_film:
        shown = f'<video controls muted loop playsinline src="{picture.address}"></video>'
    return f"<figure>{shown}<figcaption>{name}</figcaption></figure>"


def _command(run: RunRecord) -> str:
    line = escape(shell_line(run.command))
    return f'<section><h3>Make it again</h3><pre class="command">{line}</pre></section>'


def _details(run: RunRecord) -> str:
    record = run.record
    origin = {
        "run folder": run.folder.name,
        "status": run.status,
        **{key: record.get(key) for key in ("id", "seed", "device", "platform", "config_hash")},
    }
    numbers = numbers_html(run.numbers)
    parts = [_folded("All numbers", numbers)] if numbers else []
    parts += [_folded(f"Table {name}", html) for name, html in csv_tables(run.folder)]
    for title, file in (("Settings", "config.yaml"), ("What was asked", "request.json")):
        if text := _text(run.folder / file):
            parts.append(_folded(title, f"<pre>{escape(text)}</pre>"))
    kept = {k: record.get(k) for k in ("versions", "git", "inputs") if record.get(k)}
    parts.append(_folded("Where it comes from", table((), origin.items()) + numbers_html(kept)))
    if run.status != "done" and (log := _text(run.folder / "log.txt")):
        parts.append(_folded("Log", f"<pre>{escape(log)}</pre>"))
    return f'<section class="details"><h3>Details</h3>{"".join(parts)}</section>'


def _text(path: Path) -> str:
    """Return a file's text, its end where it is long; "" for what is no file of ours."""
    if path.is_symlink() or not path.is_file():
        return ""
    text = path.read_text("utf-8", errors="replace").strip()
    return "" if text in ("", "{}") else text[-_MOST_TEXT:]


def _folded(title: str, inner: str) -> str:
    return f"<details><summary>{escape(title)}</summary>{inner}</details>"


def side_by_side(runs: Sequence[RunRecord]) -> str:
    """Return the main numbers of all runs of one verb beside each other; "" if verbs differ."""
    if len({run.verb for run in runs}) > 1:
        return ""
    told: list[Mapping[str, str]] = [{f.label: f.value for f in main_facts(run)} for run in runs]
    labels = list(dict.fromkeys(label for facts in told for label in facts))
    rows = [[label, *(facts.get(label, "") for facts in told)] for label in labels]
    rows += [[key, *values] for key, values in _differing(runs)]
    head = ["", *(run.folder.name for run in runs)]
    return f"<section><h3>Side by side</h3>{table(head, rows)}</section>"


def _differing(runs: Sequence[RunRecord]) -> list[tuple[str, list[str]]]:
    """Return the settings that are not the same in all runs."""
    flat = [dict(_flat(run.record.get("config"))) for run in runs]
    keys = sorted({key for settings in flat for key in settings})
    found = [(key, [settings.get(key, "") for settings in flat]) for key in keys]
    return [(f"setting {key}", values) for key, values in found if len(set(values)) > 1]


def _flat(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    if not isinstance(value, Mapping):
        return [(prefix, json.dumps(value, default=str))] if prefix else []
    inner = ((f"{prefix}.{key}" if prefix else str(key), item) for key, item in value.items())
    return [pair for key, item in inner for pair in _flat(item, key)]
