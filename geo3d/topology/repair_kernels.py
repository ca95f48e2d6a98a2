"""The loops of repair that numpy cannot do: compiled by numba on first use.

Grids arrive flattened and padded by a blocked pixel on every side, as in `geo3d.topology.kernels`.
"""

from __future__ import annotations

import heapq
from typing import no_type_check

import numpy as np
from numba import njit


@njit(cache=True)
@no_type_check
def spread(
    cost: np.ndarray, owner: np.ndarray, steps: np.ndarray, blocked: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Grow regions over a grid by Dijkstra's method until every pixel has the cheapest owner.

    Args:
        cost: (n,) positive price of entering a pixel.
        owner: (n,) number of the region a pixel is in, 0 for none; filled in place.
        steps: to the neighbours.
        blocked: (n,) pixels that are never entered.

    Returns:
        The price of the way from the owner to each pixel, and the pixel before it (-1: none).
    """
    price = np.where(owner > 0, 0.0, np.inf)
    before = np.full(cost.size, -1, dtype=np.int64)
    queue = [(0.0, -1)]
    for pixel in range(cost.size):
        if owner[pixel] > 0:
            for step in steps:
                other = pixel + step
                if 0 <= other < cost.size and owner[other] == 0 and not blocked[other]:
                    queue.append((0.0, pixel))
                    break
    heapq.heapify(queue)
    while queue:
        so_far, pixel = heapq.heappop(queue)
        if pixel < 0 or so_far > price[pixel]:
            continue
        for step in steps:
            other = pixel + step
            if other < 0 or other >= cost.size or blocked[other]:
                continue
            total = so_far + cost[other]
            if total < price[other]:
                price[other] = total
                before[other] = pixel
                owner[other] = owner[pixel]
                heapq.heappush(queue, (total, other))
    return price, before
