"""Every surface that the rays of a camera meet, by rasterising triangles on the CPU (numba).

A vertex is kept in homogeneous pixel coordinates p = K R^T (v - o) = (column z, row z, z).  The ray
of a pixel is d = (column, row, 1), so its parameter is the depth z.  A triangle (a, b, c) has the
edge normals e0 = b x c, e1 = c x a, e2 = a x b, turned so that a . e0 > 0; the ray meets it in
front of the camera where all d . e >= 0, at 1 / z = d . (e0 + e1 + e2) / (a . e0) (Olano and Greer,
"Triangle scan conversion using 2D homogeneous coordinates", 1997).  Nothing is clipped: the plane
z = `NEAR` only bounds the pixels that are tried.

Two triangles compute their common edge with exactly opposite signs, and a ray through the edge
belongs to one of them, so a closed surface is entered as often as it is left.  Where surfaces
coincide, the earlier primitive wins.

Kernels release the interpreter lock and work on rows [top, bottom), so threads share an image.
"""

from __future__ import annotations

from typing import no_type_check

import numpy as np
from numba import njit

Array = np.ndarray

NEAR = 1e-3
"""Metres."""
SAME = 1e-9
"""Relative difference of 1 / z below which two surfaces coincide in the first-hit map."""

TOUCHING = 1e-6
"""Relative gap below which two intervals of a ray are one."""


@njit(cache=True, nogil=True)
@no_type_check
def project(
    vertices: Array,
    ranges: Array,
    rotation: Array,
    position: Array,
    intrinsics: tuple[float, float, float, float],
    out: Array,
) -> None:
    """Write homogeneous pixel coordinates (v, 3) of the world vertices in ``ranges`` (n, 2)."""
    fx, fy, cx, cy = intrinsics
    for k in range(len(ranges)):
        for i in range(ranges[k, 0], ranges[k, 1]):
            x = vertices[i, 0] - position[0]
            y = vertices[i, 1] - position[1]
            z = vertices[i, 2] - position[2]
            across = rotation[0, 0] * x + rotation[1, 0] * y + rotation[2, 0] * z
            down = rotation[0, 1] * x + rotation[1, 1] * y + rotation[2, 1] * z
            depth = rotation[0, 2] * x + rotation[1, 2] * y + rotation[2, 2] * z
            out[i, 0] = fx * across + cx * depth
            out[i, 1] = fy * down + cy * depth
            out[i, 2] = depth


@njit(cache=True, nogil=True)
@no_type_check
def set_up(
    points: Array,
    faces: Array,
    ranges: Array,
    size: tuple[int, int],
    planes: Array,
    box: Array,
    owner: Array,
) -> int:
    """Find the triangles that may be seen.

    Args:
        points: homogeneous pixel coordinates.
        faces: corners of all triangles.
        ranges: (n, 3) first face, last face + 1 and index of the primitives to look at.
        size: width and height of the image.
        planes: receives e0, e1, e2 and (e0 + e1 + e2) / (a . e0) of each triangle (f, 12).
        box: receives the pixels to try: left, right, top, bottom, ends included (f, 4).
        owner: receives the primitive's index (f,).

    Returns:
        How many triangles were written.
    """
    width, height = size
    count = 0
    e = np.empty((3, 3))
    for n in range(len(ranges)):
        for f in range(ranges[n, 0], ranges[n, 1]):
            left, right, top, bottom = np.inf, -np.inf, np.inf, -np.inf
            for k in range(3):
                p, q = points[faces[f, k]], points[faces[f, (k + 1) % 3]]
                if p[2] >= NEAR:
                    x, y = p[0] / p[2], p[1] / p[2]
                    left, right = min(left, x), max(right, x)
                    top, bottom = min(top, y), max(bottom, y)
                if (p[2] < NEAR) != (q[2] < NEAR):
                    s = (NEAR - p[2]) / (q[2] - p[2])
                    x = (p[0] + s * (q[0] - p[0])) / NEAR
                    y = (p[1] + s * (q[1] - p[1])) / NEAR
                    left, right = min(left, x), max(right, x)
                    top, bottom = min(top, y), max(bottom, y)
            if not (left < width and right > 0 and top < height and bottom > 0):
                continue
            for k in range(3):
                p, q = points[faces[f, (k + 1) % 3]], points[faces[f, (k + 2) % 3]]
                e[k, 0] = p[1] * q[2] - p[2] * q[1]
                e[k, 1] = p[2] * q[0] - p[0] * q[2]
                e[k, 2] = p[0] * q[1] - p[1] * q[0]
            a = points[faces[f, 0]]
            volume = a[0] * e[0, 0] + a[1] * e[0, 1] + a[2] * e[0, 2]
            if volume == 0:
                continue
            sign = 1.0 if volume > 0 else -1.0
            for k in range(3):
                planes[count, k] = sign * e[0, k]
                planes[count, 3 + k] = sign * e[1, k]
                planes[count, 6 + k] = sign * e[2, k]
                planes[count, 9 + k] = (e[0, k] + e[1, k] + e[2, k]) / volume
            box[count, 0] = int(max(np.floor(left - 0.5), 0.0))
            box[count, 1] = int(min(np.ceil(right - 0.5), width - 1.0))
            box[count, 2] = int(max(np.floor(top - 0.5), 0.0))
            box[count, 3] = int(min(np.ceil(bottom - 0.5), height - 1.0))
            owner[count] = ranges[n, 2]
            count += 1
    return count


