"""Polygons with any number of corners, split into triangles.

Convex polygons, and those that a fan around their first corner fills, become that fan.  The others
are clipped: a corner is an ear when the triangle that it spans with its neighbours turns with the
polygon and holds no other corner; the best shaped ear is cut off until a triangle is left.  All
polygons of one size are clipped side by side, in the plane of their (Newell) normal.

Notation: p polygons of n corners, i indices of all corners one after the other.

Source: Meisters, "Polygons have ears" (1975); Newell's normal, Sutherland et al. (1974).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int

from geo3d.mesh.ops import rows_in_range, rows_with_repeats

MOST_CORNERS = 10_000
"""Polygons with more corners become fans: clipping takes the square of their number."""
BLOCK = 4_000_000
"""Corners of a side-by-side batch, times corners of a polygon."""
FLAT = 1e-12
"""Twice the area of a triangle, over that of the polygon, that counts as none."""


def triangulated(
    vertices: Float[np.ndarray, "v 3"],
    corners: Int[np.ndarray, " i"],
    counts: Int[np.ndarray, " m"],
) -> tuple[Int[np.ndarray, "f 3"], int]:
    """Split polygons into triangles, in their order; shorter than 3 gives none.

    Returns:
        The triangles, n - 2 of a polygon of n corners, and the number of polygons whose triangles
        overlap: those that cross themselves, and concave ones of over 10,000 corners.
    """
    faces = fan(corners, counts)
    concave = np.flatnonzero(counts > 3)
    if not len(concave):
        return faces, 0
    first = np.cumsum(counts) - counts
    triangles = np.maximum(counts - 2, 0)
    first_face = np.cumsum(triangles) - triangles
    concave, normals = _not_fans(vertices, faces, counts, triangles)
    overlapping = int((counts[concave] > MOST_CORNERS).sum())
    for n in np.unique(counts[concave]):
        same = np.flatnonzero((counts[concave] == n) & (n <= MOST_CORNERS))
        for at in range(0, len(same), step := max(1, BLOCK // int(n) ** 2)):
            chosen = same[at : at + step]
            ids = concave[chosen]
            rows = corners[first[ids][:, None] + np.arange(n)].astype(np.int64)
            clipped, overlap = clip(_flattened(vertices[rows], normals[chosen]))
            places = first_face[ids][:, None] + np.arange(n - 2)
            faces[places] = np.take_along_axis(rows[:, None], clipped, axis=2)
            overlapping += int(overlap.sum())
    return faces, overlapping


def fan(corners: Int[np.ndarray, " i"], counts: Int[np.ndarray, " p"]) -> Int[np.ndarray, "f 3"]:
    """Split polygons into triangles around their first corner; shorter than 3 gives none."""
    corners = corners.astype(np.int64, copy=False)
    if len(counts) and (counts == 3).all():
        return corners.reshape(-1, 3)
    counts = counts.astype(np.int64, copy=False)
    starts = np.cumsum(counts) - counts
    triangles = np.maximum(counts - 2, 0)
    first = np.repeat(starts, triangles)
    step = np.arange(len(first)) - np.repeat(np.cumsum(triangles) - triangles, triangles)
    return corners[np.stack([first, first + step + 1, first + step + 2], axis=1)]


def unrolled_strips(
    corners: Int[np.ndarray, " i"], counts: Int[np.ndarray, " m"]
) -> Int[np.ndarray, "f 3"]:
    """Return the triangles of strips: every second one is turned, so that all look the same way.

    A corner -1 ends a strip and begins the next.  Triangles that name a vertex twice, which join
    strips, are left out.
    """
    ends = np.zeros(len(corners) + 1, bool)
    ends[np.cumsum(counts)] = True
    row = np.arange(len(corners))
    starts = np.where(ends[:-1] | (row == 0), row, 0)
    stops = np.flatnonzero(corners < 0)
    starts[stops[stops + 1 < len(corners)] + 1] = stops[stops + 1 < len(corners)] + 1
    place = row - np.maximum.accumulate(starts)
    last = np.flatnonzero((place >= 2) & (corners >= 0))
    triangles = np.stack([corners[last - 2], corners[last - 1], corners[last]], axis=1)
    odd = place[last] % 2 == 1
    triangles[odd] = triangles[odd][:, [1, 0, 2]]
    return triangles[~rows_with_repeats(triangles)].astype(np.int64)


def _not_fans(
    vertices: np.ndarray, faces: np.ndarray, counts: np.ndarray, triangles: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the polygons whose fan has a triangle turned over, and their normals.

    Polygons with a corner that does not exist or is not finite, and those without area, stay fans.
    """
    valid = rows_in_range(faces, len(vertices))
    if not valid.any():
        return np.zeros(0, np.int64), np.zeros((0, 3))
    with np.errstate(all="ignore"):
        a, b, c = np.moveaxis(vertices[np.where(valid[:, None], faces, 0)].astype(np.float64), 1, 0)
        cross = np.cross(b - a, c - a)
        cross[~valid] = np.nan
        polygon = np.repeat(np.arange(len(counts)), triangles)
        sums = [np.bincount(polygon, column, len(counts)) for column in cross.T]
        normals = np.stack(sums, axis=1)
        along = np.einsum("fi,fi->f", cross, normals[polygon])
        limit = -1e-9 * np.square(normals).sum(axis=1)
    bad = np.bincount(polygon, along < limit[polygon], len(counts)) > 0
    chosen = np.flatnonzero(bad & np.isfinite(normals).all(axis=1) & (limit < 0))
    return chosen, normals[chosen]


