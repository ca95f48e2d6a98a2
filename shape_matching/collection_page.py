"""What came of a collection: a table of its pairs and a page with pictures, one file of HTML."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from geo3d.files import atomic_write_text
from geo3d.mesh.io import load_mesh
from geo3d.mesh.mesh import Mesh
from geo3d.render.previews import contact_sheet, display_azimuth, shaded_view
from geo3d.render.shading import position_colors, transfer_colors
from geo3d.work.tables import csv_text
from shape_matching.collection import MapStore

COLUMNS = "source target probability confidence ambiguous agreement moved seconds".split()
MOST_PICTURES, PICTURE = 24, 220
_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2em auto;max-width:78em;padding:0 1em;color:#222}
table{border-collapse:collapse;margin:1em 0}th,td{padding:.25em .7em;border-bottom:1px solid #ddd;
text-align:right}th:first-child,td:first-child,th:nth-child(2),td:nth-child(2){text-align:left}
.wrong{background:#fbe3d0}img{max-width:100%;border:1px solid #ccc}
"""

_LEGEND = (
    "agreement: 1 where a pairwise map fits the others, 0 where it contradicts them and was not "
    "used; moved: mean distance, in percent of the root of the area, from the image of a vertex "
    "under the pairwise map to that under the consistent one."
)


def write_page(
    files: Mapping[str, Path],
    numbers: Mapping[str, Any],
    folder: Path,
    template: str = "",
    up: str = "y",
) -> None:
    """Write ``pairs.csv`` and ``index.html`` of a finished collection into ``folder``.

    Args:
        numbers: of `shape_matching.collection.match_collection`.
        template: shape whose colours all wear; by default the first.
    """
    rows = sorted(numbers["pairs"], key=lambda row: -row.get("moved", 0.0))
    cells = [[row.get(name, "") for name in COLUMNS] for row in rows]
    atomic_write_text(folder / "pairs.csv", csv_text(COLUMNS, cells))
    names = [name for name in files if name not in numbers["left_out"]]
    parts = ["<!doctype html><meta charset=utf-8><title>Collection</title>"]
    parts.append(f"<style>{_STYLE}</style><h1>{numbers['shapes']} shapes</h1>")
    parts += [f"<p>{html.escape(line)}</p>" for line in _summary(numbers)]
    if names:
        base = template if template in names else names[0]
        shown = [base, *(name for name in names if name != base)][:MOST_PICTURES]
        meshes = {name: load_mesh(files[name]) for name in shown}
        store = MapStore(folder)
        maps = {name: store.consistent((base, name)).p2p_21 for name in shown if name != base}
        sheet = _sheet(meshes, maps, up)
        parts += [
            "<h2>Consistent maps</h2>",
            "<p>Matched points wear one colour.</p>",
            _image(sheet),
        ]
        worst = [row for row in rows if row.get("moved", 0.0) > numbers["wrong_from"]]
        parts += _replaced(worst[:6], files, store, up)
    parts += [
        "<h2>Pairs</h2>",
        f"<p>{html.escape(_LEGEND)}</p>",
        _table(rows, numbers["wrong_from"]),
    ]
    atomic_write_text(folder / "index.html", "\n".join(parts))


def _summary(numbers: Mapping[str, Any]) -> list[str]:
    lines = []
    before, after = numbers["cycle_error_pairwise"], numbers["cycle_error"]
    if after is not None:
        as_matched = "" if before is None else f", {before:.2f} as they were matched"
        lines.append(f"Cycle error of the consistent maps: {after:.2f}{as_matched}.")
    lines += [f"{name} failed: {what['message']}" for name, what in numbers["failed"].items()]
    if numbers["left_out"]:
        lines.append(f"Not connected with the others: {', '.join(numbers['left_out'])}.")
    return lines


def _replaced(
    rows: Sequence[Mapping[str, Any]],
    files: Mapping[str, Path],
    store: MapStore,
    up: str,
) -> list[str]:
    """Return pictures of pairwise maps that were replaced: source, as matched, consistent."""
    parts = ["<h2>Maps that were replaced</h2>"] if rows else []
    for row in rows:
        pair = (row["source"], row["target"])
        one, two = (load_mesh(files[name]) for name in pair)
        colors, azimuth = position_colors(one), display_azimuth(one, up=up)
        maps = {
            "as matched": store.matched(pair)[0].p2p_21,
            "consistent": store.consistent(pair).p2p_21,
        }
        images = [shaded_view(one, colors, azimuth=azimuth, up=up, size=PICTURE)]
        images += [
            shaded_view(two, transfer_colors(colors, p2p), azimuth=azimuth, up=up, size=PICTURE)
            for p2p in maps.values()
        ]
        labels = [pair[0], *(f"{pair[1]}: {what}" for what in maps)]
        parts.append(_image(contact_sheet(images, labels, columns=3)))
    return parts


def _sheet(
    meshes: Mapping[str, Mesh], maps: Mapping[str, np.ndarray], up: str
) -> UInt8[np.ndarray, "h w 3"]:
    """Return pictures of all shapes in the colours of the first; maps lead to that."""
    base = next(iter(meshes))
    colors = {base: position_colors(meshes[base])}
    colors |= {name: transfer_colors(colors[base], p2p) for name, p2p in maps.items()}
    images = [shaded_view(mesh, colors[name], up=up, size=PICTURE) for name, mesh in meshes.items()]
    return contact_sheet(images, list(meshes), columns=min(5, len(images)))


def _table(rows: Sequence[Mapping[str, Any]], wrong_from: float) -> str:
    head = "".join(f"<th>{name}</th>" for name in COLUMNS)
    lines = [f"<table><tr>{head}</tr>"]
    for row in rows:
        mark = ' class="wrong"' if row.get("moved", 0.0) > wrong_from else ""
        cells = "".join(f"<td>{html.escape(_cell(row.get(name)))}</td>" for name in COLUMNS)
        lines.append(f"<tr{mark}>{cells}</tr>")
    return "\n".join([*lines, "</table>"])


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _image(pixels: UInt8[np.ndarray, "h w 3"]) -> str:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", optimize=True)
    data = base64.b64encode(stream.getvalue()).decode("ascii")
    return f'<img alt="shapes in matched colours" src="data:image/png;base64,{data}">'
