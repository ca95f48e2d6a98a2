"""Where to sample along rays: uniform, warped, by a histogram, or only inside given segments.

Notation: s in [0, 1] is the normalised distance, t the ray's parameter; fenceposts (r, n + 1) bound
n intervals.  A histogram over fenceposts ``t`` has weights w (sum 1) or densities p = w / width.

Source: Barron et al. 2022, 2023 (mip-NeRF 360, Zip-NeRF), appendix on step functions; sampling
inside segments is ours.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

Warp = Literal["linear", "power", "piecewise"]
POWER = -1.5
_EPS = torch.finfo(torch.float32).eps


class Samples(NamedTuple):
    """Intervals along rays, ready for compositing."""

    middles: Float[Tensor, "r n"]
    """t of the point that stands for each interval."""
    lengths: Float[Tensor, "r n"]
    """How much of t each interval covers, gaps between segments left out."""
    edges: Float[Tensor, "r n1"]
    """Fenceposts in t."""


def power_transform(x: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Return |l-1|/l ((x/|l-1| + 1)^l - 1): linear near 0, bounded where l < 0."""
    scale = abs(POWER - 1)
    return scale / POWER * ((x / scale + 1) ** POWER - 1)


def power_transform_inverse(y: Float[Tensor, "*n"], *, compat: bool = False) -> Float[Tensor, "*n"]:
    """Return the x with ``power_transform(x) == y``.

    Args:
        compat: add a rounding error before the root, as released code does; it moves large x.
    """
    scale = abs(POWER - 1)
    extra = torch.finfo(y.dtype).eps if compat else 0.0
    return scale * ((y * POWER / scale + 1 + extra) ** (1 / POWER) - 1)


def s_to_t(
    s: Float[Tensor, "r n"],
    near: Float[Tensor, "r 1"],
    far: Float[Tensor, "r 1"],
    warp: Warp,
    *,
    compat: bool = False,
) -> Float[Tensor, "r n"]:
    """Turn normalised distances into ray parameters.

    Float32 in the power warp is centimetres off at 200 m; hand in float64 where that matters.
    ``compat``: see `power_transform_inverse`.
    """
    a, b = _forward(near, warp), _forward(far, warp)
    return _inverse(s * b + (1 - s) * a, warp, compat)


def t_to_s(
    t: Float[Tensor, "r n"], near: Float[Tensor, "r 1"], far: Float[Tensor, "r 1"], warp: Warp
) -> Float[Tensor, "r n"]:
    """Turn ray parameters into normalised distances."""
    a, b = _forward(near, warp), _forward(far, warp)
    return (_forward(t, warp) - a) / (b - a)


def stratified(
    count: int, jitter: Float[Tensor, "r 1"] | None, *, like: Tensor
) -> Float[Tensor, "_ n"]:
    """Return ``count`` sorted positions in [0, 1): middles of equal parts, or shifted per ray.

    Args:
        jitter: uniform in [0, 1), one per ray; None is deterministic.
        like: a tensor whose type and device to use.
    """
    options = {"dtype": like.dtype, "device": like.device}
    if jitter is None:
        pad = 1 / (2 * count)
        return torch.linspace(pad, 1 - pad - _EPS, count, **options)[None]
    most = _EPS + (1 - _EPS) / count
    step = (1 - most) / (count - 1) - _EPS if count > 1 else 1 - _EPS
    return torch.linspace(0, 1 - most, count, **options)[None] + jitter * step


def uniform_intervals(
    rays: int, count: int, jitter: Float[Tensor, "r 1"] | None = None
) -> Float[Tensor, "r n1"]:
    """Return fenceposts of ``count`` intervals in [0, 1]."""
    like = torch.zeros(()) if jitter is None else jitter
    centres = stratified(count, jitter, like=like).expand(rays, -1)
    return _fenceposts(centres)


