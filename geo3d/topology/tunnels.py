"""Tunnels of volumes: which edge of the voxel grid begins each loop, and which square fills it.

Notation: voxels are points, joined along the axes by edges, with squares and cubes between them; a
cell enters with the last of its voxels.  Two strict orders of voxels: that of the *columns*, in
which squares come, and that of the *rows*, in which edges are compared.  With one order for both,
the pairs are those of persistent homology in dimension 1.  With two, of which one enters earlier
than the other, they are those of image persistence: the loop begins in the order of the rows and
ends in that of the columns (Bauer & Schmahl 2023).

* The 12 squares around a voxel and its 6 edges are numbered on the spot, so nothing is sorted but
  the voxels, and a row number tells its edge.
* Squares that close a surface never fill a loop: taken backwards, they join the regions of two
  cubes, which a union-find tells before the reduction ("clearing", Chen & Kerber 2011).
* Most columns are reduced as they come; the others go through a heap of row numbers in which equal
  ones cancel.
* A voxel with rank `OUTSIDE` belongs to the outside, which is shrunk to a point: edges inside it
  are no rows.  A voxel with rank `ABSENT` never enters.

Sources: Edelsbrunner & Harer, Computational Topology (2010), VII; Stucki et al., Efficient Betti
matching enables topology-aware 3D segmentation (2024), for image persistence of volumes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import no_type_check

import numpy as np
from jaxtyping import Bool, Int32, Int64
from numba import njit

from geo3d.topology.grids import Pixels
from geo3d.topology.kernels import find_root
from geo3d.topology.merging import Stack

OUTSIDE = -1
ABSENT = np.iinfo(np.int32).max


@dataclass(frozen=True, eq=False)
class Grid:
    """The voxels of one volume in the order in which loops are looked for.

    Attributes:
        order: flat index of each voxel; "cells": from dark to bright, as what is looked at are the
            loops of the complement, which are those of the foreground read backwards.
        rank: place in the order of each voxel of the padded volume; `OUTSIDE`, `ABSENT`.
    """

    order: Int32[np.ndarray, " n"]
    rank: Int32[np.ndarray, "d h w"]

    def closing(self) -> Bool[np.ndarray, "n 12"]:
        """Say for each square of each voxel whether it is absent or closes a surface."""
        steps = _steps(self.rank)
        return _closing_squares(self._padded_order(), self.rank.ravel(), steps)

    def loops(
        self, closed: Bool[np.ndarray, "n 12"], rows: Grid
    ) -> tuple[Int64[np.ndarray, " l"], Int64[np.ndarray, " l"]]:
        """Return the edge that begins each loop, and the place of the voxel that ends it.

        An edge is 6 times the place of its last voxel in `rows`, and a number below 6.  The squares
        that end loops come in one order, whatever the rows.
        """
        steps = _steps(self.rank)
        flat = self._padded_order(), closed, self.rank.ravel(), rows.rank.ravel()
        return _pair_squares(*flat, steps)

    def _padded_order(self) -> Int32[np.ndarray, " n"]:
        flat = self.rank.ravel()
        inside = np.flatnonzero((flat >= 0) & (flat != ABSENT)).astype(np.int32)
        order = np.empty_like(inside)
        order[flat[inside]] = inside
        return order


def grids(own: Stack, pixels: Pixels) -> list[Grid]:
    """Return the voxels of each volume of a stack, ready to look for loops."""
    n, *padded = own.padded
    size, padded_size = own.inner.size // n, int(np.prod(padded))
    ends = np.searchsorted(own.ascending // size, np.arange(n + 1))
    found = []
    for item in range(n):
        order = own.ascending[ends[item] : ends[item + 1]]
        order = order if pixels == "cells" else order[::-1]
        rank = np.full(padded_size, OUTSIDE if pixels == "cells" else ABSENT, dtype=np.int32)
        rank[own.inner[order] - item * padded_size] = np.arange(order.size)
        found.append(Grid(order, rank.reshape(padded)))
    return found


def births_and_deaths(
    own: Stack, pixels: Pixels
) -> tuple[Int64[np.ndarray, " l"], Int64[np.ndarray, " l"]]:
    """Return the voxels of birth and death of all tunnels of a stack, those of no span too."""
    pairs = []
    for grid in grids(own, pixels):
        edges, ends = grid.loops(grid.closing(), grid)
        pairs.append(np.stack([grid.order[edges // 6], grid.order[ends]]))
    begun, ended = np.concatenate(pairs, axis=1).astype(np.int64)
    return (ended, begun) if pixels == "cells" else (begun, ended)


def _steps(rank: np.ndarray) -> Int64[np.ndarray, 3]:
    return np.array([rank.shape[1] * rank.shape[2], rank.shape[2], 1])


@njit(cache=True, nogil=True)
@no_type_check
def _square(rank: np.ndarray, voxel: int, k: int, steps: np.ndarray) -> tuple[int, int, int]:
    """Return both steps of square k of a voxel and its normal axis; 0 where it is not the last."""
    normal = k // 4
    first, second = (normal + 1) % 3, (normal + 2) % 3
    a = steps[first] if k & 1 else -steps[first]
    b = steps[second] if k & 2 else -steps[second]
    here = rank[voxel]
    if rank[voxel + a] < here and rank[voxel + b] < here and rank[voxel + a + b] < here:
        return a, b, normal
    return 0, 0, normal


@njit(cache=True, nogil=True)
@no_type_check
def _cube(rank: np.ndarray, low: int, far: int, a: int, b: int, nowhere: int) -> int:
    """Return the cube between a square and the one beside it, by its lowest corner."""
    lowest = min(a, 0) + min(b, 0)
    for corner in (far, far + a, far + b, far + a + b):
        if rank[corner] == ABSENT:
            return nowhere
    return low + lowest


@njit(cache=True, nogil=True)
@no_type_check
def _closing_squares(order: np.ndarray, rank: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Say for each square of each voxel whether it is absent or closes a surface."""
    closed = np.ones((order.size, 12), dtype=np.bool_)
    nowhere = rank.size
    parent = np.arange(rank.size + 1, dtype=np.int32)
    for position in range(order.size - 1, -1, -1):
        voxel = order[position]
        for k in range(11, -1, -1):
            a, b, normal = _square(rank, voxel, k, steps)
            if a == 0:
                continue
            c = steps[normal]
            one = find_root(parent, _cube(rank, voxel, voxel + c, a, b, nowhere))
            two = find_root(parent, _cube(rank, voxel - c, voxel - c, a, b, nowhere))
            if one == two:
                closed[position, k] = False
            else:
                parent[one] = two
    return closed


