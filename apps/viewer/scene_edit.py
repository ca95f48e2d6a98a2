"""A street that is being edited on the page: what the page asks for, checked, and done.

The page sends one change at a time as a small JSON object; nothing in it is believed.  A change
that would make the layout faulty in a way it was not before is refused, and the layout stays.

Notation: x to the right of the map's up, z along it, both in metres; yaw in radians, z towards x.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from apps.viewer.job_parts import bad_edit, parsed_edit, unknown_choice
from geo3d.errors import InputError, LimitError
from geo3d.layout.classes import CLASSES, GROUND
from geo3d.layout.layout import Layout, Primitive, box, ellipsoid
from scenes.urban import edits
from scenes.urban.edits import Edit, History
from scenes.urban.validate import Finding, check_layout

USUAL_SIZES: dict[str, tuple[float, float, float]] = {
    "car": (1.8, 1.5, 4.3),
    "truck": (2.5, 3.2, 7.5),
    "bus": (2.6, 3.1, 12.0),
    "van": (2.0, 2.2, 5.2),
    "person": (0.6, 1.75, 0.5),
    "bicycle": (0.6, 1.1, 1.8),
    "motorcycle": (0.8, 1.2, 2.1),
    "building": (10.0, 7.0, 10.0),
    "garage": (6.0, 2.6, 3.5),
    "wall": (0.3, 1.2, 6.0),
    "fence": (0.15, 1.3, 6.0),
    "vegetation": (4.0, 5.0, 4.0),
    "pole": (0.25, 5.0, 0.25),
    "lamp": (0.3, 6.0, 0.3),
    "traffic sign": (0.7, 2.6, 0.2),
    "trash bin": (0.6, 1.1, 0.7),
}
"""What can be drawn, with width, height and length in metres; a drawn box keeps the height."""
ROUND = frozenset({"vegetation"})
"""Names that become ellipsoids."""
LEAST_DRAG = 0.4
"""Metres; a shorter drag puts down a thing of usual size."""
MAX_THINGS = 3000
MAX_STYLE = 80
MAX_MESSAGE = 1000
MAX_SIZE = 200.0
EDGE = 30.0
"""Metres that things may lie outside of what the map showed at first."""
DUPLICATE_OFFSET = (0.0, 0.0, 6.0)


@dataclass(eq=False)
class Street:
    """A layout with its past, and what of it the page looks at."""

    history: History
    """Its layout is the present one."""
    key: str
    """Tells this street from others on the same page."""
    selected: str = ""
    """Id of the thing that buttons act on."""
    camera: int = 0
    """Pose of the drive that conditions are shown from."""
    findings: tuple[Finding, ...] = ()
    """Of the present layout."""
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    """Held while the street is changed: two handlers may run at once."""

    @property
    def layout(self) -> Layout:
        """The layout as it is now."""
        return self.history.layout


def open_street(layout: Layout, key: str) -> Street:
    """Return a street to edit.

    Raises:
        InputError: the first error of the layout (`scenes.urban.validate`).
        LimitError: ``viewer.too_many_things``.
    """
    _check_count(layout)
    findings = check_layout(layout)
    for finding in findings:
        if finding.severity == "error":
            raise InputError(finding.code, finding.message, finding.hint)
    return Street(History(layout), key, findings=findings, camera=len(layout.trajectory) // 3)


def change(street: Street, message: str, name: str) -> None:
    """Do what the page asks for.

    Args:
        street: changed in place.
        message: ``{"op": ..., ...}``; op is select, add, move, rotate, remove, duplicate, undo or
            redo.
        name: class of things that are added.

    Raises:
        InputError: ``viewer.bad_edit``, ``viewer.off_the_map``, ``viewer.unknown_choice``,
            ``viewer.nothing_selected``, ``layout.unknown_id``, ``layout.nothing_to_undo``,
            ``layout.nothing_to_redo``, or the error that the layout would have.
        LimitError: ``viewer.too_many_things``.
    """
    request = parsed_edit(message, MAX_MESSAGE)
    with street.lock:
        if request["op"] == "select":
            chosen = str(request.get("id", ""))
            street.selected = street.layout.primitive(chosen).id if chosen else ""
        elif request["op"] in ("undo", "redo"):
            turned = street.history.undo() if request["op"] == "undo" else street.history.redo()
            street.findings = check_layout(street.layout)
            _select(street, turned)
        else:
            _apply(street, _edit(street, request, name))


def restyle(street: Street, style: str) -> None:
    """Give the selected thing other words about its look.

    Raises:
        InputError: ``viewer.nothing_selected``, ``viewer.long_style``.
    """
    if len(style) > MAX_STYLE or not style.isprintable():
        raise InputError(
            "viewer.long_style", f"A style has at most {MAX_STYLE} letters in one line.", "Shorten."
        )
    with street.lock:
        _apply(street, edits.restyle(street.layout, _selected(street, {}), style.strip()))


def resize(street: Street, size: tuple[float, float, float]) -> None:
    """Give the selected thing another width, height and length in metres.

    Raises:
        InputError: ``viewer.nothing_selected``, ``viewer.bad_edit``.
    """
    if not all(math.isfinite(s) and 0.05 <= s <= MAX_SIZE for s in size):
        raise bad_edit("sizes are 0.05 to 200 metres")
    with street.lock:
        id = _selected(street, {})
        before = size_of(street.layout.primitive(id))
        _apply(street, edits.scale(street.layout, id, (np.array(size) / before).tolist()))


def size_of(primitive: Primitive) -> np.ndarray:
    """Return width, height and length of a thing along its own axes, in metres."""
    extent = np.ptp(primitive.vertices, axis=0)
    return extent * np.linalg.norm(primitive.transform[:3, :3], axis=0)


def yaw_of(primitive: Primitive) -> float:
    """Return where a thing's own z axis points in the map, in radians."""
    return float(np.arctan2(primitive.transform[0, 2], primitive.transform[2, 2]))