def histogram_intervals(
    t: Float[Tensor, "r m1"],
    logits: Float[Tensor, "r m"],
    count: int,
    jitter: Float[Tensor, "r 1"] | None = None,
) -> Float[Tensor, "r n1"]:
    """Return fenceposts of ``count`` intervals, dense where the histogram softmax(logits) is."""
    centres = stratified(count, jitter, like=t).expand(len(t), -1)
    cdf = integrate_weights(torch.softmax(logits, dim=-1))
    return _fenceposts(interpolate(centres, cdf, t))


def segment_samples(
    segments: Float[Tensor, "r s 2"],
    count: int,
    jitter: Float[Tensor, "r 1"] | None = None,
    falloff: float | None = None,
) -> Samples:
    """Return ``count`` intervals that cover only the inside of sorted, disjoint segments.

    An interval may end in one segment and begin in an earlier one; its length counts only the parts
    inside, and its middle always lies inside.

    Args:
        segments: entry and exit; padding has exit <= entry or is not finite.
        jitter: uniform in [0, 1), one per ray: shifts fenceposts together; None is deterministic.
        falloff: spacing grows behind each entry as 1 + depth / falloff, as the surface matters
            most; None spaces evenly.
    """
    enter, leave = segments[..., 0], segments[..., 1]
    sound = torch.isfinite(enter) & torch.isfinite(leave) & (leave > enter)
    enter = torch.where(sound, enter, torch.zeros_like(enter))
    length = torch.where(sound, leave - enter, torch.zeros_like(enter))
    mass = length if falloff is None else falloff * torch.log1p(length / falloff)
    mass_after, length_after = mass.cumsum(-1), length.cumsum(-1)
    u = torch.linspace(0, 1, count + 1, dtype=segments.dtype, device=segments.device)
    u = u.expand(len(segments), -1)
    if jitter is not None:
        moved = u + (jitter - 0.5) / count
        u = torch.cat([u[:, :1], moved[:, 1:-1], u[:, -1:]], dim=1)
    total = mass_after[:, -1:]
    both = torch.cat([u, (u[:, 1:] + u[:, :-1]) / 2], dim=1) * total
    which = torch.searchsorted(mass_after.contiguous(), both.contiguous(), right=True)
    # the end of the last real segment, not of the padding behind it
    last = (mass > 0).long().cumsum(-1).argmax(-1, keepdim=True)
    which = torch.minimum(which, last)
    inside = (both - (mass_after - mass).gather(1, which)).clamp(min=0)
    if falloff is not None:
        inside = falloff * torch.expm1(inside / falloff)
    inside = torch.minimum(inside, length.gather(1, which))
    t = enter.gather(1, which) + inside
    matter = (length_after - length).gather(1, which) + inside
    edges, middles = t[:, : count + 1], t[:, count + 1 :]
    lengths = (matter[:, 1 : count + 1] - matter[:, :count]).clamp(min=0)
    return Samples(middles, lengths, edges)


def integrate_weights(weights: Float[Tensor, "r n"]) -> Float[Tensor, "r n1"]:
    """Return the cumulated weights at the fenceposts; first 0, last 1."""
    inner = weights[..., :-1].cumsum(-1).clamp(max=1)
    zero = torch.zeros_like(weights[..., :1])
    return torch.cat([zero, inner, zero + 1], dim=-1)


def weights_to_density(
    t: Float[Tensor, "r n1"], weights: Float[Tensor, "r n"]
) -> Float[Tensor, "r n"]:
    """Divide weights by the widths of their bins."""
    return weights / t.diff(dim=-1).clamp(min=_EPS)


def percentiles(
    t: Float[Tensor, "r n1"], weights: Float[Tensor, "r n"], fractions: Float[Tensor, " k"]
) -> Float[Tensor, "r k"]:
    """Return where the cumulated weights reach each fraction."""
    wanted = fractions.to(t).expand(len(t), -1)
    return interpolate(wanted, integrate_weights(weights), t)


