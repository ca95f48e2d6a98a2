"""Which regions of the background belong apart: a gap in a line does not make one of two.

The log-odds l are read as a landscape: regions of the background are its basins, the lines between
them its ridges.  One pixel of a gap joins two regions in the mask, although nearly all of the ridge
between them is high.  So basins are found first (watershed with lines), and then joined again, the
pair with the lowest *mean* height of their ridge first, until all ridges are higher than a
threshold.  What is left apart is closed along its ridge, unless that costs too much; what is joined
may be cut open.
The linkage is that of neuron segmentation: Funke et al., Large scale image segmentation with
structured loss based deep learning (2019), mean affinity; Bailoni et al., GASP (2022).
In 3D basins are cavities, and ridges are surfaces.
"""

from __future__ import annotations

import heapq
from itertools import combinations

import numpy as np
from jaxtyping import Bool, Float, Int, Int64
from skimage.morphology import h_minima
from skimage.segmentation import watershed

from geo3d.topology.grids import label_components

Ridges = dict[tuple[int, int], np.ndarray]
"""Two numbers of basins, the smaller first, and the flat indices of the ridge between them."""
_STEP = 1e-3
"""Heights are rounded to it, so that plateaus are flat."""


def basins(
    log_odds: Float[np.ndarray, "*space"], depth: float, *, corners: bool
) -> Int[np.ndarray, "*framed"]:
    """Return the basin of each pixel and of a ring around: 0 on ridges, 1 outside the array.

    Args:
        log_odds: landscape, nats.
        depth: basins that are less deep are part of a neighbour; those that are nowhere below 0
            (that hold no background) as well.
        corners: whether pixels of a basin that share a corner touch.
    """
    rounded = np.round(log_odds / _STEP) * _STEP
    lowest = h_minima(rounded, depth).astype(bool) & (log_odds < 0)
    seeds, count = label_components(lowest, corners=corners)
    if not count:
        return np.ones(tuple(n + 2 for n in log_odds.shape), dtype=np.int64)
    connectivity = log_odds.ndim if corners else 1
    # A ring that is lower than all else is the border's basin, with number 1.
    seeds = np.pad(np.where(seeds, seeds + 1, 0), 1, constant_values=1)
    heights = np.pad(rounded, 1, constant_values=float(rounded.min()) - 1)
    connectivity = log_odds.ndim if corners else 1
    found = watershed(heights, seeds, connectivity=connectivity, watershed_line=True)
    inside = found[(slice(1, -1),) * found.ndim]
    number = np.arange(count + 2)
    edge = np.ones(inside.shape, dtype=bool)
    edge[(slice(1, -1),) * found.ndim] = False
    # Seeds at the edge touch the ring: no line can part them.
    number[np.unique(inside[edge])] = 1
    number[0] = 0
    return number[found]


