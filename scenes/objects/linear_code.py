"""Latents that are a linear code of what is in a voxel: principal components, then colours.

The published encoder is a transformer.  Generating needs the decoders only, so the small pipeline
takes the shortest way to latents that a flow can learn: what is close in latents is close in
distances and in colour, and nothing of a voxel depends on its neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from geo3d.config import require
from scenes.objects.sparse import SparseTensor

COLORS = 3


@dataclass(frozen=True)
class LinearCodeConfig:
    """Shape of the code."""

    in_channels: int = 128
    """Of a voxel's features: values of any kind, then red, green and blue."""
    latent_channels: int = 13
    """Of its latents: principal components of the values, then the colours."""

    def __post_init__(self) -> None:
        fits = COLORS < self.latent_channels <= self.in_channels
        require(fits, "latent_channels", f"above {COLORS}, at most the channels that come in")


class LinearSLatEncoder(nn.Module):
    """Features of voxels to latents."""

    def __init__(self, config: LinearCodeConfig) -> None:
        super().__init__()
        self.config = config
        self.layer = nn.Linear(config.in_channels, config.latent_channels)

    def forward(self, x: SparseTensor, generator: torch.Generator | None = None) -> SparseTensor:
        """Return the latents, which have no randomness."""
        return x.replace(self.layer(x.feats))

    def in_values(self, difference: Float[Tensor, "n k"]) -> Float[Tensor, "n v"]:
        """Return what a difference of latents is in values, without the colours."""
        kept = difference.shape[1] - COLORS
        # the components are orthogonal
        weight = self.layer.weight[:kept, :-COLORS]
        return difference[:, :kept] @ (weight / weight.square().sum(1, keepdim=True))

    @torch.no_grad()
    def fit(self, feats: Sequence[Float[np.ndarray, "n c"]]) -> dict[str, float]:
        """Take the principal components of features of objects; return what they keep of them.

        A component's deviation is the root of what it was, all components' mean square 1: the error
        of a latent weighs between what it is in distances and what it is of its own.  Colours have
        one mean and one deviation, so that they may change places.
        """
        values = torch.from_numpy(np.concatenate(feats)).double()
        values, colors = values[:, :-COLORS], values[:, -COLORS:]
        mean = values.mean(0)
        spread, axes = torch.linalg.eigh((values - mean).T.cov())
        kept = self.config.latent_channels - COLORS
        axes, deviation = axes.flip(1)[:, :kept].T, spread.flip(0)[:kept].clamp(min=0).sqrt()
        # an axis and its opposite are the same component
        largest = axes.gather(1, axes.abs().argmax(1, keepdim=True))
        axes = axes * largest.sign() / (deviation * deviation.mean()).sqrt()[:, None]
        weight = torch.zeros(self.config.latent_channels, values.shape[1] + COLORS).double()
        weight[:kept, :-COLORS] = axes
        weight[kept:, -COLORS:] = torch.eye(COLORS) / colors.std()
        centre = torch.cat([mean, colors.mean().expand(COLORS)])
        self.layer.weight.copy_(weight)
        self.layer.bias.copy_(-weight @ centre)
        return {"kept": float(spread.flip(0)[:kept].sum() / spread.sum())}
