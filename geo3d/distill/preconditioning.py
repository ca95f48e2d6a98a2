"""Denoisers: how a network F becomes one whose input and output have unit scale, and its loss.

    D(x; sigma) = c_skip(sigma) x + c_out(sigma) F(c_in(sigma) x, c_noise(sigma))
    loss        = weight(sigma) (D(x + sigma n; sigma) - x)^2,    n ~ N(0, 1)

Notation: b batch; sigma noise level, the standard deviation of the noise in x.

Source: Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models" (2022),
table 1: columns "iDDPM + DDIM", "Ours" and "VE".
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from geo3d.distill.levels import LevelDistribution

Denoise = Callable[[Tensor, Tensor], Tensor]
"""D(x, sigma) for noisy items x (b, ...) and their noise levels sigma (b,)."""
Network = Callable[[Tensor, Tensor], Tensor]
"""F(x, c_noise) for x (b, ...) and c_noise (b,)."""


class Coefficients(NamedTuple):
    """The four scalars of a preconditioning, one of each per item."""

    c_skip: Float[Tensor, " b"]
    c_out: Float[Tensor, " b"]
    c_in: Float[Tensor, " b"]
    c_noise: Float[Tensor, " b"]


@dataclass(frozen=True)
class EDM:
    """The preconditioning of Karras et al.: F sees and predicts unit variance at every level."""

    sigma_data: float = 0.18
    """Root mean square of the clean items; 0.18 is that of the shipped prior's."""

    def coefficients(self, sigma: Float[Tensor, " b"]) -> Coefficients:
        """Return the scalars for the noise levels ``sigma``, which are positive."""
        total = sigma.square() + self.sigma_data**2
        return Coefficients(
            c_skip=self.sigma_data**2 / total,
            c_out=sigma * self.sigma_data / total.sqrt(),
            c_in=total.rsqrt(),
            c_noise=sigma.log() / 4,
        )


@dataclass(frozen=True)
class IDDPM:
    """The preconditioning of improved DDPM: F predicts the noise, up to its sign.

    The level is told as the index of the nearest of ``steps`` discrete levels, counted from the
    noisiest; sigma 0 has the index -1.
    """

    steps: int = 1000
    c1: float = 0.001
    c2: float = 0.008

    def coefficients(self, sigma: Float[Tensor, " b"]) -> Coefficients:
        """Return the scalars for the noise levels ``sigma``."""
        return Coefficients(
            c_skip=torch.ones_like(sigma),
            c_out=-sigma,
            c_in=(sigma.square() + 1).rsqrt(),
            c_noise=(self.steps - 1 - self.nearest_level(sigma)).to(sigma.dtype),
        )

    def nearest_level(self, sigma: Float[Tensor, " b"]) -> Int64[Tensor, " b"]:
        """Return the index of the nearest discrete level, 0 for the noisiest."""
        levels = self.levels().to(sigma)
        return (sigma[:, None] - levels).abs().argmin(dim=1)

    def levels(self) -> Float[Tensor, " j"]:
        """Return the ``steps + 1`` discrete levels, falling to 0."""
        return _iddpm_levels(self.steps, self.c1, self.c2)


@dataclass(frozen=True)
class VE:
    """The preconditioning of variance-exploding score models: F predicts the noise."""

    def coefficients(self, sigma: Float[Tensor, " b"]) -> Coefficients:
        """Return the scalars for the noise levels ``sigma``, which are positive."""
        one = torch.ones_like(sigma)
        return Coefficients(c_skip=one, c_out=sigma, c_in=one, c_noise=(sigma / 2).log())


Preconditioning = EDM | IDDPM | VE


def denoise(
    network: Network,
    preconditioning: Preconditioning,
    x: Float[Tensor, "b ..."],
    sigma: Float[Tensor, " b"],
) -> Float[Tensor, "b ..."]:
    """Return D(x; sigma), the estimate of the clean items whose noise level is ``sigma``."""
    c = preconditioning.coefficients(sigma)
    raw = network(_per_item(c.c_in, x) * x, c.c_noise)
    return _per_item(c.c_skip, x) * x + _per_item(c.c_out, x) * raw


def denoising_loss(
    denoise: Denoise,
    x: Float[Tensor, "b ..."],
    sigma: Float[Tensor, " b"],
    noise: Float[Tensor, "b ..."],
    levels: LevelDistribution,
) -> Float[Tensor, "b ..."]:
    """Return the weighted squared error of the denoised ``x + sigma noise``, entry by entry.

    Training sums it over an item and averages over the batch.
    """
    error = denoise(x + _per_item(sigma, x) * noise, sigma) - x
    return _per_item(levels.weight(sigma), x) * error.square()


def _per_item(scalars: Float[Tensor, " b"], x: Float[Tensor, "b ..."]) -> Tensor:
    return scalars.to(x.dtype).reshape(-1, *[1] * (x.ndim - 1))


@lru_cache(maxsize=8)
def _iddpm_levels(steps: int, c1: float, c2: float) -> Float[Tensor, " j"]:
    # In single precision step by step, as published: near 0 the rounding shows in the table.
    angles = 0.5 * math.pi * torch.arange(steps + 1, dtype=torch.float32) / steps / (c2 + 1)
    alpha_bar = angles.sin().square()
    ratios = (alpha_bar[:-1] / alpha_bar[1:]).clamp(min=c1)
    levels = torch.zeros(steps + 1)
    for j in range(steps, 0, -1):
        levels[j - 1] = ((levels[j].square() + 1) / ratios[j - 1] - 1).sqrt()
    return levels