@njit(cache=True, nogil=True)
@no_type_check
def _inside(plane: Array, x: float, y: float) -> bool:
    """Return whether the ray (x, y, 1) meets the triangle."""
    for k in range(0, 9, 3):
        a, b, c = plane[k], plane[k + 1], plane[k + 2]
        value = a * x + (b * y + c)
        if value < 0:
            return False
        # of the two triangles at an edge, the one whose normal points forward owns it
        if value == 0 and not (a > 0 or (a == 0 and (b > 0 or (b == 0 and c > 0)))):
            return False
    return True


@njit(cache=True, nogil=True)
@no_type_check
def _span(plane: Array, box: Array, row: int) -> tuple[int, int]:
    """Return the first and last column of a row that the triangle covers (first > last: none)."""
    y = row + 0.5
    low, high = float(box[0]), float(box[1])
    for k in range(0, 9, 3):
        a, rest = plane[k], plane[k + 1] * y + plane[k + 2]
        if a > 0:
            low = max(low, np.floor(-rest / a - 0.5) - 1)
        elif a < 0:
            high = min(high, np.ceil(-rest / a - 0.5) + 1)
        elif rest < 0:
            return 0, -1
    # the slack above covers rounding; the exact test decides at both ends
    if low > high:
        return 0, -1
    first, last = int(low), int(high)
    while first <= last and not _inside(plane, first + 0.5, y):
        first += 1
    while last >= first and not _inside(plane, last + 0.5, y):
        last -= 1
    return first, last


@njit(cache=True, nogil=True)
@no_type_check
def draw_first(
    planes: Array, box: Array, owner: Array, top: int, bottom: int, inverse: Array, instance: Array
) -> None:
    """Write 1 / z and the primitive of the first surface; both start at 0 and -1."""
    for f in range(len(box)):
        plane = planes[f]
        mine = owner[f]
        for row in range(max(top, box[f, 2]), min(bottom, box[f, 3] + 1)):
            first, last = _span(plane, box[f], row)
            step, start = plane[9], plane[10] * (row + 0.5) + plane[11]
            for column in range(first, last + 1):
                value = step * (column + 0.5) + start
                if value > inverse[row, column] * (1 + SAME):
                    inverse[row, column] = value
                    instance[row, column] = mine


@njit(cache=True, nogil=True)
@no_type_check
def count_hits(planes: Array, box: Array, top: int, bottom: int, counts: Array) -> None:
    """Add to ``counts`` (h, w) the surfaces that each ray meets."""
    for f in range(len(box)):
        for row in range(max(top, box[f, 2]), min(bottom, box[f, 3] + 1)):
            first, last = _span(planes[f], box[f], row)
            for column in range(first, last + 1):
                counts[row, column] += 1


