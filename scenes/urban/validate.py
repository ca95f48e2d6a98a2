"""What is wrong with a layout, by name.

Errors make a layout unusable; warnings tell what will look odd.  Footprints are the convex outlines
of primitives in the plan (x, z); y points down, so a thing's top is its least y.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

from geo3d.errors import InputError
from geo3d.layout.classes import CLASSES, GROUND
from geo3d.layout.layout import Layout, Primitive
from scenes.urban.plan import outline

OVERLAP = 0.3
"""Metres that solid things may stick into each other."""
GROUND_BELOW = 6.0
"""Metres below a camera within which there should be ground."""
SOLID = frozenset({"building", "garage", "car", "truck", "bus", "van", "person", "trash bin"})
"""Names of things that should not stick into each other."""
_CAMERA_SHUNS = SOLID - {"person", "trash bin"}
_SHOWN = 5


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong."""

    code: str
    """Such as ``layout.overlap``; explained in docs/errors.md."""
    severity: Literal["error", "warning"]
    message: str
    ids: tuple[str, ...] = ()
    """The primitives concerned."""
    hint: str = ""


def check_layout(layout: Layout) -> tuple[Finding, ...]:
    """Return everything that is wrong with a layout; never raises for a fault of the layout.

    Errors: ``layout.empty``, ``layout.no_trajectory``, ``layout.duplicate_id``,
    ``layout.unknown_class``, ``layout.non_finite``, ``layout.bad_faces``,
    ``layout.degenerate_transform``, ``layout.bad_camera``, ``layout.no_ground``,
    ``layout.camera_inside``.  Warnings: ``layout.overlap``, ``layout.camera_off_ground``.
    """
    findings = list(_check_parts(layout))
    if not any(f.severity == "error" for f in findings):
        findings += _check_cameras(layout)
        findings += _check_overlaps(layout)
    return tuple(findings)


def require_valid(layout: Layout) -> tuple[Finding, ...]:
    """Raise the first error of a layout; return its warnings.

    Raises:
        InputError: the code of the finding.
    """
    findings = check_layout(layout)
    for finding in findings:
        if finding.severity == "error":
            raise InputError(finding.code, finding.message, finding.hint)
    return findings


def _check_parts(layout: Layout) -> Iterator[Finding]:
    """Look at primitives and cameras one by one."""
    parts = layout.primitives
    if not parts:
        yield Finding("layout.empty", "error", f"The layout {layout.name} has no primitives.")
        return
    counts = Counter(p.id for p in parts)
    repeated = [id for id, count in counts.items() if count > 1]
    yield from _named("layout.duplicate_id", "Ids are used more than once", repeated)
    for name in sorted({p.name for p in parts} - set(CLASSES)):
        near = difflib.get_close_matches(name, CLASSES, 1)
        ids = tuple(p.id for p in parts if p.name == name)
        hint = f"Did you mean {near[0]}?" if near else "See geo3d.layout.classes for the names."
        yield Finding(
            "layout.unknown_class", "error", f"There is no class {name!r} ({ids[0]}).", ids, hint
        )
    broken = {
        p.id
        for p in parts
        if not (np.isfinite(p.vertices).all() and np.isfinite(p.transform).all())
    }
    yield from _named(
        "layout.non_finite", "Coordinates are not finite", [p.id for p in parts if p.id in broken]
    )
    yield from _named(
        "layout.bad_faces",
        "Faces name vertices that do not exist, or there are none",
        [p.id for p in parts if not _has_good_faces(p)],
    )
    yield from _named(
        "layout.degenerate_transform",
        "A transform flattens its primitive, or its last row is not 0 0 0 1",
        [p.id for p in parts if p.id not in broken and _is_degenerate(p.transform)],
    )
    yield from _check_poses(layout)


def _check_poses(layout: Layout) -> Iterator[Finding]:
    poses = layout.trajectory
    if not len(poses):
        yield Finding("layout.no_trajectory", "error", f"The layout {layout.name} has no cameras.")
        return
    turned = poses[:, :3, :3]
    with np.errstate(invalid="ignore"):
        rigid = np.abs(turned @ turned.transpose(0, 2, 1) - np.eye(3)).max(axis=(1, 2)) < 1e-5
    rigid &= np.isfinite(poses).all(axis=(1, 2)) & (np.linalg.det(turned) > 0)
    if not rigid.all():
        first = int(np.argmin(rigid))
        message = f"{int((~rigid).sum())} cameras are not rotations, the first is {first}."
        hint = "Cameras are 4 x 4 camera-to-world matrices: x right, y down, z forward."
        yield Finding("layout.bad_camera", "error", message, (), hint)


def _check_cameras(layout: Layout) -> Iterator[Finding]:
    """Look for ground below the cameras, and for cameras inside of things."""
    if not any(p.name in GROUND for p in layout.primitives):
        yield Finding(
            "layout.no_ground",
            "error",
            f"The layout {layout.name} has no ground.",
            (),
            f"Add a slab of one of {', '.join(sorted(GROUND))}.",
        )
        return
    places = layout.trajectory[:, :3, 3]
    stands = cameras_on_ground(layout)
    for primitive, (low, high) in zip(layout.primitives, layout.primitive_bounds(), strict=True):
        if primitive.name in _CAMERA_SHUNS:
            held = np.flatnonzero(((places >= low) & (places <= high)).all(axis=1))
            inside = [i for i in held if len(depths_below(primitive, places[i])) % 2]
            if inside:
                message = f"Camera {inside[0]} is inside {primitive.id} ({primitive.name})."
                ids = (primitive.id,)
                yield Finding(
                    "layout.camera_inside", "error", message, ids, "Move it or shorten the drive."
                )
    if not stands.all():
        message = f"{int((~stands).sum())} cameras have no ground within {GROUND_BELOW:g} m below."
        yield Finding("layout.camera_off_ground", "warning", message)


