"""Volume rendering: densities and colours along rays become pixels.

Notation: sigma_i density per metre and delta_i length in metres of interval i;
alpha_i = 1 - exp(-sigma_i delta_i), T_i = exp(-sum_{j<i} sigma_j delta_j), w_i = alpha_i T_i.
Source: Max 1995; Mildenhall et al. 2020 (NeRF).

Losses on the weights along rays: compact intervals, and proposals that cover what follows.

Notation: s (r, n + 1) fenceposts in [0, 1], w (r, n) weights; "proposal" is the coarser histogram
that chose where to sample.  All return one number per ray or per interval, to be averaged.
Source: mip-NeRF 360 (distortion, interlevel), Zip-NeRF (anti-aliased interlevel).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from geo3d.render.intervals import blur, bracket, percentiles, share

_EPS = torch.finfo(torch.float32).eps


class Weights(NamedTuple):
    """What each interval contributes."""

    weights: Float[Tensor, "r n"]
    alpha: Float[Tensor, "r n"]
    transmittance: Float[Tensor, "r n"]
    """Light that reaches the interval."""


class Pixels(NamedTuple):
    """What a ray sees."""

    rgb: Float[Tensor, "r c"]
    depth: Float[Tensor, " r"]
    """Mean t of what is seen; depth along z for rays of `camera_rays`."""
    acc: Float[Tensor, " r"]
    """Opacity, 0 to 1."""


def alpha_weights(
    density: Float[Tensor, "r n"],
    lengths: Float[Tensor, "r n"],
    directions: Float[Tensor, "r 3"],
    *,
    opaque_end: bool = False,
) -> Weights:
    """Return the weights of intervals.

    Args:
        density: per metre.
        lengths: of the intervals in t; metres are these times the length of the direction.
        opaque_end: whether the last interval stops all light.
    """
    optical = density * lengths * directions.norm(dim=-1, keepdim=True)
    if opaque_end:
        wall = torch.full_like(optical[:, :1], math.inf)
        optical = torch.cat([optical[:, :-1], wall], dim=1)
    before = torch.cat([torch.zeros_like(optical[:, :1]), optical[:, :-1].cumsum(1)], dim=1)
    alpha = -torch.expm1(-optical)
    transmittance = torch.exp(-before)
    return Weights(alpha * transmittance, alpha, transmittance)


def composite(
    weights: Float[Tensor, "r n"],
    rgb: Float[Tensor, "r n c"],
    middles: Float[Tensor, "r n"],
    near: Float[Tensor, " r"],
    far: Float[Tensor, " r"],
    background: Float[Tensor, "r c"] | None = None,
) -> Pixels:
    """Mix colours and depths by weights; what is left of the light comes from the background.

    Depth is kept inside [near, far]; a ray that meets nothing has depth near.
    """
    acc = weights.sum(1)
    mixed = (weights[..., None] * rgb).sum(1)
    if background is not None:
        mixed = mixed + (1 - acc).clamp(min=0)[:, None] * background
    depth = (weights * middles).sum(1) / acc.clamp(min=_EPS)
    return Pixels(mixed, torch.minimum(torch.maximum(depth, near), far), acc)


def mean_log_distance(
    weights: Float[Tensor, "r n"], edges: Float[Tensor, "r n1"]
) -> Float[Tensor, " r"]:
    """Return exp of the mean log distance, kept inside the outer edges."""
    middles = (edges[:, 1:] + edges[:, :-1]) / 2
    mean = (weights * middles.log()).sum(1) / weights.sum(1).clamp(min=_EPS)
    return torch.minimum(torch.maximum(mean.exp(), edges[:, 0]), edges[:, -1])


def distance_percentiles(
    weights: Float[Tensor, "r n"],
    edges: Float[Tensor, "r n1"],
    fractions: tuple[float, ...] = (0.05, 0.5, 0.95),
) -> Float[Tensor, "r k"]:
    """Return the distances by which given parts of the light were stopped.

    Light that passes everything is stopped at the last edge.
    """
    passed = (1 - weights.sum(1, keepdim=True)).clamp(min=0)
    edges = torch.cat([edges, edges[:, -1:]], dim=1)
    return percentiles(edges, torch.cat([weights, passed], dim=1), torch.tensor(fractions))


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
