"""Loops of the discrete losses: homotopic flips, pair counts along a spanning tree, flooding.

Grids arrive flattened and padded by one pixel on every side, so that a neighbour is a fixed step
away; neighbourhoods are sets of at most 27 pixels, kept as the bits of one integer.
`no_type_check` keeps run-time shape checks of the test suite away from functions that Python never
runs.
"""

from __future__ import annotations

from typing import no_type_check

import numpy as np
from numba import njit

from geo3d.topology.kernels import find_root


@njit(cache=True)
@no_type_check
def flip_simple(
    mask: np.ndarray,
    order: np.ndarray,
    steps: np.ndarray,
    beside: np.ndarray,
    cells: np.ndarray,
    starts: np.ndarray,
) -> int:
    """Flip the pixels of a list that are simple when their turn comes; return how many were.

    A pixel is simple if the foreground and the background around it are one component each.

    Args:
        mask: padded, flat, 0 and 1; changed in place.
        order: padded indices of the pixels, in turn.
        steps: step to each pixel of the patch.
        beside: (2, n) bits of the pixels that touch each pixel; row 0 background, 1 foreground.
        cells: (2,) bits of the pixels that are looked at.
        starts: (2,) bits of the pixels whose components are counted.
    """
    flipped = 0
    for pixel in order:
        bits = 0
        for k in range(steps.size):
            if mask[pixel + steps[k]]:
                bits |= 1 << k
        if not _is_one(bits & cells[1], beside[1], starts[1]):
            continue
        if _is_one(~bits & cells[0], beside[0], starts[0]):
            mask[pixel] = 1 - mask[pixel]
            flipped += 1
    return flipped


@njit(cache=True)
@no_type_check
def _is_one(bits: int, beside: np.ndarray, starts: int) -> bool:
    """Say whether the components of a set that hold a start are exactly one."""
    wanted = bits & starts
    if wanted == 0:
        return False
    found = wanted & -wanted
    before = 0
    while found != before:
        fresh = found & ~before
        before = found
        for k in range(beside.size):
            if fresh >> k & 1:
                found |= beside[k] & bits
    return wanted & ~found == 0


