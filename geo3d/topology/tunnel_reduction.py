"""Columns of squares reduced against rows of edges: the compiled part of tunnels that takes time.

A column is a loop of edges, each kept at its later voxel as one of six bits; a heap knows the last
of these voxels.  Reducing moves the loop down: all edges at its last voxel are moved to their roots
(see `tunnel_kernels`), which cancel in pairs at nearly every voxel, and the far sides of the
squares on the way take their place; this is a discrete gradient.  Where roots are left, the highest
is the pivot.

Source: Robins, Wood & Sheppard, Theory and algorithms for constructing discrete Morse complexes
from grayscale digital images (2011).
"""

from __future__ import annotations

from typing import no_type_check

import numpy as np
from numba import njit

from geo3d.topology.tunnel_kernels import SQUARES, square_ends

EDGES = 0x3F
"""The edges of a voxel in a column,"""
WAITS = 0x40
"""and that the voxel is on the heap."""


@njit(cache=True, nogil=True)
@no_type_check
def reduce_columns(
    columns: np.ndarray,
    order: np.ndarray,
    inner: np.ndarray,
    rows: np.ndarray,
    rank: np.ndarray,
    steps: np.ndarray,
    paths: np.ndarray,
) -> np.ndarray:
    """Reduce columns in turn; return the row that each ends with.

    Args:
        columns: what `columns_left` returns.
        order: voxels in the order of the columns.
        inner: the part of each star that loops are moved through.
        rows: voxels in the order of the rows.
        rank: place in the order of the rows; negative outside.
        steps: along each axis.
        paths: table.

    Returns:
        6 x place in the order of the rows of the last voxel + number of its edge.
    """
    ends = np.empty(columns.size, dtype=np.int64)
    owner = np.full(6 * rows.size, -1, dtype=np.int32)
    start = np.zeros(columns.size + 1, dtype=np.int64)
    kept = np.empty(4 * columns.size + 64, dtype=np.int64)
    at = np.zeros(rows.size, dtype=np.uint8)
    heap = np.empty(1024, dtype=np.int32)
    for column in range(columns.size):
        own = order[columns[column] // 12]
        k = columns[column] % 12
        below = inner[own] & ((1 << k) - 1)
        one, two = square_ends(k)
        size = _toggle(own, one, rank, steps, at, heap, 0)
        size = _toggle(own, two, rank, steps, at, heap, size)
        size = _toggle_far(own, k, rank, steps, at, heap, size)
        while True:
            place = heap[0]
            size = _pop(heap, size)
            edges = at[place] & EDGES
            at[place] = 0
            if edges == 0:
                continue
            voxel = rows[place]
            way, roots = _moved(edges, paths, below if voxel == own else inner[voxel] & SQUARES)
            if heap.size < size + 64:
                heap = _longer(heap, size, 64)
            k = 0
            while way:
                if way & 1:
                    size = _toggle_far(voxel, k, rank, steps, at, heap, size)
                way >>= 1
                k += 1
            if roots == 0:
                continue
            last = 5
            while not roots >> last & 1:
                last -= 1
            pivot = 6 * place + last
            size = _toggle_all(place, roots ^ 1 << last, at, heap, size)
            known = owner[pivot]
            if known < 0:
                break
            length = start[known + 1] - start[known]
            if heap.size < size + length:
                heap = _longer(heap, size, length)
            for each in range(start[known], start[known + 1]):
                size = _toggle_all(kept[each] >> 6, kept[each] & EDGES, at, heap, size)
        ends[column] = pivot
        owner[pivot] = column
        if kept.size < start[column] + size:
            kept = _longer(kept, start[column], size)
        start[column + 1] = _put_away(kept, start[column], at, heap, size)
    return ends


@njit(cache=True, nogil=True)
@no_type_check
def _moved(edges: int, paths: np.ndarray, squares: int) -> tuple[int, int]:
    """Return the squares on the way of edges of a voxel to their roots, and the roots left."""
    way = 0
    edge = 0
    roots = 0
    while edges:
        if edges & 1:
            way ^= paths[squares, edge]
            roots ^= 1 << (paths[squares, edge] >> 12)
        edges >>= 1
        edge += 1
    return way & SQUARES, roots


@njit(cache=True, nogil=True)
@no_type_check
def _toggle_far(
    voxel: int,
    k: int,
    rank: np.ndarray,
    steps: np.ndarray,
    at: np.ndarray,
    heap: np.ndarray,
    size: int,
) -> int:
    """Add the two sides of square k of a voxel that do not touch it."""
    one, two = square_ends(k)
    size = _toggle(voxel + _step(one, steps), two, rank, steps, at, heap, size)
    return _toggle(voxel + _step(two, steps), one, rank, steps, at, heap, size)


@njit(cache=True, nogil=True)
@no_type_check
def _put_away(kept: np.ndarray, end: int, at: np.ndarray, heap: np.ndarray, size: int) -> int:
    """Move what is left of a column to where columns are kept; return its end there."""
    for each in range(size):
        place = heap[each]
        edges = at[place] & EDGES
        at[place] = 0
        if edges:
            kept[end] = np.int64(place) << 6 | edges
            end += 1
    return end


@njit(cache=True, nogil=True)
@no_type_check
def _step(edge: int, steps: np.ndarray) -> int:
    """Return the step along an edge of a voxel."""
    return steps[edge >> 1] if edge & 1 else -steps[edge >> 1]


@njit(cache=True, nogil=True)
@no_type_check
def _toggle(
    one: int,
    edge: int,
    rank: np.ndarray,
    steps: np.ndarray,
    at: np.ndarray,
    heap: np.ndarray,
    size: int,
) -> int:
    """Add an edge of a voxel to the column, at its later end; return the size of the heap."""
    place = rank[one]
    other = rank[one + _step(edge, steps)]
    if other > place:
        place = other
        edge ^= 1
    # Inside the outside there are no rows.
    return size if place < 0 else _toggle_all(place, 1 << edge, at, heap, size)


@njit(cache=True, nogil=True)
@no_type_check
def _toggle_all(place: int, edges: int, at: np.ndarray, heap: np.ndarray, size: int) -> int:
    """Add edges of the voxel at a place to the column; return the size of the heap."""
    if edges == 0:
        return size
    if at[place] == 0:
        size = _push(heap, size, place)
    at[place] = (at[place] ^ edges) | WAITS
    return size


@njit(cache=True, nogil=True)
@no_type_check
def _longer(array: np.ndarray, used: int, more: int) -> np.ndarray:
    """Return a longer array, with room behind what is used."""
    longer = np.empty(2 * (used + more), dtype=array.dtype)
    longer[:used] = array[:used]
    return longer


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
