"""Changes of a layout, and the way back.

Every function leaves its layout alone and returns an `Edit`: the new layout, the ids touched, and
the world boxes where something was or is.  Only the parts of a scene in these boxes need work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from geo3d.errors import InputError
from geo3d.layout.layout import Layout, Primitive, turn
from geo3d.synth.streets.generate import CAMERA_HEIGHT, STEP, generate_street, street_section
from geo3d.synth.streets.path import CLEAR, Start, StreetKind


@dataclass(frozen=True, eq=False)
class Edit:
    """A changed layout and what the change touched."""

    layout: Layout
    touched: tuple[str, ...]
    """Ids of primitives that are new, gone or different."""
    boxes: Float[np.ndarray, "m 2 3"]
    """Least and greatest world coordinates of where they were and are."""


def add(layout: Layout, primitive: Primitive) -> Edit:
    """Add a primitive at the end of the list.

    Raises:
        InputError: ``layout.duplicate_id``.
    """
    if any(p.id == primitive.id for p in layout.primitives):
        raise InputError(
            "layout.duplicate_id",
            f"The layout {layout.name} has a primitive {primitive.id!r} already.",
            "Choose another id, or use duplicate.",
        )
    changed = replace(layout, primitives=(*layout.primitives, primitive))
    return Edit(changed, (primitive.id,), primitive.bounds()[None])


def remove(layout: Layout, id: str) -> Edit:
    """Take a primitive away.

    Raises:
        InputError: ``layout.unknown_id``.
    """
    index = layout.index(id)
    rest = layout.primitives[:index] + layout.primitives[index + 1 :]
    boxes = layout.primitives[index].bounds()[None]
    return Edit(replace(layout, primitives=rest), (id,), boxes)


def move(layout: Layout, id: str, offset: Sequence[float] | np.ndarray) -> Edit:
    """Move a primitive by metres along world x, y, z.

    Raises:
        InputError: ``layout.unknown_id``.
    """
    return _transformed(layout, id, _shift(np.asarray(offset, np.float64)))


def rotate(layout: Layout, id: str, yaw: float) -> Edit:
    """Turn a primitive about the vertical through its middle, z towards x, by radians.

    Raises:
        InputError: ``layout.unknown_id``.
    """
    middle = layout.primitive(id).bounds().mean(axis=0)
    rotation = np.eye(4)
    rotation[:3, :3] = turn(yaw)
    return _transformed(layout, id, _shift(middle) @ rotation @ _shift(-middle))


def scale(layout: Layout, id: str, factors: float | Sequence[float]) -> Edit:
    """Scale a primitive about its middle along its own axes; its underside stays where it is.

    Raises:
        InputError: ``layout.unknown_id``, ``layout.bad_scale`` for a factor that is not positive.
    """
    primitive = layout.primitive(id)
    by = np.broadcast_to(np.asarray(factors, np.float64), (3,))
    if not (np.isfinite(by).all() and (by > 0).all()):
        raise InputError("layout.bad_scale", f"Factors must be positive, not {factors}.", "")
    local = primitive.vertices
    middle = (local.min(axis=0) + local.max(axis=0)) / 2
    stretch = _shift(middle) @ np.diag([*by, 1.0]) @ _shift(-middle)
    changed = replace(primitive, transform=primitive.transform @ stretch)
    lift = primitive.bounds()[1, 1] - changed.bounds()[1, 1]
    stays = replace(changed, transform=_shift(np.array([0, lift, 0])) @ changed.transform)
    return _replaced(layout, id, stays)


def duplicate(
    layout: Layout, id: str, offset: Sequence[float] | np.ndarray, new_id: str = ""
) -> Edit:
    """Add a moved copy of a primitive; its id is the old one with "-2", "-3", ... if not given.

    Raises:
        InputError: ``layout.unknown_id``, ``layout.duplicate_id``.
    """
    source = layout.primitive(id)
    if not new_id:
        used = {p.id for p in layout.primitives}
        new_id = next(n for k in range(2, len(used) + 3) if (n := f"{id}-{k}") not in used)
    transform = _shift(np.asarray(offset, np.float64)) @ source.transform
    return add(layout, replace(source, id=new_id, transform=transform))


def restyle(layout: Layout, id: str, style: str) -> Edit:
    """Give a primitive other words about its look.

    Raises:
        InputError: ``layout.unknown_id``.
    """
    return _replaced(layout, id, replace(layout.primitive(id), style=style))


def extend(layout: Layout, length: float, seed: int = 0, kind: StreetKind = "straight") -> Edit:
    """Continue the street with ``length`` metres of a made-up one, and drive on.

    The new road starts 10 m ahead of the last camera, where streets of `generate_street` end; with
    the seed of such a street it has the same cross-section.

    Raises:
        InputError: ``layout.no_trajectory``.
        ConfigError: ``street.unknown_kind``, ``street.bad_length``.
    """
    if not len(layout.trajectory):
        raise InputError(
            "layout.no_trajectory", f"The layout {layout.name} has no cameras to continue.", ""
        )
    last = layout.trajectory[-1]
    heading = float(np.arctan2(last[0, 2], last[2, 2]))
    right, forward = turn(heading)[:, 0], turn(heading)[:, 2]
    lane = street_section(seed).road / 2
    x, y, z = last[:3, 3] + CLEAR * forward - lane * right
    used = {p.id for p in layout.primitives}
    prefix = next(
        p for k in range(1, len(used) + 2) if not any(i.startswith(p := f"x{k}-") for i in used)
    )
    more = generate_street(
        length,
        seed,
        kind,
        start=Start(float(x), float(y) + CAMERA_HEIGHT, float(z), heading, STEP - CLEAR),
        prefix=prefix,
    )
    changed = replace(
        layout,
        primitives=layout.primitives + more.primitives,
        trajectory=np.concatenate([layout.trajectory, more.trajectory]),
    )
    return Edit(changed, tuple(p.id for p in more.primitives), more.primitive_bounds())


def joined(edits: Sequence[Edit]) -> Edit:
    """Return successive edits as one; there is at least one."""
    touched = dict.fromkeys(id for edit in edits for id in edit.touched)
    boxes = np.concatenate([edit.boxes for edit in edits])
    return Edit(edits[-1].layout, tuple(touched), boxes)


class History:
    """A layout with its past: apply edits, take them back, apply them again."""

    def __init__(self, layout: Layout) -> None:
        self._past: list[tuple[Layout, Edit]] = []
        self._future: list[Edit] = []
        self._layout = layout

    @property
    def layout(self) -> Layout:
        """The layout as it is now."""
        return self._layout

    def apply(self, edit: Edit) -> Edit:
        """Make the edit's layout the present one; what was taken back before is forgotten."""
        self._past.append((self._layout, edit))
        self._future.clear()
        self._layout = edit.layout
        return edit

    def undo(self) -> Edit:
        """Take back the last edit; the answer touches what it touched.

        Raises:
            InputError: ``layout.nothing_to_undo``.
        """
        if not self._past:
            raise InputError("layout.nothing_to_undo", "Nothing was changed yet.", "")
        before, edit = self._past.pop()
        self._future.append(edit)
        self._layout = before
        return replace(edit, layout=before)

    def redo(self) -> Edit:
        """Apply again what was taken back last.

        Raises:
            InputError: ``layout.nothing_to_redo``.
        """
        if not self._future:
            raise InputError("layout.nothing_to_redo", "Nothing was taken back.", "")
        edit = self._future.pop()
        self._past.append((self._layout, edit))
        self._layout = edit.layout
        return edit


def _transformed(layout: Layout, id: str, motion: np.ndarray) -> Edit:
    primitive = layout.primitive(id)
    return _replaced(layout, id, replace(primitive, transform=motion @ primitive.transform))


def _replaced(layout: Layout, id: str, changed: Primitive) -> Edit:
    index = layout.index(id)
    before = layout.primitives[index]
    rest = list(layout.primitives)
    rest[index] = changed
    boxes = np.stack([before.bounds(), changed.bounds()])
    return Edit(replace(layout, primitives=tuple(rest)), (id,), boxes)


def _shift(offset: Float[np.ndarray, " 3"]) -> Float[np.ndarray, "4 4"]:
    matrix = np.eye(4)
    matrix[:3, 3] = offset
    return matrix