@njit(cache=True)
@no_type_check
def leak_counts(order: np.ndarray, ends: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """Return for each edge how many pairs of pixels from different regions it joins.

    The edges are taken in turn; those that close a cycle join nobody.  Pixels of region 0 are in no
    pair.

    Args:
        order: edges in turn.
        ends: (2, m) the pixels of each edge.
        regions: region of each pixel.
    """
    parent = np.arange(regions.size)
    first, length, following, total, count = _records(regions, parent)
    pairs = np.zeros(ends.shape[1], dtype=np.float64)
    for edge in order:
        one = find_root(parent, ends[0, edge])
        two = find_root(parent, ends[1, edge])
        if one != two:
            if length[one] < length[two]:
                one, two = two, one
            same = _absorb(one, two, regions, first, length, following, count)
            pairs[edge] = total[one] * total[two] - same
            total[one] += total[two]
            parent[two] = one
    return pairs


@njit(cache=True)
@no_type_check
def _records(
    regions: np.ndarray, parent: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Start each tree's chain of (region, count) records, at most one long.

    Returns the first record of each root, the length of the chain, the record after each record,
    the pixels of each root and of each record.
    """
    n = regions.size
    first = np.full(n, -1, dtype=np.int64)
    length = np.zeros(n, dtype=np.int64)
    following = np.full(n, -1, dtype=np.int64)
    total = np.zeros(n, dtype=np.float64)
    count = np.zeros(n, dtype=np.float64)
    for node in range(n):
        if regions[node]:
            root = parent[node]
            first[root] = root
            length[root] = 1
            total[root] += 1
            count[root] += 1
    return first, length, following, total, count


@njit(cache=True)
@no_type_check
def _absorb(
    one: int,
    two: int,
    regions: np.ndarray,
    first: np.ndarray,
    length: np.ndarray,
    following: np.ndarray,
    count: np.ndarray,
) -> float:
    """Move the records of tree two to tree one; return the pairs from one region they make."""
    same = 0.0
    record = first[two]
    while record >= 0:
        after = following[record]
        match = first[one]
        while match >= 0 and regions[match] != regions[record]:
            match = following[match]
        if match >= 0:
            same += count[match] * count[record]
            count[match] += count[record]
        else:
            following[record] = first[one]
            first[one] = record
            length[one] += 1
        record = after
    return same


@njit(cache=True)
@no_type_check
def tile_shares(
    levels: np.ndarray, regions: np.ndarray, steps: np.ndarray, top: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return each pixel's share of its window's pairs from different regions and from one region.

    Neighbours are joined in order of falling level sum.  Pairs from different regions: each region
    is one from the start and edges have an end on the line.  Pairs from one region: edges inside
    regions.

    Args:
        levels: (n, p) whole numbers 0 to `top` of padded, flat windows.
        regions: (n, p) region of each pixel, 0 the line, -1 outside.
        steps: steps to half of the neighbours, so that each pair comes once.
        top: level of the regions when leaks are looked for.
    """
    shares = np.zeros((2, *levels.shape), dtype=np.float32)
    n = levels.shape[1]
    edges = np.empty((2, n * steps.size), dtype=np.int32)
    cost = np.empty(n * steps.size, dtype=np.int32)
    order = np.empty(n * steps.size, dtype=np.int32)
    for tile in range(levels.shape[0]):
        region = regions[tile]
        for inner in range(2):
            starts = np.zeros(2 * top + 2, dtype=np.int32)
            m = 0
            for pixel in range(n):
                for step in steps:
                    # The padding keeps the neighbour of a pixel inside the array.
                    if region[pixel] < 0 or region[pixel + step] < 0:
                        continue
                    other = pixel + step
                    if (region[pixel] > 0 and region[other] > 0) != (inner == 1):
                        continue
                    low = 2 * top - levels[tile, pixel] - levels[tile, other]
                    if inner == 0 and region[pixel] > 0:
                        low = top - levels[tile, other]
                    elif inner == 0 and region[other] > 0:
                        low = top - levels[tile, pixel]
                    edges[0, m], edges[1, m], cost[m] = pixel, other, low
                    starts[low + 1] += 1
                    m += 1
            for low in range(2 * top + 1):
                starts[low + 1] += starts[low]
            for edge in range(m):
                order[starts[cost[edge]]] = edge
                starts[cost[edge]] += 1
            _share_pairs(edges, order[:m], region, inner, shares[inner, tile])
    return shares[0], shares[1]


@njit(cache=True)
@no_type_check
def _share_pairs(
    edges: np.ndarray, order: np.ndarray, region: np.ndarray, inner: int, share: np.ndarray
) -> None:
    """Join one window's pixels and write each pixel's share of the pairs."""
    parent = np.arange(region.size).astype(np.int32)
    inside = np.maximum(region, 0)
    if inner == 0:
        stands = np.full(inside.max() + 1, -1, dtype=np.int32)
        for pixel in range(region.size):
            if inside[pixel]:
                if stands[inside[pixel]] < 0:
                    stands[inside[pixel]] = pixel
                parent[pixel] = stands[inside[pixel]]
    first, length, following, total, count = _records(inside, parent)
    sum_of_pairs = 0.0
    for edge in order:
        one = find_root(parent, edges[0, edge])
        two = find_root(parent, edges[1, edge])
        if one == two:
            continue
        if length[one] < length[two] or total[one] < total[two]:
            one, two = two, one
        pairs = total[one] * total[two]
        if inner == 0:
            pairs -= _absorb(one, two, inside, first, length, following, count)
        total[one] += total[two]
        parent[two] = one
        share[edges[0, edge]] += pairs
        share[edges[1, edge]] += pairs
        sum_of_pairs += pairs
    if sum_of_pairs > 0:
        share /= sum_of_pairs


@njit(cache=True)
@no_type_check
def flood(
    levels: np.ndarray, seeds: np.ndarray, allowed: np.ndarray, steps: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Grow regions over the allowed pixels in order of the barrier on the way.

    The barrier of a path is its highest minus its lowest level; equal barriers go first in, first
    out.  Each pixel is taken by the path that arrives first (Dijkstra's rule, which for this cost
    is the usual close approximation of the minimum).

    Args:
        levels: (p,) whole numbers 0 to 255, padded and flat.
        seeds: (p,) number of the region of each pixel; 0 is none.
        allowed: (p,) pixels that may be taken, no seeds among them.
        steps: steps to the neighbours.

    Returns:
        The region of each pixel (0 if none came), the pixel it was reached from (-1 for seeds and
        unreached pixels), its barrier.
    """
    region = seeds.copy()
    source = np.full(levels.size, -1, dtype=np.int64)
    barrier = np.zeros(levels.size, dtype=np.int64)
    n_allowed = 0
    for pixel in range(levels.size):
        n_allowed += allowed[pixel]
    # Records in 256 queues: pixel, origin, highest and lowest level on the way, next record.
    queue = np.empty((steps.size * n_allowed + 1, 5), dtype=np.int64)
    ends = np.full((2, 256), -1, dtype=np.int64)
    used = 0
    for pixel in range(levels.size):
        if allowed[pixel]:
            for step in steps:
                if seeds[pixel + step]:
                    origin = pixel + step
                    level = levels[origin]
                    used = _append(queue, used, ends, pixel, origin, levels, level, level)
    rank = 0
    while rank < 256:
        record = ends[0, rank]
        if record < 0:
            rank += 1
            continue
        ends[0, rank] = queue[record, 4]
        pixel = queue[record, 0]
        if region[pixel]:
            continue
        region[pixel] = region[queue[record, 1]]
        source[pixel] = queue[record, 1]
        barrier[pixel] = rank
        for step in steps:
            other = pixel + step
            if allowed[other] and not region[other]:
                high, low = queue[record, 2], queue[record, 3]
                used = _append(queue, used, ends, other, pixel, levels, high, low)
    return region, source, barrier


@njit(cache=True)
@no_type_check
def _append(
    queue: np.ndarray,
    used: int,
    ends: np.ndarray,
    pixel: int,
    origin: int,
    levels: np.ndarray,
    high: int,
    low: int,
) -> int:
    """Put a pixel into the queue of its barrier; return how many records there are.

    `ends` holds the first and the last record of every queue.
    """
    high, low = max(high, levels[pixel]), min(low, levels[pixel])
    rank = high - low
    queue[used] = (pixel, origin, high, low, -1)
    if ends[0, rank] < 0:
        ends[0, rank] = used
    else:
        queue[ends[1, rank], 4] = used
    ends[1, rank] = used
    return used + 1
