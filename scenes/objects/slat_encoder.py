"""From features of surface voxels to structured latents: the encoder half of their autoencoder.

The published encoder reads averaged picture features (1024 channels); ours reads whatever the
voxels carry.  Only training needs it.

Notation: n voxels, c channels.

Source: Xiang et al., "Structured 3D Latents for Scalable and Versatile 3D Generation" (TRELLIS,
2024), section 3.2.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scenes.objects.decoders import SLatDecoderConfig, SLatTrunk, initialise
from scenes.objects.sparse import SparseTensor


@dataclass(frozen=True)
class SLatEncoderConfig(SLatDecoderConfig):
    """Shape of the encoder; the field names are those of published model files."""

    in_channels: int = 1024
    """Channels of a voxel's features."""


class SLatEncoder(SLatTrunk):
    """Features of voxels to a distribution of their latents."""

    config: SLatEncoderConfig

    def __init__(self, config: SLatEncoderConfig) -> None:
        super().__init__(config, config.in_channels)
        self.out_layer = nn.Linear(config.model_channels, 2 * config.latent_channels)
        initialise(self)

    def distribution(self, x: SparseTensor) -> tuple[Tensor, Tensor]:
        """Return mean and logarithm of the variance of each voxel's latents."""
        h = self.trunk(x).to(x.dtype).feats
        mean, logvar = self.out_layer(F.layer_norm(h, h.shape[-1:])).chunk(2, dim=1)
        return mean, logvar

    def forward(self, x: SparseTensor, generator: torch.Generator | None = None) -> SparseTensor:
        """Return the means, or with a generator (of the CPU) latents drawn from it."""
        mean, logvar = self.distribution(x)
        if generator is None:
            return x.replace(mean)
        noise = torch.randn(mean.shape, generator=generator).to(mean)
        return x.replace(mean + torch.exp(0.5 * logvar) * noise)
