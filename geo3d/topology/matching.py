"""Betti matching: which features of two images are the same, by where they are.

Notation: f the prediction, g the truth, u = max(f, g) the comparison; superlevel sets of f and g
lie inside those of u.  A feature is a component (dimension 0) or a hole (the last dimension) with
the pixel of its birth and of its death.  Image persistence says which feature of u a feature of f
is still seen as; a feature of f and one of g that are seen as the same feature of u are matched.

* Dimension 0: components of u merge; each merge ends one component of u and one each of those that
  f and g began.
* Tunnels: loops that begin in the order of f and end in that of u, `geo3d.topology.tunnels`; a
  tunnel of f and one of g that end at the same square of u are matched.
* The last dimension: dark components of f merge; each ends one hole of f and one that u began.
* The component that never dies is always matched; its death has no pixel (-1).

A feature of f that is gone from u before it was born in f is not seen in u at all: such matches are
left out, but kept with ``loose``, as the published code does in 2D.
Source: Stucki et al., Topologically faithful image segmentation via induced matching of persistence
barcodes (2023), and Efficient Betti matching enables topology-aware 3D segmentation via persistent
homology (2024); Bauer & Lesnick, Induced matchings and the algebraic stability of persistence
barcodes (2015).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

from geo3d.topology.grids import Pixels, check_pixels
from geo3d.topology.merging import Stack, cavity_merges, component_merges, stack
from geo3d.topology.tunnels import Grid, grids


@dataclass(frozen=True)
class Matching:
    """Features of one dimension as flat indices (birth, death) into the stack; -1 never dies.

    Attributes:
        matched: birth and death in the prediction, then birth and death in the truth.
        predicted: features of the prediction alone.
        true: features of the truth alone.
    """

    matched: Int[np.ndarray, "m 4"]
    predicted: Int[np.ndarray, "p 2"]
    true: Int[np.ndarray, "t 2"]


@dataclass(frozen=True)
class _Tunnels:
    """Tunnels of one image as seen in the comparison.

    Attributes:
        pairs: birth and death.
        seen_as: number of what each is in the comparison.
        gone_at: voxel at which that ends there.
    """

    pairs: Int[np.ndarray, "m 2"]
    seen_as: Int[np.ndarray, " m"]
    gone_at: Int[np.ndarray, " m"]


def match_features(
    predicted: Float[np.ndarray, "n ..."],
    true: Float[np.ndarray, "n ..."],
    pixels: Pixels = "cells",
    *,
    loose: bool = False,
) -> tuple[Matching, ...]:
    """Match the features of each of n pairs: components, (3D: tunnels), holes (3D: cavities).

    Raises:
        ConfigError: "topology.unknown_pixels".
    """
    check_pixels(pixels)
    values = (predicted, true, np.maximum(predicted, true))
    flat = tuple(each.reshape(-1) for each in values)
    stacks = tuple(stack(each) for each in values)
    components = _match_components(flat, stacks, pixels, loose)
    cavities = _match_cavities(flat, stacks, pixels, loose)
    if predicted.ndim == 3:
        return components, cavities
    return components, _match_tunnels(flat, stacks, pixels), cavities


def _match_components(
    values: tuple[np.ndarray, ...], stacks: tuple[Stack, ...], pixels: Pixels, loose: bool
) -> Matching:
    common = component_merges(stacks[2], pixels, *stacks[:2])
    lasting = values[2][common.began()] > values[2][common.at]
    pairs, found = [], []
    for k in (0, 1):
        merges = component_merges(stacks[k], pixels)
        rows = np.flatnonzero(values[k][merges.began()] > values[k][merges.at])
        row_of_age = np.full(values[k].size, -1)
        row_of_age[merges.age[0, rows]] = np.arange(rows.size)
        seen = (
            lasting if loose else lasting & (values[k][common.began(k + 1)] > values[2][common.at])
        )
        found.append(np.where(seen, row_of_age[common.age[k + 1]], -1))
        pairs.append(np.stack([merges.began()[rows], merges.at[rows]], axis=1))
    both = (found[0] >= 0) & (found[1] >= 0)
    eldest = [each.eldest() for each in stacks]
    stays = np.full(len(eldest[0]), -1)
    forever = np.stack([eldest[0], stays, eldest[1], stays], axis=1)
    return _matching(pairs, [rows[both] for rows in found], forever)


def _match_cavities(
    values: tuple[np.ndarray, ...], stacks: tuple[Stack, ...], pixels: Pixels, loose: bool
) -> Matching:
    common = cavity_merges(stacks[2], pixels)
    lasting = np.flatnonzero(values[2][common.at] > values[2][common.began()])
    row_of_age = np.full(values[2].size * common.per_pixel, -1)
    row_of_age[common.age[0, lasting]] = np.arange(lasting.size)
    pairs, found = [], []
    for k in (0, 1):
        merges = cavity_merges(stacks[k], pixels, stacks[2])
        rows = np.flatnonzero(values[k][merges.at] > values[k][merges.began()])
        common_row = row_of_age[merges.age[1, rows]]
        seen = loose | (values[k][merges.at[rows]] > values[2][merges.began(1)[rows]])
        known = np.flatnonzero((common_row >= 0) & seen)
        row_of_common = np.full(lasting.size, -1)
        row_of_common[common_row[known]] = known
        found.append(row_of_common)
        pairs.append(np.stack([merges.at[rows], merges.began()[rows]], axis=1))
    both = (found[0] >= 0) & (found[1] >= 0)
    return _matching(pairs, [rows[both] for rows in found], np.empty((0, 4), dtype=np.int64))


def _matching(pairs: list[np.ndarray], rows: list[np.ndarray], forever: np.ndarray) -> Matching:
    matched = np.concatenate([pairs[k][rows[k]] for k in (0, 1)], axis=1)
    alone = [np.delete(pairs[k], rows[k], axis=0) for k in (0, 1)]
    return Matching(np.concatenate([forever, matched]), alone[0], alone[1])


def _match_tunnels(
    values: tuple[np.ndarray, ...], stacks: tuple[Stack, ...], pixels: Pixels
) -> Matching:
    every = []
    common_order = stacks[2]
    # Where levels tie, as in a label, the order of the comparison decides: it is as good as any,
    # and two orders that agree leave little to reduce.
    own = [_refined(each, common_order) for each in values[:2]]
    ordered = (*own, common_order)
    for mine, theirs, common in zip(*(grids(each, pixels) for each in ordered), strict=True):
        # A mask has the very order of the comparison: what is made of one is not made again.
        two = [common if np.array_equal(e.order, common.order) else e for e in (mine, theirs)]
        tunnels = [_tunnels(each, common, pixels) for each in two]
        seen = [
            np.where(values[k][t.pairs[:, 0]] > values[2][t.gone_at], t.seen_as, -1 - k)
            for k, t in enumerate(tunnels)
        ]
        _, *rows = np.intersect1d(seen[0], seen[1], return_indices=True)
        lasting = [
            values[k][t.pairs[:, 0]] > values[k][t.pairs[:, 1]] for k, t in enumerate(tunnels)
        ]
        both = lasting[0][rows[0]] & lasting[1][rows[1]]
        # Row numbers among those that last.
        pairs = [t.pairs[kept] for t, kept in zip(tunnels, lasting, strict=True)]
        rows = [np.cumsum(kept)[row[both]] - 1 for kept, row in zip(lasting, rows, strict=True)]
        every.append(_matching(pairs, rows, np.empty((0, 4), dtype=np.int64)))
    return Matching(
        *(
            np.concatenate([getattr(each, name) for each in every])
            for name in ("matched", "predicted", "true")
        )
    )


def _refined(values: Float[np.ndarray, " n"], common: Stack) -> Stack:
    """Return pixels in order of value and, of equal ones, in the order of another stack."""
    given = common.ascending.reshape(common.padded[0], -1)
    order = np.argsort(values[given], axis=1, kind="stable")
    ascending = np.take_along_axis(given, order, axis=1).reshape(-1)
    return replace(common, ascending=ascending)


def _tunnels(own: Grid, common: Grid, pixels: Pixels) -> _Tunnels:
    edges, squares = own.loops(own)
    begun, ended = own.order[edges // 6], own.order[squares // 12]
    if pixels == "cells":
        # Backwards: a square begins the tunnel, an edge ends it; the same squares, other edges.
        last, every = (edges, squares) if common is own else own.loops(common)
        last = last[np.searchsorted(every, squares)]
        return _Tunnels(np.stack([ended, begun], axis=1), last, common.order[last // 6])
    first, gone = (edges, squares) if common is own else common.loops(own)
    seen_as = np.full(6 * own.order.size, -1, dtype=np.int64)
    seen_as[first] = gone
    seen_as = seen_as[edges]
    # One that is left out ends in the comparison at the voxel that begins it.
    gone_at = np.where(seen_as < 0, begun, common.order[seen_as // 12])
    return _Tunnels(np.stack([begun, ended], axis=1), seen_as, gone_at)
