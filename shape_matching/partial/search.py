"""Hypotheses of a partial map, on samples: found by isometry, ranked by rigidity as well.

Notation as in `shape_matching.partial.isometry`; a hypothesis is p2p (q,), a sample of 1 for every
sample of 2.  Distances cannot tell a map from its mirror twin; balls that would have to be turned
inside out can (`shape_matching.partial.deform`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from shape_matching.partial.deform import Start, strain
from shape_matching.partial.isometry import Pairing, beam, laterate
from shape_matching.partial.surface import Surface

APART_EARLY, APART = 0.06, 0.06
"""Mean distance between the images of two maps that count as different."""
KEPT_EARLY, KEPT = 100, 40
STRAIN_WEIGHT, STRAIN_RADIUS = 0.7, 0.4
"""Of the ranking: cost + weight * mean strain of the balls among the samples."""
SETTLING = 2
"""Times that all samples are mapped anew by their distances to each other."""
FEWEST_TRUSTED = 8


@dataclass(frozen=True, eq=False)
class Hypothesis:
    """A map of the samples of 2."""

    p2p: Int64[Tensor, " q"]
    trusted: Bool[Tensor, " q"]
    """Whether each sample fits well enough to have a counterpart."""
    cost: float
    """Mean cost of descriptors and distances, at least 0."""
    strain: float
    """Mean strain of the balls around the samples, 0 to 1."""

    @property
    def rank(self) -> float:
        """Lower is better."""
        return self.cost + STRAIN_WEIGHT * self.strain


def hypotheses(
    one: Surface, two: Surface, pair: Pairing, nothing: float | None = None
) -> list[Hypothesis]:
    """Return different maps of all samples of 2, best first.

    Args:
        nothing: see `shape_matching.partial.isometry.beam`.
    """
    begun = _different(beam(pair, nothing), pair, KEPT_EARLY, APART_EARLY)
    first = torch.arange(begun.shape[1])
    found = []
    for p2p in begun:
        known = p2p < len(pair.d1)
        found.append(_judged(one, two, pair, p2p[known], first[known], nothing))
    for _ in range(SETTLING):
        found = [
            _judged(one, two, pair, h.p2p[h.trusted], torch.nonzero(h.trusted)[:, 0], nothing)
            for h in chosen(found, pair, KEPT)
        ]
    return chosen(found, pair, KEPT)


def chosen(found: list[Hypothesis], pair: Pairing, count: int) -> list[Hypothesis]:
    """Return the best hypotheses of those whose images differ."""
    kept: list[Hypothesis] = []
    for new in sorted(found, key=lambda h: h.rank):
        if all(float(pair.d1[new.p2p, old.p2p].mean()) > APART for old in kept):
            kept.append(new)
            if len(kept) == count:
                break
    return kept


def _judged(
    one: Surface,
    two: Surface,
    pair: Pairing,
    images: Int64[Tensor, " m"],
    anchors: Int64[Tensor, " m"],
    nothing: float | None,
) -> Hypothesis:
    """Map all samples by their distances to the anchors, samples of 2 with known images."""
    p2p, cost = laterate(pair, images, anchors)
    trusted = torch.ones_like(p2p, dtype=torch.bool)
    if nothing is not None:
        # a map with hardly any counterpart is judged by all samples, and so comes last
        near = cost < nothing
        trusted = near if int(near.sum()) >= FEWEST_TRUSTED else trusted
        cost = cost.clamp(max=nothing)
    start = start_of(one, two, p2p, trusted)
    bent = strain(one, two, start, STRAIN_RADIUS)[trusted.numpy()]
    return Hypothesis(p2p, trusted, float(cost.mean()), float(bent.mean()))


def start_of(
    one: Surface, two: Surface, p2p: Int64[Tensor, " q"], trusted: Bool[Tensor, " q"]
) -> Start:
    """Return a map of samples as a map of vertices."""
    counts = trusted.numpy().astype(np.float64)
    return Start(two.samples, one.samples[p2p.numpy()], counts)


def _different(
    maps: Int64[Tensor, "s m"], pair: Pairing, count: int, apart: float
) -> Int64[Tensor, "n m"]:
    """Return the first maps of which each differs from those before it; going from a sample to
    nothing, or back, counts as twice ``apart``."""
    table = torch.nn.functional.pad(pair.d1, (0, 1, 0, 1), value=2 * apart)
    table[-1, -1] = 0.0
    kept = maps[:1]
    for new in maps[1:]:
        if float(table[new, kept].mean(dim=1).min()) > apart:
            kept = torch.cat([kept, new[None]])
            if len(kept) == count:
                break
    return kept