@njit(cache=True, nogil=True)
@no_type_check
def list_hits(
    planes: Array,
    box: Array,
    owner: Array,
    top: int,
    bottom: int,
    starts: Array,
    depth: Array,
    primitive: Array,
) -> None:
    """Write depth and primitive of every hit behind ``starts`` (h, w), sorted by depth."""
    fill = starts[top:bottom].copy()
    for f in range(len(box)):
        plane = planes[f]
        for row in range(max(top, box[f, 2]), min(bottom, box[f, 3] + 1)):
            first, last = _span(plane, box[f], row)
            step, start = plane[9], plane[10] * (row + 0.5) + plane[11]
            for column in range(first, last + 1):
                z = 1.0 / (step * (column + 0.5) + start)
                at = fill[row - top, column]
                fill[row - top, column] = at + 1
                # sort as it comes: a ray meets few surfaces
                while at > starts[row, column] and depth[at - 1] > z:
                    depth[at] = depth[at - 1]
                    primitive[at] = primitive[at - 1]
                    at -= 1
                depth[at] = z
                primitive[at] = owner[f]


@njit(cache=True, nogil=True)
@no_type_check
def hull(
    depth: Array,
    starts: Array,
    counts: Array,
    surfaces: int,
    same: float,
    rows: tuple[int, int],
    near: Array,
    far: Array,
) -> None:
    """Write the depth of the first and of the ``surfaces``-th surface, or of the last.

    Surfaces nearer to each other than ``same`` (relative) count once; 0 counts every surface.
    """
    for row in range(rows[0], rows[1]):
        for column in range(counts.shape[1]):
            start, count = starts[row, column], counts[row, column]
            if count == 0:
                continue
            near[row, column] = depth[start]
            last, seen = depth[start], 1
            for i in range(start + 1, start + count):
                if seen == surfaces:
                    break
                if depth[i] > last * (1 + same) or same == 0:
                    last = depth[i]
                    seen += 1
            far[row, column] = last


@njit(cache=True, nogil=True)
@no_type_check
def insides(
    depth: Array,
    primitive: Array,
    starts: Array,
    counts: Array,
    thickness: Array,
    rows: tuple[int, int],
    segments: Array,
    used: Array,
) -> None:
    """Write the merged intervals of each ray inside primitives into ``segments`` (h, w, s, 2).

    A closed primitive (``thickness`` 0) that is left once more than it is entered holds the camera.
    Each surface of another is ``thickness`` deep.  Writes how many intervals into ``used``.
    Intervals beyond the last are merged into it.
    """
    most = segments.shape[2]
    odd = np.zeros(len(thickness), np.int8)
    for row in range(rows[0], rows[1]):
        for column in range(counts.shape[1]):
            start, end = starts[row, column], starts[row, column] + counts[row, column]
            level = 0
            for i in range(start, end):
                if thickness[primitive[i]] == 0:
                    odd[primitive[i]] ^= 1
                    level += 1 if odd[primitive[i]] else -1
            # odd[p]: whether the ray is inside p at its start, then as it goes
            count, enter, reach = 0, 0.0, 0.0
            is_open = level > 0
            for i in range(start, end):
                p, z = primitive[i], depth[i]
                if not (is_open or z <= reach * (1 + TOUCHING)):
                    # out of everything since `reach`
                    if count or reach > 0:
                        _keep(segments[row, column], count - 1, most, enter, reach)
                    count += 1
                    enter = z
                elif count == 0:
                    count = 1
                if thickness[p] == 0:
                    odd[p] ^= 1
                    level += 1 if odd[p] else -1
                    reach = max(reach, z)
                else:
                    reach = max(reach, z + thickness[p])
                is_open = level > 0
            if count:
                _keep(segments[row, column], count - 1, most, enter, reach)
            for i in range(start, end):
                odd[primitive[i]] = 0
            used[row, column] = min(count, most)


@njit(cache=True, nogil=True)
@no_type_check
def _keep(intervals: Array, index: int, most: int, enter: float, leave: float) -> None:
    if index < most:
        intervals[index, 0] = enter
        intervals[index, 1] = leave
    else:
        intervals[most - 1, 1] = max(intervals[most - 1, 1], leave)
