"""The frame of a primitive: which way it is long, wide and high, and by how many metres.

Notation: frame coordinates (l, h, w): l in [-1/2, 1/2] along the longer level side, forwards; h in
[0, 1] from the underside to the upper side; w in [-1/2, 1/2] along the shorter level side.  World
as in `geo3d.layout.layout`, y down.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from geo3d.layout.layout import Primitive

_UP = np.array([0.0, -1.0, 0.0])


@dataclass(frozen=True, eq=False)
class Frame:
    """Where a primitive's own coordinates lie in the world."""

    to_world: Float[np.ndarray, "4 4"]
    """From (l, h, w, 1)."""
    size: Float[np.ndarray, " 3"]
    """Metres along l, h, w."""


def frame_of(primitive: Primitive) -> Frame:
    """Return the frame of a primitive: the sides of a box, the axes of an ellipsoid, and of
    anything else those of its transform."""
    points = primitive.world_vertices()
    if primitive.kind == "ellipsoid":
        return _ball_frame(np.unique(points.round(6), axis=0))
    sides = _box_sides(primitive, points) if len(points) == 8 else None
    if sides is None:
        columns = primitive.transform[:3, :3].T
        lengths = np.linalg.norm(columns, axis=1, keepdims=True)
        sides = columns / np.maximum(lengths, 1e-12)
    up_at = int(np.argmax(np.abs(sides @ _UP)))
    up = sides[up_at] * (1.0 if sides[up_at] @ _UP >= 0 else -1.0)
    level = np.delete(sides, up_at, axis=0)
    extent = np.ptp(points @ level.T, axis=0)
    along, across = level[np.argsort(-extent, kind="stable")]
    axes = np.stack([along, up, across])
    spans = points @ axes.T
    low, high = spans.min(axis=0), spans.max(axis=0)
    size = np.maximum(high - low, 1e-6)
    origin = np.array([(low[0] + high[0]) / 2, low[1], (low[2] + high[2]) / 2])
    matrix = np.eye(4)
    matrix[:3, :3] = axes.T * size
    matrix[:3, 3] = np.linalg.solve(axes, origin)
    return Frame(matrix, size)


def _ball_frame(points: Float[np.ndarray, "v 3"]) -> Frame:
    """Return the frame of an ellipsoid from its vertices: they are spread as evenly as on a ball,
    so that the variance along an axis is a third of the square of its half."""
    middle = points.mean(axis=0)
    squares, axes = np.linalg.eigh((points - middle).T @ (points - middle) / len(points))
    size = 2 * np.sqrt(3 * np.maximum(squares, 1e-12))
    order = np.roll(np.argsort(np.abs(axes[1]), kind="stable"), 1)[[1, 0, 2]]
    matrix = np.eye(4)
    matrix[:3, :3] = axes[:, order] * size[order]
    matrix[:3, 3] = middle - matrix[:3, 1] / 2
    return Frame(matrix, size[order])


def _box_sides(
    primitive: Primitive, points: Float[np.ndarray, "8 3"]
) -> Float[np.ndarray, "3 3"] | None:
    """Return the unit directions of the sides of a box; None where corners are not right angles.

    Static boxes of published samples are stored in world coordinates: their transform does not
    tell which way they stand.
    """
    corners = points[primitive.faces]
    edges = (np.roll(corners, -1, axis=1) - corners).reshape(-1, 3, 3)
    lengths = np.linalg.norm(edges, axis=2)
    if not (lengths > 0).all():
        return None
    # of every triangle the two shorter edges are sides, the longest is a diagonal
    shorter = np.argsort(lengths, axis=1)[:, :2]
    kept = np.take_along_axis(edges, shorter[..., None], axis=1).reshape(-1, 3)
    kept /= np.linalg.norm(kept, axis=1, keepdims=True)
    found = [kept[0]]
    for direction in kept[1:]:
        if all(abs(direction @ other) < 0.05 for other in found):
            found.append(direction)
        if len(found) == 3:
            break
    if len(found) < 3:
        return None
    # the sign of the transform says which end of a vehicle is the front
    columns = primitive.transform[:3, :3].T
    sides = np.array(found)
    towards = columns[np.argmax(np.abs(sides @ columns.T), axis=1)]
    return sides * np.where(np.einsum("ij,ij->i", sides, towards) < 0, -1.0, 1.0)[:, None]