def dilate(
    t: Float[Tensor, "r n1"],
    weights: Float[Tensor, "r n"],
    radius: float,
    domain: tuple[float, float] = (0.0, 1.0),
) -> tuple[Float[Tensor, "r m1"], Float[Tensor, "r m"]]:
    """Return a histogram whose density is the greatest within ``radius``, weights summing to 1."""
    density = weights_to_density(t, weights)
    low, high = t[..., :-1] - radius, t[..., 1:] + radius
    edges = torch.cat([t, low, high], dim=-1).sort(dim=-1)[0].clamp(*domain)
    at = edges[..., :-1, None]
    covers = (low[..., None, :] <= at) & (high[..., None, :] > at)
    grown = torch.where(covers, density[..., None, :], torch.zeros_like(at)).amax(-1)
    grown = grown * edges.diff(dim=-1)
    return edges, grown / grown.sum(-1, keepdim=True).clamp(min=_EPS**2)


def blur(
    t: Float[Tensor, "r n1"], density: Float[Tensor, "r n"], radius: float
) -> tuple[Float[Tensor, "r m"], Float[Tensor, "r m"]]:
    """Convolve a step function with a box of half-width ``radius``: a piecewise linear function.

    Returns its knots and its values there.
    """
    knots, order = torch.cat([t - radius, t + radius], dim=-1).sort(dim=-1)
    zero = torch.zeros_like(density[..., :1])
    slope = (torch.cat([density, zero], -1) - torch.cat([zero, density], -1)) / (2 * radius)
    slope = torch.cat([slope, -slope], dim=-1).gather(-1, order[..., :-1])
    values = (knots.diff(dim=-1) * slope.cumsum(-1)).cumsum(-1).clamp(min=0)
    return knots, torch.cat([zero, values], dim=-1)


def interpolate(
    x: Float[Tensor, "r n"], xs: Float[Tensor, "r m"], ys: Float[Tensor, "r m"]
) -> Float[Tensor, "r n"]:
    """Return the piecewise linear function through (xs, ys), xs sorted, constant outside."""
    left, right = bracket(x, xs)
    x0, x1 = xs.gather(-1, left), xs.gather(-1, right)
    y0, y1 = ys.gather(-1, left), ys.gather(-1, right)
    return y0 + share(x, x0, x1) * (y1 - y0)


def bracket(x: Float[Tensor, "r n"], xs: Float[Tensor, "r m"]) -> tuple[Tensor, Tensor]:
    """Return the indices of the last knot <= x and the first knot > x, kept in range."""
    right = torch.searchsorted(xs.contiguous(), x.contiguous(), right=True)
    last = xs.shape[-1] - 1
    return (right - 1).clamp(0, last), right.clamp(0, last)


def share(x: Tensor, x0: Tensor, x1: Tensor) -> Tensor:
    """Return how far x is on the way from x0 to x1, in [0, 1]; 0 where they coincide."""
    gap = x1 - x0
    return torch.where(gap > 0, (x - x0) / torch.where(gap > 0, gap, 1), 0).clamp(0, 1)


def _fenceposts(centres: Float[Tensor, "r n"]) -> Float[Tensor, "r n1"]:
    middle = (centres[:, 1:] + centres[:, :-1]) / 2
    first = (2 * centres[:, :1] - middle[:, :1]).clamp(min=0)
    last = (2 * centres[:, -1:] - middle[:, -1:]).clamp(max=1)
    return torch.cat([first, middle, last], dim=1)


def _forward(t: Tensor, warp: Warp) -> Tensor:
    if warp == "power":
        return power_transform(t * 2)
    if warp == "piecewise":
        return torch.where(t < 1, t / 2, 1 - 0.5 / t.clamp(min=0.5))
    return t


def _inverse(y: Tensor, warp: Warp, compat: bool) -> Tensor:
    if warp == "power":
        return power_transform_inverse(y, compat=compat) / 2
    if warp == "piecewise":
        return torch.where(y < 0.5, 2 * y, 0.5 / (1 - y.clamp(min=0.25)))
    return y
