"""How many tunnels two masks of a volume have in common, by where they are.

Notation: P and T two masks, U = P or T, H_1 the tunnels over Z/2, i_P: H_1(P) -> H_1(U).  What both
have in common is what both show of U's tunnels:

    shared = dim (im i_P and im i_T) = rank i_P + rank i_T - dim (im i_P + im i_T)

which needs no order of voxels and is the same for mirrored masks.

* rank i_P: tunnels of P that outlast the step to U, by persistence of the volume P + U.
* dim (im i_P + im i_T) = b1(U) - b1(G), where G is U with every component of P and of T shrunk to a
  point of its own: the tunnels of U that neither has.  G is a graph with a point per component and
  an edge per component of (P and T), to which "vertices" adds the edges of the grid that join P
  without T to T without P, and the squares among them as relations.

Source: the exact sequences of a pair and of Mayer and Vietoris (Edelsbrunner & Harer, Computational
Topology, 2010, chapter IV); that matching means a common image: Stucki et al. (ICML 2023).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from jaxtyping import Bool, Int, Int64
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from geo3d.topology.betti import betti_numbers, count_components
from geo3d.topology.grids import Pixels, label_components
from geo3d.topology.merging import stack
from geo3d.topology.tunnels import births_and_deaths

PLANES = ((0, 1), (0, 2), (1, 2))


def shared_tunnels(
    one: Bool[np.ndarray, "d h w"], two: Bool[np.ndarray, "d h w"], pixels: Pixels
) -> int:
    """Return the number of tunnels that two masks have in common."""
    both = one | two
    ranks = [_lasting(mask, both, pixels) for mask in (one, two)]
    if not all(ranks):
        return 0
    edges, relations = (_cell_edges if pixels == "cells" else _point_edges)(one, two)
    count, own = _free_classes(edges, relations)
    corners = pixels == "cells"
    points = sum(count_components(mask, corners=corners) for mask in (one, two))
    alone = count - own - (points - count_components(both, corners=corners))
    return sum(ranks) - (betti_numbers(both, pixels)[1] - alone)


def _lasting(
    mask: Bool[np.ndarray, "d h w"], both: Bool[np.ndarray, "d h w"], pixels: Pixels
) -> int:
    """Return how many tunnels of a mask are tunnels of both masks together."""
    levels = mask.astype(np.float32) + both
    births, deaths = births_and_deaths(stack(levels[None]), pixels)
    flat = levels.ravel()
    return int(np.count_nonzero((flat[births] == 2) & (flat[deaths] == 0)))


def _cell_edges(
    one: Bool[np.ndarray, "d h w"], two: Bool[np.ndarray, "d h w"]
) -> tuple[int, Int64[np.ndarray, "r 4"]]:
    """Return the number of edges: components of what the closed cubes of both masks share."""
    common = _cells(one) & _cells(two)
    return count_components(common, corners=False), np.empty((0, 4), dtype=np.int64)


def _cells(mask: Bool[np.ndarray, "d h w"]) -> Bool[np.ndarray, "a b c"]:
    """Return which cells of the grid of closed cubes belong to a mask, faces and corners too."""
    for axis in range(3):
        moved = np.moveaxis(mask, axis, 0)
        wide = np.zeros((2 * len(moved) + 1, *moved.shape[1:]), dtype=bool)
        wide[1::2] = moved
        wide[:-1:2] |= moved
        wide[2::2] |= moved
        mask = np.moveaxis(wide, 0, axis)
    return mask


def _point_edges(
    one: Bool[np.ndarray, "d h w"], two: Bool[np.ndarray, "d h w"]
) -> tuple[int, Int64[np.ndarray, "r 4"]]:
    """Return the number of edges, and the four or fewer that each square joins; -1 is none.

    A point of both masks is taken at its side of the first, so that a step from it to the second
    mask alone crosses the edge of its component.
    """
    common, count = label_components(one & two, corners=False)
    first, second = one & ~two, two & ~one
    along = []
    for axis in range(3):
        here, there = _halves(axis)
        number = np.full(one[here].shape, -1, dtype=np.int64)
        for a, b in ((here, there), (there, here)):
            crossing = (common[a] > 0) & second[b]
            number[crossing] = common[a][crossing] - 1
        mixed = (first[here] & second[there]) | (second[here] & first[there])
        number[mixed] = count + np.arange(np.count_nonzero(mixed))
        count += int(np.count_nonzero(mixed))
        along.append(number)
    both = one | two
    squares = []
    for a, b in PLANES:
        (here_a, there_a), (here_b, there_b) = _halves(a), _halves(b)
        present = both[here_a][here_b] & both[here_a][there_b]
        present &= both[there_a][here_b] & both[there_a][there_b]
        four = along[a][here_b], along[a][there_b], along[b][here_a], along[b][there_a]
        squares.append(np.stack([number[present] for number in four], axis=1))
    return count, np.concatenate(squares)


def _halves(axis: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Return all but the last and all but the first along an axis."""
    every = (slice(None),) * axis
    return (*every, slice(None, -1)), (*every, slice(1, None))


def _free_classes(count: int, relations: Int[np.ndarray, "r 4"]) -> tuple[int, int]:
    """Return how many classes of edges relations of two leave, and the rank of all others."""
    ordered = np.sort(relations, axis=1)
    pairs = ordered[(ordered[:, 1] < 0) & (ordered[:, 2] >= 0)][:, 2:]
    graph = sparse.coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), (count, count))
    classes, of_edge = connected_components(graph, directed=False)
    fours = of_edge[ordered[ordered[:, 0] >= 0]]
    return int(classes), _rank(set(map(tuple, np.unique(np.sort(fours, axis=1), axis=0).tolist())))


def _rank(rows: Iterable[tuple[int, ...]]) -> int:
    """Return the rank over Z/2 of rows, each a list of columns in which equal ones cancel."""
    owner: dict[int, frozenset[int]] = {}
    for row in rows:
        left: frozenset[int] = frozenset()
        for column in row:
            left = left ^ {column}
        while left and max(left) in owner:
            left = left ^ owner[max(left)]
        if left:
            owner[max(left)] = left
    return len(owner)
