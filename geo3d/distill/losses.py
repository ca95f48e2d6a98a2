"""Losses that train a denoiser, and the noise levels they draw.

    loss = weight(sigma) (D(x + sigma n; sigma) - x)^2,  n ~ N(0, 1)

Notation: b batch; sigma noise level; t in (0, 1] the time of the variance-preserving process.
Losses are returned entry by entry; training sums them over an item and averages over the batch.

Source: Song et al. 2021 (variance preserving) and Karras et al. 2022 (EDM), in the form of the
latter's table 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Denoise = Callable[[Tensor, Tensor], Tensor]
"""D(x, sigma) for x (b, ...) and sigma (b,)."""

BETA_SLOPE = 19.9
BETA_MIN = 0.1
SMALLEST_TIME = 1e-5


@dataclass(frozen=True)
class LevelLaw:
    """How noise levels are drawn and weighted in training."""

    kind: Literal["vp", "edm"] = "edm"
    sigma_data: float = 0.18
    """Root mean square of the clean items; used by "edm" only."""
    log_mean: float = -1.2
    """Mean of ln sigma; "edm" only."""
    log_std: float = 1.2
    """Standard deviation of ln sigma; "edm" only."""

    def draw(self, n: int, generator: torch.Generator) -> Float[Tensor, " b"]:
        """Return ``n`` noise levels."""
        if self.kind == "vp":
            uniform = torch.rand(n, generator=generator)
            return vp_sigma(1 + uniform * (SMALLEST_TIME - 1))
        return (torch.randn(n, generator=generator) * self.log_std + self.log_mean).exp()

    def weight(self, sigma: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Return the weight of the squared error at each level."""
        if self.kind == "vp":
            return sigma.square().reciprocal()
        return (sigma.square() + self.sigma_data**2) / (sigma * self.sigma_data).square()


def vp_sigma(t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    """Return the noise level of the variance-preserving process at time ``t``."""
    # Not expm1: the published levels near t = 0 have this rounding in them.
    return ((0.5 * BETA_SLOPE * t.square() + BETA_MIN * t).exp() - 1).sqrt()


def denoising_loss(
    denoise: Denoise,
    x: Float[Tensor, "b ..."],
    sigma: Float[Tensor, " b"],
    noise: Float[Tensor, "b ..."],
    law: LevelLaw,
) -> Float[Tensor, "b ..."]:
    """Return the weighted squared error of the denoised ``x + sigma noise``, entry by entry."""
    shape = (-1, *[1] * (x.ndim - 1))
    error = denoise(x + sigma.reshape(shape) * noise, sigma) - x
    return law.weight(sigma).reshape(shape) * error.square()
