"""Panes of shapes in the workbench: drawn by panes.js of the report, from a file of numbers.

The page holds the section; its numbers, which may be megabytes, are asked for once, under a name of
128 random bits.  What is shown under the same ``key`` again is looked at as before: same camera,
same colours.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import gradio as gr

from apps.report.packing import packed_group
from apps.report.panes import panes_html
from apps.report.shapes import Group
from geo3d.files import atomic_write_text, new_id

FOLDER = "groups"
"""Below the folder of what the browser is shown."""
ADDRESS = "geo3d/groups"
"""Where the page asks for them."""


def pane_box(name: str) -> gr.HTML:
    """Return the place for a group of shapes."""
    return gr.HTML(elem_id=name)


def panes(
    group: Group,
    scratch: Path,
    name: str,
    key: str,
    *,
    count: int = 2,
    marks: Sequence[Sequence[int]] | None = None,
) -> str:
    """Write the numbers of a group for the browser and return its section, as HTML.

    Args:
        name: of the place on the page.
        key: of what is shown; the same for the same shapes in other colours.
        count: of panes.
        marks: landmarks to begin with (source vertex, target vertex); None: none can be set.
    """
    header, data = packed_group(group, 0)
    id = new_id()
    text = json.dumps({"group": header, "data": data}, allow_nan=False)
    atomic_write_text(scratch / FOLDER / f"{id}.json", text)
    told = {"id": f"{name}-shapes", "data-source": f"{ADDRESS}/{id}.json", "data-key": key}
    if marks is not None:
        told |= {"data-landmarks": "", "data-marks": json.dumps([list(map(int, m)) for m in marks])}
    return panes_html(group, told, min(count, len(group.models)))
