"""Loops of a grid of voxels: the compiled part of `geo3d.topology.tunnels`.

Notation: v a voxel, its *star* the cells that enter with it: those of its 6 edges, 12 squares and 8
cubes all of whose other voxels are earlier.  Edge 2 axis + (forwards) of a voxel; square k has the
normal axis k // 4 and leaves along the two others, backwards or forwards by bits 0 and 1 of k; cube
o leaves along axis j forwards if bit j of o is set.  A star is a number: bits 0 to 11 are its
squares, 12 to 19 its cubes.

What happens inside a star depends on its squares alone, so tables of 2^12 rows tell it:

* `paths`: its squares join edges.  Each edge can be moved to the eldest that it is joined to, its
  root; the row holds the squares on the way (12 bits) and, above them, the root.
* `forest`: the squares that join, in turn.  A column of such a square has its partner in the star.
* `closing`: backwards, the squares join the eight octants around v; the row holds the squares that
  do, if octants that are joined outside the star make one region.
"""

from __future__ import annotations

from functools import cache
from typing import no_type_check

import numpy as np
from numba import njit

from geo3d.topology.kernels import find_root

SQUARES = 0xFFF
"""The squares of a star."""


@cache
def star_tables() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return paths (4096, 6), forest, closing and the number of regions of octants (4096,)."""
    return _star_tables()


@njit(cache=True, nogil=True)
@no_type_check
def square_ends(k: int) -> tuple[int, int]:
    """Return the two edges of a voxel that lie in its square k."""
    normal = k // 4
    return 2 * ((normal + 1) % 3) + (k & 1), 2 * ((normal + 2) % 3) + (k >> 1 & 1)


@njit(cache=True, nogil=True)
@no_type_check
def _octants(k: int) -> tuple[int, int]:
    """Return the two octants that square k parts."""
    normal = k // 4
    low = (k & 1) << ((normal + 1) % 3) | (k >> 1 & 1) << ((normal + 2) % 3)
    return low, low | 1 << normal


@njit(cache=True, nogil=True)
@no_type_check
def _star_tables() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    paths = np.zeros((4096, 6), dtype=np.int32)
    forest = np.zeros(4096, dtype=np.int32)
    closing = np.zeros(4096, dtype=np.int32)
    regions = np.zeros(4096, dtype=np.int32)
    for squares in range(4096):
        root = np.arange(6)
        way = np.zeros(6, dtype=np.int64)
        for k in range(12):
            one, two = square_ends(k)
            if not squares >> k & 1 or root[one] == root[two]:
                continue
            forest[squares] |= 1 << k
            eldest, other = min(root[one], root[two]), max(root[one], root[two])
            joined = way[one] ^ way[two] ^ 1 << k
            for edge in range(6):
                if root[edge] == other:
                    root[edge] = eldest
                    way[edge] ^= joined
        for edge in range(6):
            paths[squares, edge] = root[edge] << 12 | way[edge]
        parent = np.arange(8)
        regions[squares] = 8
        for inside in range(2):
            for k in range(11, -1, -1):
                if squares >> k & 1 != inside:
                    continue
                low, high = _octants(k)
                one, two = find_root(parent, low), find_root(parent, high)
                if one == two:
                    continue
                parent[one] = two
                if inside:
                    closing[squares] |= 1 << k
                else:
                    regions[squares] -= 1
    return paths, forest, closing, regions


@njit(cache=True, nogil=True)
@no_type_check
def stars(rank: np.ndarray) -> np.ndarray:
    """Return the star of each voxel of a padded volume (d, h, w) of ranks; 0 on the border."""
    depth, height, width = rank.shape
    found = np.zeros(rank.shape, dtype=np.int32)
    earlier = np.zeros((27, width), dtype=np.int32)
    for z in range(1, depth - 1):
        for y in range(1, height - 1):
            here = rank[z, y]
            for k in range(27):
                beside = rank[z + k // 9 - 1, y + k // 3 % 3 - 1]
                shift = k % 3 - 1
                row = earlier[k]
                for x in range(1, width - 1):
                    row[x] = beside[x + shift] < here[x]
            out = found[z, y]
            for k in range(12):
                normal = k // 4
                a = (9, 3, 1)[(normal + 1) % 3] * (2 * (k & 1) - 1)
                b = (9, 3, 1)[(normal + 2) % 3] * (2 * (k >> 1 & 1) - 1)
                one, two, both = earlier[13 + a], earlier[13 + b], earlier[13 + a + b]
                for x in range(1, width - 1):
                    out[x] |= (one[x] & two[x] & both[x]) << k
            for o in range(8):
                corner = earlier[
                    13 + 9 * (2 * (o & 1) - 1) + 3 * ((o & 2) - 1) + ((o & 4) // 2 - 1)
                ]
                sides = _sides(o)
                for x in range(1, width - 1):
                    out[x] |= (corner[x] & (out[x] & sides == sides)) << (12 + o)
    return found


@njit(cache=True, nogil=True)
@no_type_check
def _sides(octant: int) -> int:
    """Return the three squares at a corner of a cube."""
    sides = 0
    for k in range(12):
        low, high = _octants(k)
        if octant in (low, high):
            sides |= 1 << k
    return sides


@njit(cache=True, nogil=True)
@no_type_check
def _lowest(voxel: int, octant: int, steps: np.ndarray) -> int:
    """Return the lowest corner of the cube in an octant of a voxel."""
    for axis in range(3):
        if not octant >> axis & 1:
            voxel -= steps[axis]
    return voxel


@njit(cache=True, nogil=True)
@no_type_check
def _cube(rank: np.ndarray, voxel: int, octant: int, steps: np.ndarray, absent: int) -> int:
    """Return the cube in an octant of a voxel by its lowest corner; the last number is nowhere."""
    low = _lowest(voxel, octant, steps)
    for part in range(8):
        corner = low
        for axis in range(3):
            corner += steps[axis] * (part >> axis & 1)
        if rank[corner] == absent:
            return rank.size
    return low


@njit(cache=True, nogil=True)
@no_type_check
def closing_squares(
    order: np.ndarray,
    rank: np.ndarray,
    star: np.ndarray,
    steps: np.ndarray,
    absent: int,
    closing: np.ndarray,
    regions: np.ndarray,
) -> np.ndarray:
    """Return for each voxel of the padded volume the squares of its star that close a surface.

    Args:
        order: voxels, the earliest first.
        rank: place in the order of each voxel.
        star: of each voxel, see the module.
        steps: along each axis.
        absent: rank of what never enters.
        closing: table.
        regions: table.
    """
    closed = np.zeros(star.size, dtype=np.int16)
    parent = np.arange(rank.size + 1, dtype=np.int32)
    shared = np.empty(order.size, dtype=np.int32)
    n_shared = 0
    for voxel in order:
        new = star[voxel] >> 12
        squares = star[voxel] & SQUARES
        n_new = 0
        old = 0
        for octant in range(8):
            n_new += new >> octant & 1
            if not new >> octant & 1:
                old = octant
        if regions[squares] - n_new > 1:
            shared[n_shared] = voxel
            n_shared += 1
            continue
        closed[voxel] = closing[squares]
        if new:
            beside = _cube(rank, voxel, old, steps, absent)
            for octant in range(8):
                if new >> octant & 1:
                    parent[_lowest(voxel, octant, steps)] = beside
    for at in range(n_shared - 1, -1, -1):
        voxel = shared[at]
        for k in range(11, -1, -1):
            if not star[voxel] >> k & 1:
                continue
            low, high = _octants(k)
            one = find_root(parent, _cube(rank, voxel, low, steps, absent))
            two = find_root(parent, _cube(rank, voxel, high, steps, absent))
            if one != two:
                parent[one] = two
                closed[voxel] |= 1 << k
    return closed


@njit(cache=True, nogil=True)
@no_type_check
def columns_left(
    order: np.ndarray, star: np.ndarray, closed: np.ndarray, inner: np.ndarray, forest: np.ndarray
) -> np.ndarray:
    """Return the squares that fill a loop and have no partner in their star, in order.

    Args:
        order: voxels, the earliest first.
        star: of each voxel.
        closed: squares of each star that close a surface.
        inner: the part of each star that is used for moving loops.
        forest: table.

    Returns:
        12 x place in the order + number of the square.
    """
    found = np.empty(2 * order.size + 12, dtype=np.int64)
    count = 0
    for position in range(order.size):
        voxel = order[position]
        left = star[voxel] & ~closed[voxel] & ~forest[inner[voxel] & SQUARES] & SQUARES
        k = 0
        while left:
            if left & 1:
                if count == found.size:
                    more = np.empty(2 * count, dtype=np.int64)
                    more[:count] = found
                    found = more
                found[count] = 12 * position + k
                count += 1
            left >>= 1
            k += 1
    return found[:count].copy()
