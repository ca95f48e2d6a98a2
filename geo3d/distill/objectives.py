"""Objectives that pull a result towards what a frozen denoiser finds plausible.

Notation: b results x of size (h, w), n probes at noise levels sigma, D(x; sigma) the denoiser,
g the guidance.  Score distillation takes g = mean_n (x - D(x + sigma_n noise; sigma_n)) as the
gradient of the negative log prior, without differentiating through the denoiser.

Source: Poole et al. 2023 (SDS); Pierson et al. 2025 (DiffuMatch, arXiv 2507.23715), whose released
code uses another formula than the paper: both are here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from geo3d.errors import ConfigError, ShapeError

Denoise = Callable[[Tensor, Tensor], Tensor]
"""Takes noisy items (n, h, w) and their noise levels (n,) to clean items (n, h, w)."""
SdsForm = Literal["released", "corrected"]


@torch.no_grad()
def sds_guidance(
    denoise: Denoise,
    items: Float[Tensor, "b h w"],
    sigma: Float[Tensor, "*b n"],
    noise: Float[Tensor, "#b #n h w"],
) -> Float[Tensor, "b h w"]:
    """Return mean_n (x - D(x + sigma_n noise_n; sigma_n)) with one call of the denoiser.

    Args:
        sigma: levels (n,) for all items or (b, n).
        noise: unit noise; an axis of length 1 is shared, by all probes in the published method.

    Raises:
        ShapeError: ``objectives.bad_probes`` when levels and noise do not fit the items.
    """
    levels = sigma.expand(len(items), sigma.shape[-1])
    if noise.shape[0] not in (1, len(items)) or noise.shape[1] not in (1, levels.shape[1]):
        raise ShapeError(
            "objectives.bad_probes",
            f"Noise {tuple(noise.shape)} does not fit {len(items)} items at "
            f"{levels.shape[1]} levels each.",
            "Axes are (item, level, h, w); an axis of length 1 is shared.",
        )
    noisy = items[:, None] + levels[..., None, None] * noise
    clean = denoise(noisy.flatten(0, 1), levels.flatten()).reshape(noisy.shape)
    return items - clean.mean(dim=1)


def sds_loss(
    fmaps: Float[Tensor, "*b h w"],
    guidance: Float[Tensor, "*b h w"],
    form: SdsForm = "corrected",
    rate: float = 1e-3,
) -> Float[Tensor, "*b"]:
    """Return the score distillation loss of matrices whose absolute values the prior knows.

    ``corrected`` is half the squared distance of |C| to the constant |C| - g, so that its gradient
    with respect to |C| is g.  ``released`` is the mean over entries of (|C| - (C - rate g))^2 with
    the bracket constant: its target has the sign of C, so it is (2 C)^2 at negative entries and
    about (rate g)^2 elsewhere, a penalty on negative entries.

    Raises:
        ConfigError: ``objectives.unknown_form``.
    """
    magnitude = fmaps.abs()
    if form == "corrected":
        target = magnitude.detach() - guidance
        return 0.5 * ((magnitude - target) ** 2).sum(dim=(-2, -1))
    if form == "released":
        target = fmaps.detach() - rate * guidance
        return ((magnitude - target) ** 2).mean(dim=(-2, -1))
    raise ConfigError(
        "objectives.unknown_form",
        f"Unknown form '{form}' of score distillation.",
        "Known are released and corrected.",
    )
