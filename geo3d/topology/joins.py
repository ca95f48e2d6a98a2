"""Which of its earlier neighbours a pixel must be joined to, so that nothing is joined twice.

Notation: the 27 places around and at a pixel as bits, 13 + 9 dz + 3 dy + dx; images use dz = 0.  Of
earlier neighbours that already hang together around the pixel one is enough, the first of the steps
given: most pixels need a single one.  Two neighbours hang together if a path of earlier neighbours
joins them, by the same steps as everywhere.
"""

from __future__ import annotations

from typing import no_type_check

import numpy as np
from numba import njit

EVERY = (1 << 27) - 1
UP_X, DOWN_X = (sum(1 << k for k in range(27) if k % 3 != side) for side in (0, 2))
UP_Y, DOWN_Y = (sum(1 << k for k in range(27) if k // 3 % 3 != side) for side in (0, 2))
"""Where a step along an axis can end."""


@njit(cache=True, nogil=True)
@no_type_check
def _wider(places: int, corners: bool) -> int:
    """Return places and their neighbours."""
    along_x = places << 1 & UP_X | places >> 1 & DOWN_X
    first = places | along_x
    second = first if corners else places
    along_y = second << 3 & UP_Y | second >> 3 & DOWN_Y
    third = first | along_y if corners else places
    return (first | along_y | third << 9 | third >> 9) & EVERY


@njit(cache=True, nogil=True)
@no_type_check
def _one_of_each(present: int, bits: np.ndarray, wanted: int, corners: bool) -> int:
    """Return the first step to each of the parts that hang together, as bits."""
    left = present & wanted
    steps = 0
    step = 0
    while left:
        while not left >> bits[step] & 1:
            step += 1
        steps |= 1 << step
        reached = np.int64(1) << bits[step]
        while True:
            more = _wider(reached, corners) & present
            if more == reached:
                break
            reached = more
        left &= ~reached
    return steps


@njit(cache=True, nogil=True)
@no_type_check
def needed_steps(rank: np.ndarray, bits: np.ndarray, corners: bool) -> np.ndarray:
    """Return for each pixel of padded volumes (n, d, h, w) the steps to take, as bits.

    Args:
        rank: when each pixel comes; images have d = 1 and no border there.
        bits: place of each step among the 27.
        corners: pixels that share a corner are neighbours.
    """
    n, depth, height, width = rank.shape
    taken = np.zeros(rank.shape, dtype=np.int32)
    around = np.zeros(width, dtype=np.int32)
    low, high = (0, 1) if depth == 1 else (1, depth - 1)
    wanted = 0
    for bit in bits:
        wanted |= 1 << bit
    # Around a pixel of an image there are few cases.
    flat = np.zeros(512, dtype=np.int32)
    for case in range(512 if depth == 1 else 0):
        flat[case] = _one_of_each(np.int64(case) << 9, bits, wanted, corners)
    for i in range(n):
        for z in range(low, high):
            for y in range(1, height - 1):
                here = rank[i, z, y]
                around[:] = 0
                for k in range(27):
                    if k == 13 or (depth == 1 and k // 9 != 1):
                        continue
                    beside = rank[i, z + k // 9 - 1, y + k // 3 % 3 - 1]
                    shift = k % 3 - 1
                    for x in range(1, width - 1):
                        around[x] |= np.int32(beside[x + shift] < here[x]) << k
                out = taken[i, z, y]
                for x in range(1, width - 1):
                    if depth == 1:
                        out[x] = flat[around[x] >> 9]
                    else:
                        out[x] = _one_of_each(np.int64(around[x]), bits, wanted, corners)
    return taken