def ridges_between(basin: Int[np.ndarray, "*space"]) -> Ridges:
    """Return the pixels of the ridge between each two basins."""
    framed = np.pad(basin, 1)
    at = np.flatnonzero(basin == 0)
    places = np.stack(np.unravel_index(at, basin.shape), axis=1) + 1
    beside = []
    for axis in range(basin.ndim):
        for side in (-1, 1):
            moved = places.copy()
            moved[:, axis] += side
            beside.append(framed[tuple(moved.T)])
    limit = int(basin.max()) + 1
    keys, pixels = [], []
    for one, two in combinations(beside, 2):
        apart = (one > 0) & (two > 0) & (one != two)
        low, high = np.minimum(one, two)[apart], np.maximum(one, two)[apart]
        keys.append(low * limit + high)
        pixels.append(at[apart])
    both = np.unique(np.stack([np.concatenate(keys), np.concatenate(pixels)], axis=1), axis=0)
    names, first = np.unique(both[:, 0], return_index=True)
    parts = np.split(both[:, 1], first[1:])
    return {
        (int(name // limit), int(name % limit)): part
        for name, part in zip(names, parts, strict=True)
    }


def joined_basins(
    ridges: Ridges, log_odds: Float[np.ndarray, "*framed"], count: int, height: float
) -> Int64[np.ndarray, " n"]:
    """Return for each number of a basin the number of its group after joining.

    Args:
        ridges: see `ridges_between`.
        log_odds: heights, nats.
        count: the largest number of a basin.
        height: mean height of a ridge from which on it parts two regions.
    """
    flat = log_odds.ravel()
    between: list[dict[int, tuple[float, int]]] = [{} for _ in range(count + 1)]
    queue = []
    for (one, two), pixels in ridges.items():
        ridge = float(flat[pixels].sum()), len(pixels)
        between[one][two] = between[two][one] = ridge
        queue.append((ridge[0] / ridge[1], one, two, ridge))
    heapq.heapify(queue)
    group = np.arange(count + 1)
    while queue:
        mean, one, two, ridge = heapq.heappop(queue)
        if mean >= height:
            break
        if between[one].get(two) != ridge:
            # One of them has been joined since.
            continue
        if len(between[one]) < len(between[two]):
            one, two = two, one
        group[group == two] = one
        del between[one][two], between[two][one]
        for other, (total, length) in between[two].items():
            del between[other][two]
            more = between[one].get(other, (0.0, 0))
            ridge = total + more[0], length + more[1]
            between[one][other] = between[other][one] = ridge
            heapq.heappush(queue, (ridge[0] / ridge[1], one, other, ridge))
        between[two] = {}
    return group


def without_wide_gaps(
    ridges: Ridges,
    log_odds: Float[np.ndarray, "*framed"],
    group: Int64[np.ndarray, " n"],
    price: float,
) -> Int64[np.ndarray, " n"]:
    """Return the groups after joining those whose ridge has gaps that cost more than a price.

    Args:
        ridges: see `ridges_between`.
        log_odds: heights, nats; a gap costs the sum of its depths below 0.
        group: see `joined_basins`.
        price: nats.
    """
    depth, group = np.maximum(-log_odds.ravel(), 0), group.copy()
    gap = {pair: float(depth[pixels].sum()) for pair, pixels in ridges.items()}
    while True:
        total: dict[tuple[int, int], float] = {}
        for (one, two), cost in gap.items():
            low, high = sorted((int(group[one]), int(group[two])))
            if low != high:
                total[low, high] = total.get((low, high), 0.0) + cost
        wide = [pair for pair, cost in total.items() if cost > price]
        if not wide:
            return group
        for low, high in wide:
            # Both may have got other names by now.
            group[group == group[high]] = group[low]


def regions_apart(
    log_odds: Float[np.ndarray, "*space"],
    depth: float,
    height: float,
    gap_price: float,
    *,
    corners: bool,
) -> tuple[Int64[np.ndarray, "*space"], Bool[np.ndarray, "*space"]]:
    """Return the group of each pixel, and the ridges that part groups.

    Group 0 reaches the border; on ridges inside a group pixels are of that group.

    Args:
        log_odds: of foreground, nats.
        depth: see `basins`.
        height: see `joined_basins`.
        gap_price: see `without_wide_gaps`.
        corners: whether pixels of the background that share a corner touch.
    """
    basin = basins(log_odds, depth, corners=corners)
    inside, wide = (slice(1, -1),) * basin.ndim, np.pad(log_odds, 1)
    if int(basin.max()) < 2 or not (basin == 0).any():
        return np.zeros(log_odds.shape, dtype=np.int64), np.zeros(log_odds.shape, dtype=bool)
    ridges = ridges_between(basin)
    group = joined_basins(ridges, wide, int(basin.max()), height)
    group = without_wide_gaps(ridges, wide, group, gap_price)
    # The group of the border is called 0, the others by the number of a basin of theirs.
    group = np.where(group == group[1], 0, group)
    result, apart = group[basin], np.zeros(basin.size, dtype=bool)
    flat = result.ravel()
    for (one, two), pixels in ridges.items():
        if group[one] == group[two]:
            flat[pixels] = group[one]
        else:
            apart[pixels] = True
    return flat.reshape(basin.shape)[inside], apart.reshape(basin.shape)[inside]
