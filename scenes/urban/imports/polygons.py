"""Polygons, also with holes and in space, become triangles and closed bodies.

Notation: rings are (n, 2) or (n, 3) without the first point again at the end; the first ring is the
outer one.
Source: holes are joined to the outer ring by a bridge, as Eberly, "Triangulation by Ear Clipping",
does.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from geo3d.layout.layout import Primitive
from geo3d.mesh.formats.polygons import clip, cross

_FLAT = 1e-12


def triangulated(rings: Sequence[Float[np.ndarray, "n 2"]]) -> tuple[np.ndarray, np.ndarray]:
    """Return points (p, 2) and faces (f, 3) anticlockwise; no faces for what has no area.

    Args:
        rings: outer ring, then holes; in any sense of turning.
    """
    outer = _turning(_cleaned(rings[0]), 1)
    if len(outer) < 3:
        return outer, np.zeros((0, 3), np.int64)
    holes = [_turning(hole, -1) for ring in rings[1:] if len(hole := _cleaned(ring)) >= 3]
    points = np.concatenate([outer, *holes])
    order = list(range(len(outer)))
    starts = np.cumsum([len(outer), *map(len, holes)])
    numbers = [list(range(a, a + len(h))) for a, h in zip(starts, holes, strict=False)]
    for hole in sorted(numbers, key=lambda ring: -points[ring, 0].max()):
        order = _bridged(points, order, hole)
    return points, _clipped(points, order)


def prism(
    name: str, rings: Sequence[Float[np.ndarray, "n 2"]], low: float, high: float
) -> Primitive | None:
    """Return a body of constant outline in the layout's world; None for what has no area.

    Args:
        rings: x and z.
        low, high: metres above the origin of its underside and its top (up is -y).
    """
    points, faces = triangulated(rings)
    if not len(faces) or high - low <= 0:
        return None
    n = len(points)
    top = np.stack([points[:, 0], np.full(n, -high), points[:, 1]], axis=1)
    bottom = np.stack([points[:, 0], np.full(n, -low), points[:, 1]], axis=1)
    edges = boundary(faces)
    # anticlockwise in (x, z) is so too seen from above, where y points down and z ahead
    walls = np.concatenate(
        [
            np.stack([edges[:, 0], edges[:, 1] + n, edges[:, 1]], axis=1),
            np.stack([edges[:, 0], edges[:, 0] + n, edges[:, 1] + n], axis=1),
        ]
    )
    all_faces = np.concatenate([faces, faces[:, ::-1] + n, walls])
    return Primitive("", name, "mesh", np.eye(4), np.concatenate([top, bottom]), all_faces)


def boundary(faces: Int[np.ndarray, "f 3"]) -> Int[np.ndarray, "e 2"]:
    """Return the directed edges that only one face has."""
    edges = faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    ways = {tuple(edge) for edge in edges.tolist()}
    lone = [edge for edge in edges.tolist() if (edge[1], edge[0]) not in ways]
    return np.array(lone, np.int64).reshape(-1, 2)


def triangulated_in_space(
    rings: Sequence[Float[np.ndarray, "n 3"]],
) -> tuple[np.ndarray, np.ndarray]:
    """Return points (p, 3) and faces of a nearly flat polygon, turning as its outer ring does."""
    outer = np.asarray(rings[0], np.float64)
    normal = np.cross(outer, np.roll(outer, -1, axis=0)).sum(axis=0)
    drop = int(np.argmax(np.abs(normal)))
    kept = [axis for axis in range(3) if axis != drop]
    flat, faces = triangulated([np.asarray(ring, np.float64)[:, kept] for ring in rings])
    corners = np.concatenate([np.asarray(ring, np.float64) for ring in rings])
    table = {tuple(corner[kept]): corner for corner in corners}
    points = np.array([table[tuple(point)] for point in flat]).reshape(-1, 3)
    # projected along an axis a ring turns as its normal points; y among (z, x) is the odd one
    is_same = (normal[drop] > 0) == (drop != 1)
    return points, faces if is_same else faces[:, ::-1]


def area(ring: Float[np.ndarray, "n 2"]) -> float:
    """Return the signed area of a ring, positive for anticlockwise ones."""
    x, y = np.asarray(ring, np.float64).T
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2)


def _cleaned(ring: Float[np.ndarray, "n 2"]) -> np.ndarray:
    ring = np.asarray(ring, np.float64).reshape(-1, 2)
    return ring[(np.abs(ring - np.roll(ring, 1, axis=0)) > 1e-9).any(axis=1)]


def _turning(ring: np.ndarray, sense: int) -> np.ndarray:
    return ring if len(ring) < 3 or area(ring) * sense > 0 else ring[::-1]


def _bridged(points: np.ndarray, order: list[int], hole: list[int]) -> list[int]:
    """Join a hole to the ring at the nearest corner that its rightmost one can see."""
    start = max(range(len(hole)), key=lambda k: points[hole[k], 0])
    place = points[hole[start]]
    far = np.linalg.norm(points[order] - place, axis=1)
    chosen = int(np.argmin(far))
    for k in np.argsort(far, kind="stable"):
        if _sees(points, order, hole, place, points[order[k]]):
            chosen = int(k)
            break
    turned = hole[start:] + hole[:start]
    corner = order[chosen]
    return [*order[: chosen + 1], *turned, turned[0], corner, *order[chosen + 1 :]]


def _sees(
    points: np.ndarray, order: list[int], hole: list[int], a: np.ndarray, b: np.ndarray
) -> bool:
    for ring in (order, hole):
        p, q = points[ring], points[[*ring[1:], ring[0]]]
        sides = cross(b - a, p - a) * cross(b - a, q - a)
        ends = cross(q - p, a - p) * cross(q - p, b - p)
        if ((sides < -_FLAT) & (ends < -_FLAT)).any():
            return False
    return True


def _clipped(points: np.ndarray, order: list[int]) -> np.ndarray:
    ring = np.array(order)
    corners = points[ring]
    before, after = np.roll(corners, 1, axis=0), np.roll(corners, -1, axis=0)
    if len(ring) <= 4 and (cross(corners - before, after - corners) > _FLAT).all():
        # convex, as nearly all walls and roofs of a city are: no search for ears
        faces = np.array([ring[[0, k, k + 1]] for k in range(1, len(ring) - 1)])
    else:
        faces = ring[clip(corners[None])[0][0]]
    a, b, c = (points[faces[:, i]] for i in range(3))
    return faces[cross(b - a, c - a) > _FLAT]
