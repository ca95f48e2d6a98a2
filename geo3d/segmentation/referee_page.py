"""The referee's page: one HTML file with tables, marks of flips, and images of what is wrong."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from geo3d.segmentation.referee import BASE, SIGNIFICANT, Verdict

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2em auto;max-width:78em;padding:0 1em;color:#222}
table{border-collapse:collapse;margin:1em 0}th,td{padding:.25em .7em;border-bottom:1px solid #ddd;
text-align:right}th:first-child,td:first-child{text-align:left}.sure{background:#d9f0e4}
.flip{background:#fbe3d0}figure{display:inline-block;margin:.5em;vertical-align:top;font-size:13px}
img{max-width:260px;image-rendering:pixelated;border:1px solid #ccc}summary{cursor:pointer;
font-weight:600}.scroll{overflow-x:auto}
"""
_LEGEND = (
    "Images: grey is right, orange only in the prediction, blue only in the truth; the frame is "
    "around the wrong component or hole."
)
Means = Mapping[str, Mapping[str, Mapping[str, float]]]


def page(
    means: Means,
    found: Sequence[Verdict],
    pictures: Iterable[tuple[str, str, str, UInt8[np.ndarray, "h w 3"]]],
    notes: Sequence[str],
) -> str:
    """Return the page.

    Args:
        means: see `geo3d.segmentation.referee.mean_table`.
        found: see `geo3d.segmentation.referee.verdicts`.
        pictures: method, image, caption and pixels of each wrong region that is shown.
        notes: what a reader must know beside it.
    """
    parts = ["<!doctype html><meta charset=utf-8><title>Referee</title>"]
    parts.append(f"<style>{_STYLE}</style><h1>Which masks are better?</h1>")
    parts += [f"<p>{html.escape(note)}</p>" for note in notes]
    parts += ["<h2>Means</h2>", _means_table(means), "<h2>Verdicts</h2>", _verdict_table(found)]
    parts += ["<h2>Under every reading</h2>", _sweep_tables(means, found)]
    parts += ["<h2>Wrong components and holes</h2>", f"<p>{_LEGEND}</p>", _gallery(pictures)]
    return "\n".join(parts)


def _means_table(means: Means) -> str:
    base = means[BASE.name]
    metrics = list(next(iter(base.values())))
    rows = [[name, *(_number(row[m]) for m in metrics)] for name, row in base.items() if name]
    return _table(["masks", *metrics], rows)


def _verdict_table(found: Sequence[Verdict]) -> str:
    rows, marks = [], []
    for v in found:
        floor = "" if v.floor is None else _number(v.floor)
        word = "sure" if v.is_sure else _doubt(v)
        flips = ", ".join(v.flips)
        rows.append(
            [v.metric, v.better, v.worse, _number(v.difference), floor, f"{v.p:.4f}", word, flips]
        )
        marks.append("sure" if v.is_sure else "flip" if v.flips else "")
    head = ["metric", "better", "worse", "difference", "annotation floor", "p (Holm)", "", "flips"]
    return _table(head, rows, marks)


def _doubt(verdict: Verdict) -> str:
    """Return why a verdict is not sure."""
    reasons = []
    if verdict.difference == 0:
        return "equal"
    if verdict.p >= SIGNIFICANT:
        reasons.append("may be chance")
    if verdict.floor is not None and verdict.difference <= verdict.floor:
        reasons.append("below the annotation floor")
    if verdict.flips:
        reasons.append("the order flips")
    return "; ".join(reasons)


def _sweep_tables(means: Means, found: Sequence[Verdict]) -> str:
    methods = [name for name in means[BASE.name] if name]
    flipping = {(v.metric, reading) for v in found for reading in v.flips}
    parts = []
    for metric in next(iter(means[BASE.name].values())):
        rows = [[r, *(_number(m[name][metric]) for name in methods)] for r, m in means.items()]
        marks = ["flip" if (metric, r) in flipping else "" for r in means]
        parts.append(
            f"<details><summary>{metric}</summary>{_table(['reading', *methods], rows, marks)}"
        )
        parts.append("</details>")
    return "\n".join(parts)


def _gallery(pictures: Iterable[tuple[str, str, str, np.ndarray]]) -> str:
    parts, last = [], None
    for method, image, caption, pixels in pictures:
        if method != last:
            parts.append(f"<h3>{html.escape(method)}</h3>")
            last = method
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, format="PNG", optimize=True)
        data = base64.b64encode(stream.getvalue()).decode("ascii")
        text = html.escape(f"{image}: {caption}")
        parts.append(
            f'<figure><img alt="{text}" src="data:image/png;base64,{data}">'
            f"<figcaption>{text}</figcaption></figure>"
        )
    return "\n".join(parts) or "<p>None.</p>"


def _table(
    head: Sequence[str], rows: Sequence[Sequence[str]], marks: Sequence[str] | None = None
) -> str:
    lines = ["".join(f"<th>{html.escape(name)}</th>" for name in head)]
    lines += ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows]
    classes = ["", *(marks or [""] * len(rows))]
    body = "".join(f'<tr class="{c}">{line}</tr>' for c, line in zip(classes, lines, strict=True))
    return f"<div class=scroll><table>{body}</table></div>"


def _number(value: float) -> str:
    return f"{value:.2f}" if abs(value) >= 10 else f"{value:.3f}"