def _flattened(
    points: Float[np.ndarray, "p n 3"], normals: Float[np.ndarray, "p 3"]
) -> Float[np.ndarray, "p n 2"]:
    """Return coordinates in the plane of each polygon, about 1 in size, counter-clockwise."""
    points = points.astype(np.float64)
    points = points - points.mean(axis=1, keepdims=True)
    unit = normals / np.linalg.norm(normals, axis=1, keepdims=True)
    helper = np.eye(3)[np.abs(unit).argmin(axis=1)]
    along_x = np.cross(helper, unit)
    along_x /= np.linalg.norm(along_x, axis=1, keepdims=True)
    axes = np.stack([along_x, np.cross(unit, along_x)], axis=2)
    flat = points @ axes
    return flat / np.abs(flat).max(axis=(1, 2), keepdims=True)


BLOCKED, GONE = -2.0, -np.inf
"""Worth of ears that hold a corner, and of corners that are cut off."""


def clip(
    points: Float[np.ndarray, "p n 2"],
) -> tuple[Int[np.ndarray, "p t 3"], Bool[np.ndarray, " p"]]:
    """Clip the ears of p counter-clockwise polygons; t = n - 2 triangles of corner numbers each.

    Returns:
        The triangles, and whether they overlap: a polygon that crosses itself may have no ear left,
        and a corner is cut off all the same.
    """
    p, n, _ = points.shape
    every = np.arange(p)
    before, after = (np.tile((np.arange(n) + shift) % n, (p, 1)) for shift in (-1, 1))
    worth = _shapes(np.roll(points, 1, axis=1), points, np.roll(points, -1, axis=1))
    _judge_all(points, worth, before, after, every)
    triangles = np.empty((p, n - 2, 3), np.int64)
    for step in range(n - 2):
        stuck = np.flatnonzero(worth.max(axis=1) < 0)
        if len(stuck):
            # cuts elsewhere may have freed some
            _judge_all(points, worth, before, after, stuck)
        here = worth.argmax(axis=1)
        left, right = before[every, here], after[every, here]
        triangles[:, step] = np.stack([left, here, right], axis=1)
        worth[every, here] = GONE
        after[every, left], before[every, right] = right, left
        for end in (left, right):
            _judge(points, worth, before, after, every, end)
    return triangles, _overlap(points, triangles)


def _overlap(points: np.ndarray, triangles: np.ndarray) -> Bool[np.ndarray, " p"]:
    """Return whether the triangles cover more than the polygon."""
    a, b, c = (points[np.arange(len(points))[:, None], triangles[:, :, i]] for i in range(3))
    areas = cross(b - a, c - a)
    return np.abs(areas).sum(axis=1) > (1 + 1e-6) * np.abs(areas.sum(axis=1))


def _judge_all(
    points: np.ndarray, worth: np.ndarray, before: np.ndarray, after: np.ndarray, ids: np.ndarray
) -> None:
    """Judge all corners of these polygons."""
    for i in range(points.shape[1]):
        rows = ids[worth[ids, i] > GONE]
        _judge(points, worth, before, after, rows, np.full(len(rows), i))


def _judge(
    points: np.ndarray,
    worth: np.ndarray,
    before: np.ndarray,
    after: np.ndarray,
    rows: np.ndarray,
    here: np.ndarray,
) -> None:
    """Write what the corner ``here`` of each of these polygons is worth.

    Only a corner that does not turn with the polygon can be the first one inside an ear.  Corners
    at the same place as one of the ear's do not count, so that polygons may touch themselves.
    """
    a, b, c = points[rows, before[rows, here]], points[rows, here], points[rows, after[rows, here]]
    worth[rows, here] = _shapes(a, b, c)
    blunt = (worth[rows] <= 0) & (worth[rows] > BLOCKED)
    columns = np.flatnonzero(blunt.any(axis=0))
    others = points[rows][:, columns]
    inside = blunt[:, columns]
    for p, q in ((a, b), (b, c), (c, a)):
        inside = inside & (cross((q - p)[:, None], others - p[:, None]) >= 0)
    for corner in (a, b, c):
        inside = inside & (others != corner[:, None]).any(axis=2)
    blocked = (worth[rows, here] > 0) & inside.any(axis=1)
    worth[rows[blocked], here[blocked]] = BLOCKED


def _shapes(
    a: Float[np.ndarray, "*n 2"], b: Float[np.ndarray, "*n 2"], c: Float[np.ndarray, "*n 2"]
) -> Float[np.ndarray, "*n"]:
    """Return what the corners b between a and c would be worth as ears.

    That is the altitude over the longest side, 0 to 1, for those that turn with the polygon; 0 for
    straight ones, negative for others, and 2 for spikes without width, which go first.
    """
    area = cross(b - a, c - a)
    longest = np.max([np.square(side).sum(axis=-1) for side in (b - a, c - b, a - c)], axis=0)
    shape = area / np.where(longest > 0, longest, 1.0)
    spike = np.zeros(area.shape, bool)
    for p, q in ((a, b), (b, c), (c, a)):
        spike |= (p == q).all(axis=-1)
    return np.where(spike, 2.0, np.where(np.abs(area) <= FLAT, 0.0, shape))


def cross(
    first: Float[np.ndarray, "*#n 2"], second: Float[np.ndarray, "*#n 2"]
) -> Float[np.ndarray, ...]:
    """Return the cross products of vectors in the plane: positive where the second is to the left
    of the first."""
    return first[..., 0] * second[..., 1] - first[..., 1] * second[..., 0]
