"""The loops that numpy cannot do: compiled by numba on first use and cached beside the module.

Grids arrive flattened and padded by one pixel on every side, so that a neighbour is a fixed step
away and never outside.  `no_type_check` keeps run-time shape checks of the test suite away from
functions that Python never runs.
"""

from __future__ import annotations

from typing import no_type_check

import numpy as np
from numba import njit


@njit(cache=True)
@no_type_check
def find_root(parent: np.ndarray, node: int) -> int:
    """Return the root of a node's tree and shorten the path to it."""
    while parent[node] != node:
        parent[node] = parent[parent[node]]
        node = parent[node]
    return node


@njit(cache=True)
@no_type_check
def joining_edges(ends: np.ndarray, n_nodes: int) -> np.ndarray:
    """Say for each edge (m, 2) of a graph, taken in turn, whether it joins two components."""
    parent = np.arange(n_nodes)
    joins = np.zeros(ends.shape[0], dtype=np.bool_)
    for edge in range(ends.shape[0]):
        one = find_root(parent, ends[edge, 0])
        two = find_root(parent, ends[edge, 1])
        if one != two:
            parent[one] = two
            joins[edge] = True
    return joins


@njit(cache=True, nogil=True)
@no_type_check
def thin_in_place(mask: np.ndarray, iterations: int) -> None:
    """Thin a (h, w) mask with a border of zeros; see `geo3d.topology.skeleton.thin`."""
    height, width = mask.shape
    is_end = np.zeros(mask.shape, dtype=np.bool_)
    for _ in range(iterations):
        for i in range(1, height - 1):
            for j in range(1, width - 1):
                around = 0
                for a in range(-1, 2):
                    for b in range(-1, 2):
                        around += mask[i + a, j + b]
                is_end[i, j] = around <= 2
        for field in range(4):
            for i in range(1 + (1 + field) % 2, height - 1, 2):
                for j in range(1 + (1 + field // 2) % 2, width - 1, 2):
                    if mask[i, j] and not is_end[i, j] and _is_simple(mask, i, j):
                        mask[i, j] = 0


@njit(cache=True)
@no_type_check
def _is_simple(mask: np.ndarray, i: int, j: int) -> bool:
    """Say whether removing a pixel keeps the topology: one run of background sides."""
    sides = 0
    corners = 0
    for a, b in ((-1, 0), (0, 1), (1, 0), (0, -1)):
        if mask[i + a, j + b] == 0:
            sides += 1
            # The next side clockwise is (b, -a).
            if mask[i + b, j - a] == 0 and mask[i + a + b, j + b - a] == 0:
                corners += 1
    return sides - corners == 1