@njit(cache=True, nogil=True)
@no_type_check
def _row(rank: np.ndarray, one: int, step: int, axis: int) -> int:
    """Return the number of the edge from a voxel along a step; -1 inside the outside."""
    two = one + step
    if rank[one] > rank[two]:
        return 6 * rank[one] + 2 * axis + (step > 0)
    return 6 * rank[two] + 2 * axis + (step < 0) if rank[two] >= 0 else -1


@njit(cache=True, nogil=True)
@no_type_check
def _pair_squares(
    order: np.ndarray, closed: np.ndarray, columns: np.ndarray, rows: np.ndarray, steps: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Reduce the columns of all squares that fill loops; return row and position of each."""
    count = closed.size - np.count_nonzero(closed)
    owner = np.full(6 * order.size, -1, dtype=np.int32)
    start = np.zeros(count + 1, dtype=np.int64)
    kept = np.empty(4 * count + 64, dtype=np.int32)
    begins = np.empty(count, dtype=np.int64)
    ends = np.empty(count, dtype=np.int64)
    heap = np.empty(1024, dtype=np.int32)
    four = np.empty(4, dtype=np.int32)
    column = 0
    for position in range(order.size):
        voxel = order[position]
        for k in range(12):
            if closed[position, k]:
                continue
            a, b, normal = _square(columns, voxel, k, steps)
            first, second = (normal + 1) % 3, (normal + 2) % 3
            four[0] = _row(rows, voxel, a, first)
            four[1] = _row(rows, voxel + b, a, first)
            four[2] = _row(rows, voxel, b, second)
            four[3] = _row(rows, voxel + a, b, second)
            pivot = four.max()
            end = start[column]
            if owner[pivot] < 0:
                for row in four:
                    if row >= 0 and row != pivot:
                        kept[end] = row
                        end += 1
            else:
                size = 0
                for row in four:
                    if row >= 0:
                        size = _push(heap, size, row)
                pivot, size = _highest(heap, size)
                while owner[pivot] >= 0:
                    known = owner[pivot]
                    needed = size + start[known + 1] - start[known]
                    if needed > heap.size:
                        wide = np.empty(2 * needed, dtype=np.int32)
                        wide[:size] = heap[:size]
                        heap = wide
                    for at in range(start[known], start[known + 1]):
                        size = _push(heap, size, kept[at])
                    pivot, size = _highest(heap, size)
                if end + size + 4 > kept.size:
                    more = np.empty(2 * (end + size) + 64, dtype=np.int32)
                    more[:end] = kept[:end]
                    kept = more
                while size:
                    row, size = _highest(heap, size)
                    if row >= 0:
                        kept[end] = row
                        end += 1
                if kept.size - end < 4 * (count - column):
                    more = np.empty(2 * kept.size, dtype=np.int32)
                    more[:end] = kept[:end]
                    kept = more
            owner[pivot] = column
            begins[column] = pivot
            ends[column] = position
            column += 1
            start[column] = end
    return begins, ends


@njit(cache=True, nogil=True)
@no_type_check
def _push(heap: np.ndarray, size: int, value: int) -> int:
    """Put a value into a heap with the highest on top; return its new size."""
    at = size
    while at:
        above = (at - 1) >> 1
        if heap[above] >= value:
            break
        heap[at] = heap[above]
        at = above
    heap[at] = value
    return size + 1


@njit(cache=True, nogil=True)
@no_type_check
def _pop(heap: np.ndarray, size: int) -> int:
    """Take the top away; return the new size."""
    size -= 1
    value = heap[size]
    at = 0
    while True:
        below = 2 * at + 1
        if below >= size:
            break
        if below + 1 < size and heap[below + 1] > heap[below]:
            below += 1
        if heap[below] <= value:
            break
        heap[at] = heap[below]
        at = below
    heap[at] = value
    return size


@njit(cache=True, nogil=True)
@no_type_check
def _highest(heap: np.ndarray, size: int) -> tuple[int, int]:
    """Take away and return the highest value that does not cancel; -1 if there is none."""
    while size:
        top = heap[0]
        size = _pop(heap, size)
        if not size or heap[0] != top:
            return top, size
        size = _pop(heap, size)
    return -1, 0
