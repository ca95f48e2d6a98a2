"""How far a map of samples is from keeping distances, and a beam search for maps that keep them.

Notation: ``p2p`` (..., m) gives each of the first m samples of 2 a sample of 1; p samples of 1,
s maps side by side.  Every distance comes as the interval in which the true one lies
(`shape_matching.partial.surface`): d is its upper end, l the lower one.

The search goes through the samples of 2 in farthest-point order and tries for each all samples of
1; the best maps that differ in coarse cells are kept, few per beginning.  This is a tree of
correspondences pruned by isometry, as in tree-based and RANSAC matching (Tevs et al. 2009; Rodola
et al. 2012 for isometry as the only criterion), with discs as descriptors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from shape_matching.partial.surface import FAR, Surface

SLACK, STRETCH = 0.04, 0.1
"""A distance may be off by this length, and by this share of itself, at cost 1."""
MOST = 4.0
"""Largest cost of one distance: points with no counterpart must not decide."""
SOFT = 0.35
"""Weight of a difference within the intervals, which paths around a cut explain."""
DISC_SCALE, DISC_MOST, DISC_PRIOR = 0.15, 3.0, 1.0
"""Squared difference of discs at cost 1, largest cost, and what no difference at all counts as."""
BEND_SCALES = {0: 6.0, 2: 4.0}
"""By scale of the curvature, the difference at cost 1."""
BEND_WEIGHT, BEND_MOST = 0.5, 3.0
CELLS = 40
"""Coarse cells of 1: maps that agree in all of them are one."""
POINTS, WIDTH, PREFIX, PER_PREFIX = 12, 4_000, 4, 16
"""Samples of 2 that the beam maps, its width, and how many maps may share the first few cells."""
POOL = 20
"""Extensions looked at per kept map."""


@dataclass(frozen=True, eq=False)
class Pairing:
    """What comparing the samples of two surfaces needs, computed once."""

    d1: Float[Tensor, "p p"]
    l1: Float[Tensor, "p p"]
    d2: Float[Tensor, "q q"]
    l2: Float[Tensor, "q q"]
    unlike: Float[Tensor, "q p"]
    """How unlike the surroundings of each sample of 2 and of 1 are, at least 0."""


def pairing(one: Surface, two: Surface) -> Pairing:
    """Compare the samples of two surfaces."""
    (d1, l1), (d2, l2) = _ends(one), _ends(two)
    return Pairing(d1, l1, d2, l2, _tensor(_unlike(one, two)))


def _ends(shape: Surface) -> tuple[Float[Tensor, "p p"], Float[Tensor, "p p"]]:
    """Return the upper and the lower ends of the distances among the samples."""
    border = shape.border[shape.samples]
    lower = np.minimum(shape.between, border[:, None] + border)
    return _tensor(shape.between), _tensor(lower)


def _unlike(one: Surface, two: Surface) -> Float[np.ndarray, "q p"]:
    both = (one.described[None] & two.described[:, None]).astype(np.float64)
    apart = np.square(one.discs[None] - two.discs[:, None]).sum(axis=-1)
    cost = (np.minimum(apart / DISC_SCALE, DISC_MOST) * both).sum(axis=-1)
    cost /= both.sum(axis=-1) + DISC_PRIOR
    for column, scale in BEND_SCALES.items():
        bend_1, bend_2 = (s.curvature[s.samples, column] for s in (one, two))
        apart = np.square((bend_2[:, None] - bend_1[None]) / scale)
        cost += BEND_WEIGHT * np.minimum(apart, BEND_MOST)
    return cost


def violation(d2: Tensor, l2: Tensor, d1: Tensor, l1: Tensor) -> Tensor:
    """Return the cost, 0 to `MOST`, of the true distance lying in [l2, d2] and in [l1, d1].

    The arguments are broadcast.  Where the intervals are apart the gap counts in full; the
    difference of their upper ends always counts a little.
    """
    gap = torch.maximum(l1 - d2, l2 - d1).clamp(min=0)
    joined = ((d1 < FAR) & (d2 < FAR)).to(gap)
    gap = torch.maximum(gap, SOFT * (d1 - d2).abs() * joined)
    return (gap / (SLACK + STRETCH * torch.minimum(d1, d2))).square_().clamp_(max=MOST)


def beam(pair: Pairing, nothing: float | None = None) -> Int64[Tensor, "s m"]:
    """Return maps of the first samples of 2, best first; see the module.

    Args:
        nothing: cost of a sample without counterpart, which then maps to index p; None where every
            sample has one.
    """
    d1, l1, unlike, cell = pair.d1, pair.l1, pair.unlike, pair.d1[:, :CELLS].argmin(dim=1)
    if nothing is not None:
        d1, l1 = (torch.nn.functional.pad(t, (0, 1, 0, 1), value=torch.nan) for t in (d1, l1))
        unlike = torch.nn.functional.pad(unlike, (0, 1), value=nothing)
        cell = torch.nn.functional.pad(cell, (0, 1), value=CELLS)
    n = len(d1)
    code = torch.randint(1, 2**40, (POINTS,), generator=torch.Generator().manual_seed(0))
    maps, cost, key = torch.arange(n)[:, None], unlike[0], cell * code[0]
    beginning = key
    for j in range(1, min(POINTS, len(pair.d2))):
        total = cost[:, None] + unlike[j]
        for i in range(j):
            at = maps[:, i]
            broken = violation(pair.d2[i, j], pair.l2[i, j], d1[at], l1[at])
            if nothing is not None:
                # lengths to the place without counterpart are not known
                broken = torch.where(broken.isnan(), nothing / 2, broken)
            total += broken * (2 / j)
        best = torch.topk(total.flatten(), min(POOL * WIDTH, total.numel()), largest=False)
        cost, row, column = best.values, best.indices // n, best.indices % n
        key = key[row] + cell[column] * code[j]
        beginning = key if j < PREFIX else beginning[row]
        kept = _first_of(key, 1)
        if j >= PREFIX:
            kept = kept[_first_of(beginning[kept], PER_PREFIX)]
        kept = kept[:WIDTH]
        maps = torch.cat([maps[row[kept]], column[kept, None]], dim=1)
        cost, key, beginning = cost[kept], key[kept], beginning[kept]
    return maps


def laterate(
    pair: Pairing, images: Int64[Tensor, " m"], anchors: Int64[Tensor, " m"]
) -> tuple[Int64[Tensor, " q"], Float[Tensor, " q"]]:
    """Map all samples of 2 by their distances to ``anchors``, samples of 2 with known images.

    Returns:
        A sample of 1 for each sample of 2, and its cost: descriptors and mean violation.
    """
    broken = torch.zeros_like(pair.unlike)
    for at, image in zip(anchors.tolist(), images.tolist(), strict=True):
        broken += violation(
            pair.d2[at][:, None], pair.l2[at][:, None], pair.d1[image], pair.l1[image]
        )
    least = (pair.unlike / 2 + 2 * broken / max(len(anchors), 1)).min(dim=1)
    return least.indices, least.values


def _first_of(key: Int64[Tensor, " n"], count: int) -> Int64[Tensor, " m"]:
    """Return the positions of the first ``count`` items of every key, in order."""
    order = torch.argsort(key, stable=True)
    sorted_key = key[order]
    start = torch.ones_like(sorted_key, dtype=torch.bool)
    start[1:] = sorted_key[1:] != sorted_key[:-1]
    place = torch.arange(len(key))
    begun = torch.where(start, place, 0).cummax(0).values
    return order[place - begun < count].sort().values


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, np.float32))
