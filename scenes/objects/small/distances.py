"""Signed distance to a union of closed solids at the points of a grid, near the surface only.

Notation: r cells per side, so (r + 1)^3 points k / r - 0.5; distances are in cells, negative
inside.  The sign is the winding number, counted along columns of points: a point in one or more
solids is inside, whatever faces of other solids lie around it, and so is one in a hollow that no
way from outside leads to.  Faces hidden inside must not draw distances near zero: there they are at
least that to the nearest point outside, less one cell.

Source: Ericson, "Real-Time Collision Detection" (2005), 5.1.5, for the nearest point of a triangle.
"""

from __future__ import annotations

from typing import no_type_check

import numpy as np
from jaxtyping import Bool, Float
from numba import njit
from scipy import ndimage

from geo3d.mesh.mesh import Mesh

_SHIFT = (0.00013137, 0.00017931)
"""Columns are moved by this share of a cell, off the edges of aligned boxes."""
_LEAST = 1e-3
"""Points inside are told at least this far inside."""


def signed_distances(mesh: Mesh, resolution: int, reach: float = 2.0) -> Float[np.ndarray, "k k k"]:
    """Return the distance at every point of the grid, in cells, cut off at -reach and reach.

    Args:
        mesh: closed solids with outward faces, inside [-0.5, 0.5]^3.
        resolution: cells per side.
        reach: greatest distance that is told.
    """
    corners = (mesh.vertices.astype(np.float64)[mesh.faces] + 0.5) * resolution
    points = resolution + 1
    turns = np.zeros((points, points, points + 1), np.int32)
    square = np.full((points,) * 3, reach * reach)
    _count_crossings(corners, _SHIFT[0], _SHIFT[1], turns)
    _nearest(corners, reach, square)
    inside = _without_hollows(np.cumsum(turns, axis=2)[:, :, :points] > 0)
    distance = np.sqrt(square)
    deep = np.clip(np.asarray(ndimage.distance_transform_edt(inside)) - 1, _LEAST, reach)
    return np.where(inside, -np.maximum(distance, deep), distance).astype(np.float32)


def _without_hollows(inside: Bool[np.ndarray, "k k k"]) -> Bool[np.ndarray, "k k k"]:
    """Add what cannot be reached from the border of the grid."""
    labels = np.empty(np.add(inside.shape, 2), np.int32)
    ndimage.label(~np.pad(inside, 1), output=labels)
    return (labels != labels[0, 0, 0])[1:-1, 1:-1, 1:-1]


@njit(cache=True)
@no_type_check
def _count_crossings(corners: np.ndarray, sx: float, sy: float, turns: np.ndarray) -> None:
    """Note where columns along z enter (+1) and leave (-1) a solid, at the next point above."""
    side = turns.shape[0]
    for f in range(corners.shape[0]):
        ax, ay, az = corners[f, 0]
        bx, by, bz = corners[f, 1]
        cx, cy, cz = corners[f, 2]
        area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        if area == 0.0:
            continue
        x0 = max(0, int(np.ceil(min(ax, bx, cx) - sx)))
        x1 = min(side - 1, int(np.floor(max(ax, bx, cx) - sx)))
        y0 = max(0, int(np.ceil(min(ay, by, cy) - sy)))
        y1 = min(side - 1, int(np.floor(max(ay, by, cy) - sy)))
        for i in range(x0, x1 + 1):
            for j in range(y0, y1 + 1):
                x, y = i + sx, j + sy
                u = ((bx - x) * (cy - y) - (by - y) * (cx - x)) / area
                v = ((cx - x) * (ay - y) - (cy - y) * (ax - x)) / area
                w = 1.0 - u - v
                if u < 0.0 or v < 0.0 or w < 0.0:
                    continue
                k = min(max(int(np.ceil(u * az + v * bz + w * cz)), 0), side)
                # a face that looks up is where the column leaves
                turns[i, j, k] += -1 if area > 0.0 else 1


@njit(cache=True)
@no_type_check
def _nearest(corners: np.ndarray, reach: float, square: np.ndarray) -> None:
    """Lower the squared distance of the points within ``reach`` of each triangle."""
    side = square.shape[0]
    low, high = np.empty(3, np.int64), np.empty(3, np.int64)
    for f in range(corners.shape[0]):
        a, b, c = corners[f, 0], corners[f, 1], corners[f, 2]
        normal = np.cross(b - a, c - a)
        length = np.sqrt((normal * normal).sum())
        if length == 0.0:
            continue
        unit = normal / length
        level = (unit * a).sum()
        for i in range(3):
            low[i] = max(0, int(np.ceil(min(a[i], b[i], c[i]) - reach)))
            high[i] = min(side - 1, int(np.floor(max(a[i], b[i], c[i]) + reach)))
        for x in range(low[0], high[0] + 1):
            for y in range(low[1], high[1] + 1):
                for z in range(low[2], high[2] + 1):
                    away = unit[0] * x + unit[1] * y + unit[2] * z - level
                    if away * away < square[x, y, z]:
                        found = _square_distance(x, y, z, a, b, c)
                        if found < square[x, y, z]:
                            square[x, y, z] = found


@njit(cache=True)
@no_type_check
def _square_distance(
    x: float, y: float, z: float, a: np.ndarray, b: np.ndarray, c: np.ndarray
) -> float:
    """Return the squared distance of (x, y, z) to the triangle a b c."""
    abx, aby, abz = b[0] - a[0], b[1] - a[1], b[2] - a[2]
    acx, acy, acz = c[0] - a[0], c[1] - a[1], c[2] - a[2]
    px, py, pz = x - a[0], y - a[1], z - a[2]
    d1 = abx * px + aby * py + abz * pz
    d2 = acx * px + acy * py + acz * pz
    if d1 <= 0.0 and d2 <= 0.0:
        return px * px + py * py + pz * pz
    bb = abx * abx + aby * aby + abz * abz
    bc = abx * acx + aby * acy + abz * acz
    cc = acx * acx + acy * acy + acz * acz
    d3, d4 = d1 - bb, d2 - bc
    s, t = 0.0, 0.0
    d5, d6 = d1 - bc, d2 - cc
    va, vb, vc = d3 * d6 - d5 * d4, d5 * d2 - d1 * d6, d1 * d4 - d3 * d2
    if d3 >= 0.0 and d4 <= d3:
        s, t = 1.0, 0.0
    elif vc <= 0.0 and d1 >= 0.0 and d3 <= 0.0:
        s, t = d1 / (d1 - d3), 0.0
    elif d6 >= 0.0 and d5 <= d6:
        s, t = 0.0, 1.0
    elif vb <= 0.0 and d2 >= 0.0 and d6 <= 0.0:
        s, t = 0.0, d2 / (d2 - d6)
    elif va <= 0.0 and d4 - d3 >= 0.0 and d5 - d6 >= 0.0:
        t = (d4 - d3) / ((d4 - d3) + (d5 - d6))
        s = 1.0 - t
    else:
        whole = va + vb + vc
        s, t = vb / whole, vc / whole
    qx, qy, qz = px - s * abx - t * acx, py - s * aby - t * acy, pz - s * abz - t * acz
    return qx * qx + qy * qy + qz * qz