def ground_at(layout: Layout, x: float, z: float) -> float:
    """Return y of the nearest corner of the ground's upper side."""
    tops = []
    for primitive in layout.primitives:
        if primitive.name in GROUND:
            points = primitive.world_vertices()
            upper = points[: len(points) // 2] if primitive.kind == "slab" else points
            far = np.hypot(upper[:, 0] - x, upper[:, 2] - z)
            tops.append((float(far.min()), float(upper[int(far.argmin()), 1])))
    return min(tops)[1] if tops else 0.0


def _edit(street: Street, request: dict[str, Any], name: str) -> Edit:
    layout, op = street.layout, request["op"]
    if op == "add":
        return _added(layout, request, name)
    id = _selected(street, request)
    if op == "move":
        return edits.move(layout, id, (_number(request, "dx"), 0.0, _number(request, "dz")))
    if op == "rotate":
        return edits.rotate(layout, id, _number(request, "yaw"))
    if op == "duplicate":
        return edits.duplicate(layout, id, DUPLICATE_OFFSET)
    if op == "remove":
        return edits.remove(layout, id)
    raise bad_edit("there is no such change")


def _added(layout: Layout, request: dict[str, Any], name: str) -> Edit:
    if name not in USUAL_SIZES or name not in CLASSES:
        raise unknown_choice("class")
    x, z = _number(request, "x"), _number(request, "z")
    width, length = _number(request, "width"), _number(request, "length")
    size = np.array(USUAL_SIZES[name])
    if max(width, length) >= LEAST_DRAG:
        size[[0, 2]] = np.clip([width, length], 0.1, MAX_SIZE)
    used = {p.id for p in layout.primitives}
    stem = name.replace(" ", "-")
    id = next(n for k in range(1, len(used) + 2) if (n := f"{stem}-new-{k}") not in used)
    make = ellipsoid if name in ROUND else box
    centre = (x, ground_at(layout, x, z) - size[1] / 2, z)
    return edits.add(layout, make(id, name, centre, size))


def _apply(street: Street, edit: Edit) -> None:
    """Make an edit the present state if the layout has no fault it had not before."""
    _check_count(edit.layout)
    low, high = street.layout.bounds()[:, [0, 2]]
    places = edit.boxes[:, :, [0, 2]]
    if (places < low - EDGE).any() or (places > high + EDGE).any():
        raise InputError(
            "viewer.off_the_map", "That is outside of the map.", "Stay within 30 m of the street."
        )
    found = check_layout(edit.layout)
    known = {(f.code, f.ids) for f in street.findings if f.severity == "error"}
    for finding in found:
        if finding.severity == "error" and (finding.code, finding.ids) not in known:
            raise InputError(finding.code, finding.message, finding.hint)
    street.history.apply(edit)
    street.findings = found
    _select(street, edit)


def _select(street: Street, edit: Edit) -> None:
    there = {p.id for p in street.layout.primitives}
    street.selected = next((id for id in edit.touched if id in there), "")


def _selected(street: Street, request: dict[str, Any]) -> str:
    id = str(request.get("id") or street.selected)
    if not id:
        raise InputError(
            "viewer.nothing_selected", "Nothing is selected.", "Click a thing on the map first."
        )
    return street.layout.primitive(id).id


def _check_count(layout: Layout) -> None:
    if len(layout.primitives) > MAX_THINGS:
        raise LimitError(
            "viewer.too_many_things",
            f"The layout has {len(layout.primitives)} things; the page takes {MAX_THINGS}.",
            "Longer streets are built on the command line: `geo3d scene`.",
        )


def _number(request: dict[str, Any], key: str) -> float:
    value = request.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise bad_edit(f"{key} is no number")
    return float(value)
