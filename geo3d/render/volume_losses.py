"""Losses on the weights along rays: compact intervals, and proposals that cover what follows.

Notation: s (r, n + 1) fenceposts in [0, 1], w (r, n) weights; "proposal" is the coarser histogram
that chose where to sample.  All return one number per ray or per interval, to be averaged.
Source: mip-NeRF 360 (distortion, interlevel), Zip-NeRF (anti-aliased interlevel).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from geo3d.render.intervals import blur, bracket, share

_EPS = torch.finfo(torch.float32).eps


def distortion(s: Float[Tensor, "r n1"], weights: Float[Tensor, "r n"]) -> Float[Tensor, " r"]:
    """Return sum_ij w_i w_j |m_i - m_j| + sum_i w_i^2 width_i / 3, m the middles.

    Written with running sums: time and memory grow with n, not n squared.
    """
    middles = (s[:, 1:] + s[:, :-1]) / 2
    moments = weights * middles
    before = weights.cumsum(1) - weights
    moments_before = moments.cumsum(1) - moments
    apart = 2 * (weights * (middles * before - moments_before)).sum(1)
    return apart + (weights**2 * s.diff(dim=1)).sum(1) / 3


def inner_outer(
    s: Float[Tensor, "r n1"],
    s_proposal: Float[Tensor, "r m1"],
    proposal: Float[Tensor, "r m"],
) -> tuple[Float[Tensor, "r n"], Float[Tensor, "r n"]]:
    """Return the proposal's weight of bins wholly inside each interval, and of bins touching it."""
    cumulated = torch.cat([torch.zeros_like(proposal[:, :1]), proposal.cumsum(1)], dim=1)
    below, above = bracket(s, s_proposal)
    at_below, at_above = cumulated.gather(1, below), cumulated.gather(1, above)
    outer = at_above[:, 1:] - at_below[:, :-1]
    holds_bins = above[:, :-1] <= below[:, 1:]
    inside = at_below[:, 1:] - at_above[:, :-1]
    return torch.where(holds_bins, inside, torch.zeros_like(inside)), outer


def interlevel(
    s: Float[Tensor, "r n1"],
    weights: Float[Tensor, "r n"],
    s_proposal: Float[Tensor, "r m1"],
    proposal: Float[Tensor, "r m"],
) -> Float[Tensor, "r n"]:
    """Return how much weight the proposal fails to cover: max(w - outer, 0)^2 / w."""
    _, outer = inner_outer(s, s_proposal, proposal)
    return (weights - outer).clamp(min=0) ** 2 / (weights + _EPS)


def smooth_interlevel(
    s: Float[Tensor, "r n1"],
    weights: Float[Tensor, "r n"],
    s_proposal: Float[Tensor, "r m1"],
    proposal: Float[Tensor, "r m"],
    pulse: float = 0.03,
) -> Float[Tensor, "r m"]:
    """Return the same against the weights blurred by ``pulse`` and resampled to the proposal."""
    knots, density = blur(s, weights / s.diff(dim=1), pulse)
    area = (density[:, 1:] + density[:, :-1]) / 2 * knots.diff(dim=1)
    cumulated = torch.cat([torch.zeros_like(area[:, :1]), area.cumsum(1)], dim=1)
    left, right = bracket(s_proposal, knots)
    x0, x1 = knots.gather(1, left), knots.gather(1, right)
    d0, d1 = density.gather(1, left), density.gather(1, right)
    part = share(s_proposal, x0, x1)
    at = cumulated.gather(1, left)
    at = at + (s_proposal - x0) * (d0 + d1 * part + d0 * (1 - part)) / 2
    return (at.diff(dim=1) - proposal).clamp(min=0) ** 2 / (proposal + 1e-5)
