"""Samplers: from noise to a sample, as a function of a denoiser.

Notation: s samples; sigma noise level; d = (x - D(x; sigma)) / sigma the slope dx / d sigma of the
probability flow.

Source: Karras et al. 2022, algorithm 1 (deterministic, Heun's second-order steps).
"""

from __future__ import annotations

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from geo3d.distill.losses import Denoise
from geo3d.progress import ProgressCallback, ignore_progress, report


def karras_levels(
    n: int, smallest: float = 0.002, largest: float = 80.0, rho: float = 7.0
) -> Float[Tensor, " i"]:
    """Return ``n`` levels from ``largest`` to ``smallest``, even in sigma^(1/rho), and a last 0."""
    ends = largest ** (1 / rho), smallest ** (1 / rho)
    levels = torch.linspace(*ends, n, dtype=torch.float64) ** rho
    return torch.cat([levels, levels.new_zeros(1)]).float()


@torch.no_grad()
def heun(
    denoise: Denoise,
    unit_noise: Float[Tensor, "s ..."],
    levels: Float[Tensor, " i"],
    progress: ProgressCallback = ignore_progress,
) -> Float[Tensor, "s ..."]:
    """Return the samples that the probability flow makes of ``unit_noise``.

    Args:
        denoise: D(x, sigma).
        unit_noise: standard normal; scaled by the first level.
        levels: falling noise levels, the last 0 (`karras_levels`).
        progress: told after every level.
    """

    def slope(x: Tensor, sigma: Tensor) -> Tensor:
        return (x - denoise(x, sigma.expand(len(x)))) / sigma

    x, levels = unit_noise * levels[0], levels.to(unit_noise)
    for i, (sigma, lower) in enumerate(pairwise(levels)):
        first = slope(x, sigma)
        ahead = x + (lower - sigma) * first
        if lower > 0:
            ahead = x + (lower - sigma) * (first + slope(ahead, lower)) / 2
        x = ahead
        report(progress, "sampling", i + 1, len(levels) - 1)
    return x
