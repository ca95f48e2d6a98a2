"""The autoencoder of sparse structures: occupancy grids to small dense latents and back.

``SSDecoderConfig()`` and ``SSEncoderConfig()`` are the published networks (73,671,201 and
59,298,192 parameters).  Parameter names are theirs, so that their weights load by name.

Notation: b batch, c channels, r edge of the latent grid (16), s edge of the occupancy grid (64).

Source: Xiang et al., "Structured 3D Latents for Scalable and Versatile 3D Generation" (TRELLIS,
2024), section 3.3 and supplement.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from scenes.objects.attention import LayerNorm32, at_least_float32
from scenes.objects.embeddings import unpatchify
from scenes.objects.precision import torso_dtype

_GROUPS = 32


@dataclass(frozen=True)
class _Shape:
    """What the shapes of both say; the field names are those of published model files."""

    latent_channels: int = 8
    """Channels of the latents."""
    num_res_blocks: int = 2
    """Residual blocks per level."""
    num_res_blocks_middle: int = 2
    """Residual blocks at the level of the latents."""
    norm_type: Literal["layer", "group"] = "layer"
    """Norm of the output layer (the blocks' is always over the channels of a voxel)."""
    use_fp16: bool = False
    """The published weights' torso is half precision; the loader decides what runs."""


@dataclass(frozen=True)
class SSDecoderConfig(_Shape):
    """Shape of the decoder."""

    out_channels: int = 1
    """Channels of the grid that is decoded."""
    channels: tuple[int, ...] = (512, 128, 32)
    """Channels per level, coarse to fine; every level after the first doubles the edge."""


@dataclass(frozen=True)
class SSEncoderConfig(_Shape):
    """Shape of the encoder."""

    in_channels: int = 1
    """Channels of the grid that is encoded."""
    channels: tuple[int, ...] = (32, 128, 512)
    """Channels per level, fine to coarse; every level after the first halves the edge."""


class Posterior(NamedTuple):
    """What the encoder returns: a normal distribution of latents."""

    mean: Float[Tensor, "b c r r r"]
    """Its mean, the latent that is used."""
    logvar: Float[Tensor, "b c r r r"]
    """Logarithm of its variance."""

    def sample(self, generator: torch.Generator | None = None) -> Float[Tensor, "b c r r r"]:
        """Draw latents, with noise from the CPU."""
        noise = torch.randn(self.mean.shape, generator=generator).to(self.mean)
        return self.mean + torch.exp(0.5 * self.logvar) * noise


class SparseStructureDecoder(nn.Module):
    """Latents to the logits of an occupancy grid, four times finer by default."""

    def __init__(self, config: SSDecoderConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.channels
        self.input_layer = nn.Conv3d(config.latent_channels, channels[0], 3, padding=1)
        self.middle_block = _middle(channels[0], config.num_res_blocks_middle)
        self.blocks = nn.ModuleList()
        for level, width in enumerate(channels):
            self.blocks.extend(_ResBlock(width) for _ in range(config.num_res_blocks))
            if level + 1 < len(channels):
                self.blocks.append(_Upsample(width, channels[level + 1]))
        self.out_layer = _output(config.norm_type, channels[-1], config.out_channels)

    def forward(self, z: Float[Tensor, "b c r r r"]) -> Float[Tensor, "b c2 s s s"]:
        """Return logits; a voxel is active where its logit is positive."""
        h = self.input_layer(z).to(torso_dtype(self))
        for block in [*self.middle_block, *self.blocks]:
            h = block(h)
        return self.out_layer(h.to(z.dtype))


class SparseStructureEncoder(nn.Module):
    """Occupancy grids to a distribution of latents."""

    def __init__(self, config: SSEncoderConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.channels
        self.input_layer = nn.Conv3d(config.in_channels, channels[0], 3, padding=1)
        self.blocks = nn.ModuleList()
        for level, width in enumerate(channels):
            self.blocks.extend(_ResBlock(width) for _ in range(config.num_res_blocks))
            if level + 1 < len(channels):
                self.blocks.append(_Downsample(width, channels[level + 1]))
        self.middle_block = _middle(channels[-1], config.num_res_blocks_middle)
        self.out_layer = _output(config.norm_type, channels[-1], 2 * config.latent_channels)

    def forward(self, occupancy: Float[Tensor, "b c s s s"]) -> Posterior:
        """Return the distribution of latents of a grid of zeros and ones."""
        h = self.input_layer(occupancy).to(torso_dtype(self))
        for block in [*self.blocks, *self.middle_block]:
            h = block(h)
        return Posterior(*self.out_layer(h.to(occupancy.dtype)).chunk(2, dim=1))


def active_voxels(logits: Float[Tensor, "b 1 s s s"]) -> Int[Tensor, "n 4"]:
    """Return (item, x, y, z) of every positive logit, in ascending order."""
    return torch.argwhere(logits > 0)[:, [0, 2, 3, 4]].int()


class _ChannelNorm(LayerNorm32):
    """Layer norm over the channels of each voxel."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.movedim(1, -1)).movedim(-1, 1).contiguous()


class _GroupNorm32(nn.GroupNorm):
    def forward(self, input: Tensor) -> Tensor:
        wide = at_least_float32(input)
        return super().forward(wide).to(input.dtype)


class _ResBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1 = _ChannelNorm(channels)
        self.norm2 = _ChannelNorm(channels)
        self.conv1 = nn.Conv3d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv3d(channels, channels, 3, padding=1)
        # Starts as the identity.
        for parameter in self.conv2.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(F.silu(self.norm2(h)))


class _Downsample(nn.Module):
    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(channels, out_channels, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class _Upsample(nn.Module):
    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(channels, 8 * out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return unpatchify(self.conv(x), 2)


def _middle(channels: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(_ResBlock(channels) for _ in range(count)))


def _output(norm_type: str, channels: int, out_channels: int) -> nn.Sequential:
    norm = _ChannelNorm(channels) if norm_type == "layer" else _GroupNorm32(_GROUPS, channels)
    return nn.Sequential(norm, nn.SiLU(), nn.Conv3d(channels, out_channels, 3, padding=1))