def cameras_on_ground(layout: Layout) -> Bool[np.ndarray, " n"]:
    """Return which cameras have ground within `GROUND_BELOW` metres below them."""
    places = layout.trajectory[:, :3, 3]
    stands = np.zeros(len(places), bool)
    for primitive, (low, high) in zip(layout.primitives, layout.primitive_bounds(), strict=True):
        if primitive.name in GROUND:
            over = ((places >= low) & (places <= high))[:, [0, 2]].all(axis=1) & ~stands
            over &= (places[:, 1] <= high[1]) & (places[:, 1] > low[1] - GROUND_BELOW)
            for i in np.flatnonzero(over):
                stands[i] = len(depths_below(primitive, places[i])) > 0
    return stands


def require_drivable(before: Layout, after: Layout) -> None:
    """Raise when a change takes the ground from under the drive.

    Raises:
        InputError: ``layout.drive_without_ground``.
    """
    if len(before.trajectory) > len(after.trajectory):
        return
    stood = cameras_on_ground(before)
    lost = stood & ~cameras_on_ground(after)[: len(stood)]
    if lost.any():
        raise InputError(
            "layout.drive_without_ground",
            f"The change takes the ground from under {int(lost.sum())} of {len(stood)} cameras.",
            "The drive needs its road: change another thing, or add ground first.",
        )


def depths_below(primitive: Primitive, place: Float[np.ndarray, " 3"]) -> np.ndarray:
    """Return how far below a point the primitive's surfaces are, in metres."""
    corners = primitive.world_vertices()[primitive.faces] - place
    flat = corners[:, :, [0, 2]]
    # signed areas of the triangles that the vertical line makes with each side
    areas = np.stack(
        [
            flat[:, a, 0] * flat[:, b, 1] - flat[:, a, 1] * flat[:, b, 0]
            for a, b in ((1, 2), (2, 0), (0, 1))
        ],
        axis=1,
    )
    total = areas.sum(axis=1)
    hit = (total != 0) & ((areas >= 0).all(axis=1) | (areas <= 0).all(axis=1))
    depths = (areas[hit] * corners[hit, :, 1]).sum(axis=1) / total[hit]
    # a line through an edge meets both of its triangles
    return np.unique(np.round(depths[depths > 0], 9))


def _check_overlaps(layout: Layout) -> Iterator[Finding]:
    solid = [p for p in layout.primitives if p.name in SOLID]
    outlines = [outline(p) for p in solid]
    for i, j in _touching_pairs(np.array([p.bounds() for p in solid]).reshape(-1, 2, 3)):
        depth = penetration(outlines[i], outlines[j])
        if depth > OVERLAP:
            pair = (solid[i].id, solid[j].id)
            message = f"{pair[0]} and {pair[1]} stick {depth:.2f} m into each other."
            yield Finding("layout.overlap", "warning", message, pair, "Move one of them.")


def _touching_pairs(boxes: Float[np.ndarray, "n 2 3"]) -> Iterator[tuple[int, int]]:
    """Yield the pairs of boxes that share more than `OVERLAP` metres along every axis."""
    if len(boxes) < 2:
        return
    axis = int(np.argmax(boxes[:, 1].max(axis=0) - boxes[:, 0].min(axis=0)))
    order = np.argsort(boxes[:, 0, axis], kind="stable")
    starts = boxes[order, 0, axis]
    for k, i in enumerate(order):
        end = int(np.searchsorted(starts, boxes[i, 1, axis] - OVERLAP))
        others = order[k + 1 : max(end, k + 1)]
        shared = np.minimum(boxes[others, 1], boxes[i, 1]) - np.maximum(
            boxes[others, 0], boxes[i, 0]
        )
        for j in others[(shared > OVERLAP).all(axis=1)]:
            yield (int(min(i, j)), int(max(i, j)))


def penetration(a: Float[np.ndarray, "n 2"], b: Float[np.ndarray, "m 2"]) -> float:
    """Return by how much one convex polygon must move to leave the other; 0 if they are apart."""
    least = np.inf
    for polygon in (a, b):
        for p, q in pairwise([*polygon, polygon[0]]):
            length = float(np.hypot(*(q - p)))
            if length < 1e-9:
                continue
            normal = np.array([q[1] - p[1], p[0] - q[0]]) / length
            ours, theirs = a @ normal, b @ normal
            least = min(least, ours.max() - theirs.min(), theirs.max() - ours.min())
    return max(0.0, float(least))


def _has_good_faces(primitive: Primitive) -> bool:
    faces = primitive.faces
    return bool(len(faces) and faces.min() >= 0 and faces.max() < len(primitive.vertices))


def _is_degenerate(transform: Float[np.ndarray, "4 4"]) -> bool:
    volume = abs(float(np.linalg.det(transform[:3, :3])))
    return volume < 1e-9 or not np.array_equal(transform[3], [0, 0, 0, 1])


def _named(code: str, what: str, ids: Sequence[str]) -> Iterator[Finding]:
    if ids:
        shown = ", ".join(ids[:_SHOWN]) + (", ..." if len(ids) > _SHOWN else "")
        yield Finding(code, "error", f"{what}: {shown}.", tuple(ids))
