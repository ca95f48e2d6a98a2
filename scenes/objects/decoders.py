"""From structured latents to Gaussians, a radiance field or a mesh: three sparse transformers.

The default settings are the published decoders.  Parameter names are theirs, so that their weights
load by name.  Each decoder returns one object per item, and `raw` the features it is made of.

Notation: n voxels, c channels; the blocks attend within cubes of ``window_size`` voxels, moved by
half a cube in every other block.

Source: Xiang et al., "Structured 3D Latents for Scalable and Versatile 3D Generation" (TRELLIS,
2024), section 3.2.

From features of surface voxels to structured latents: the encoder half of their autoencoder.

The published encoder reads averaged image features (1024 channels); ours reads whatever the
voxels carry.  Only training needs it.

Notation: n voxels, c channels.

Source: Xiang et al., "Structured 3D Latents for Scalable and Versatile 3D Generation" (TRELLIS,
2024), section 3.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from geo3d.config import require
from scenes.objects.attention import FeedForward, LayerNorm32, SelfAttention
from scenes.objects.embeddings import position_sinusoids
from scenes.objects.gaussians import GaussianConfig, Gaussians, offset_perturbation, split_gaussians
from scenes.objects.neighbours import children, windows
from scenes.objects.precision import torso_dtype
from scenes.objects.radiance import RadianceConfig, RadianceField, split_radiance
from scenes.objects.slat_mesh import CubeLayout, ExtractedMesh, extract_mesh
from scenes.objects.sparse import SparseTensor
from scenes.objects.sparse_ops import (
    SparseConv3d,
    SparseGroupNorm32,
    convolve_blocks,
    convolve_subdivided,
    fits,
    subdivide,
)

_EPS = 1e-6
_GROUPS = 32


@dataclass(frozen=True)
class SLatDecoderConfig:
    """Shape of a decoder; the field names are those of published model files."""

    resolution: int = 64
    """Edge of the grid the voxels are in."""
    model_channels: int = 768
    """Width of a voxel's token."""
    latent_channels: int = 8
    """Channels of the latents."""
    num_blocks: int = 12
    """Transformer blocks."""
    num_heads: int | None = 12
    """Attention heads; None means as many as have ``num_head_channels`` channels."""
    num_head_channels: int = 64
    """Channels of a head where ``num_heads`` is None."""
    mlp_ratio: float = 4.0
    """Hidden channels of a block's perceptron over its width."""
    attn_mode: Literal["full", "swin"] = "swin"
    """Attend among all voxels of an item, or within cubes."""
    window_size: int = 8
    """Edge of the cubes, in voxels."""
    pe_mode: Literal["ape"] = "ape"
    """Positions are added to tokens."""
    use_fp16: bool = False
    """The published weights' torso is half precision; the loader decides what runs."""
    use_checkpoint: bool = False
    """Kept for published model files; decoders are small enough to keep their activations."""
    qk_rms_norm: bool = False
    """Normalise queries and keys."""
    representation_config: Mapping[str, Any] = field(default_factory=dict)
    """Settings of what is decoded: `GaussianConfig`, `RadianceConfig`, or `CubeLayout`."""

    def __post_init__(self) -> None:
        require(self.attn_mode in ("full", "swin"), "attn_mode", "full or swin")
        require(self.pe_mode == "ape", "pe_mode", "ape")

    @property
    def heads(self) -> int:
        """Attention heads."""
        return self.num_heads or self.model_channels // self.num_head_channels


class SparseTransformerBlock(nn.Module):
    """Self attention within windows, then a perceptron."""

    def __init__(self, config: SLatDecoderConfig, index: int) -> None:
        super().__init__()
        width = config.model_channels
        self.norm1 = LayerNorm32(width, eps=_EPS, elementwise_affine=False)
        self.norm2 = LayerNorm32(width, eps=_EPS, elementwise_affine=False)
        self.attn = SelfAttention(width, config.heads, qk_rms_norm=config.qk_rms_norm)
        self.mlp = FeedForward(width, config.mlp_ratio)
        self.window = config.window_size if config.attn_mode == "swin" else None
        self.shift = config.window_size // 2 * (index % 2)

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Transform every voxel."""
        x = x + self._attend(x.replace(self.norm1(x.feats)))
        return x + self.mlp(self.norm2(x.feats))

    def _attend(self, x: SparseTensor) -> SparseTensor:
        if self.window is None:
            return x.replace(self.attn.forward_packed(x.feats, x.grid.counts))
        if len(x) == 0:
            return x
        parts = windows(x.grid, self.window, self.shift)
        mixed = self.attn.forward_packed(x.feats[parts.order], parts.lengths)
        return x.replace(mixed[parts.place])


class SLatTrunk(nn.Module):
    """Input layer and blocks, which the decoders and the encoder share."""

    out_layer: nn.Linear

    def __init__(self, config: SLatDecoderConfig, in_channels: int | None = None) -> None:
        super().__init__()
        self.config = config
        channels = config.latent_channels if in_channels is None else in_channels
        self.input_layer = nn.Linear(channels, config.model_channels)
        self.blocks = nn.ModuleList(
            SparseTransformerBlock(config, index) for index in range(config.num_blocks)
        )

    def trunk(self, x: SparseTensor) -> SparseTensor:
        """Return the tokens of the voxels, in the torso's type."""
        h = self.input_layer(x.feats)
        h = h + position_sinusoids(x.coords[:, 1:], self.config.model_channels).to(h.dtype)
        out = x.replace(h.to(torso_dtype(self)))
        for block in self.blocks:
            out = block(out)
        return out

    def raw(self, x: SparseTensor) -> SparseTensor:
        """Return what the output layer makes of each voxel's token."""
        h = self.trunk(x).to(x.dtype).feats
        return x.replace(self.out_layer(F.layer_norm(h, h.shape[-1:])))


class SLatGaussianDecoder(SLatTrunk):
    """Latents to ``num_gaussians`` Gaussians per voxel."""

    def __init__(self, config: SLatDecoderConfig) -> None:
        super().__init__(config)
        self.shape = GaussianConfig.from_published(config.representation_config)
        self.out_layer = nn.Linear(config.model_channels, self.shape.channels)
        self.register_buffer("offset_perturbation", offset_perturbation(self.shape))
        initialise(self)

    def forward(self, x: SparseTensor) -> list[Gaussians]:
        """Return the Gaussians of each item."""
        spread = cast(Tensor, self.offset_perturbation)
        return split_gaussians(self.raw(x), self.shape, spread, self.config.resolution)


class SLatRadianceFieldDecoder(SLatTrunk):
    """Latents to a small tri-vector radiance field per voxel."""

    def __init__(self, config: SLatDecoderConfig) -> None:
        super().__init__(config)
        self.shape = RadianceConfig.from_published(config.representation_config)
        self.out_layer = nn.Linear(config.model_channels, self.shape.channels)
        initialise(self)

    def forward(self, x: SparseTensor) -> list[RadianceField]:
        """Return the field of each item."""
        return split_radiance(self.raw(x), self.shape, self.config.resolution)


class SparseSubdivideBlock3d(nn.Module):
    """Double the resolution and transform by two convolutions."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.act_layers = nn.Sequential(_group_norm(channels), nn.SiLU())
        self.out_layers = nn.Sequential(
            SparseConv3d(channels, out_channels),
            _group_norm(out_channels),
            nn.SiLU(),
            SparseConv3d(out_channels, out_channels),
        )
        self.skip_connection = (
            nn.Identity() if channels == out_channels else SparseConv3d(channels, out_channels, 1)
        )

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Return all children of the voxels."""
        h = self.act_layers[0](x)
        h = h.replace(F.silu(h.feats))
        first, second = (cast(SparseConv3d, self.out_layers[i]).conv for i in (0, 3))
        small = fits(x.grid, second.weight.shape[-1])
        if small:
            feats = convolve_subdivided(h.feats, first.weight, x.grid) + first.bias
            h = SparseTensor(feats, children(x.grid))
        else:
            h = first(subdivide(h))
        h = self.out_layers[1](h)
        h = h.replace(F.silu(h.feats))
        if small:
            h = h.replace(convolve_blocks(h.feats, second.weight, x.grid) + second.bias)
        else:
            h = second(h)
        # Each voxel's skip is the same for all its children, so it is computed before they exist.
        return h + subdivide(self.skip_connection(x))


class SLatMeshDecoder(SLatTrunk):
    """Latents to a signed distance field of four times the resolution, and its mesh."""

    def __init__(self, config: SLatDecoderConfig) -> None:
        super().__init__(config)
        width = config.model_channels
        fits = width % (8 * _GROUPS) == 0
        require(fits, "model_channels of a mesh decoder", f"a multiple of {8 * _GROUPS}")
        self.layout = CubeLayout(
            use_color=config.representation_config.get("use_color", False),
            close=config.representation_config.get("close", True),
        )
        self.upsample = nn.ModuleList(
            [
                SparseSubdivideBlock3d(width, width // 4),
                SparseSubdivideBlock3d(width // 4, width // 8),
            ]
        )
        self.out_layer = nn.Linear(width // 8, self.layout.channels)
        initialise(self)

    @property
    def mesh_resolution(self) -> int:
        """Cubes along an edge of the grid the mesh is extracted from."""
        return 4 * self.config.resolution

    def raw(self, x: SparseTensor) -> SparseTensor:
        """Return the features of the fine cubes."""
        h = self.trunk(x)
        for block in self.upsample:
            h = block(h)
        return h.replace(self.out_layer(h.feats.to(x.dtype)))

    def forward(self, x: SparseTensor, whole: bool = False) -> list[ExtractedMesh]:
        """Return the mesh of each item; an item without a surface gives one without vertices.

        ``whole`` as for `extract_mesh`.
        """
        return [
            extract_mesh(item, self.mesh_resolution, self.layout, whole=whole)
            for item in self.raw(x).items()
        ]


def _group_norm(channels: int) -> SparseGroupNorm32:
    return SparseGroupNorm32(_GROUPS, channels)


@torch.no_grad()
def initialise(network: nn.Module) -> None:
    """Draw the weights; the output layer and each last convolution start at zero."""
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
            if name == "out_layer":
                nn.init.zeros_(module.weight)
        elif isinstance(module, SparseSubdivideBlock3d):
            for parameter in module.out_layers[3].parameters():
                nn.init.zeros_(parameter)


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
        mean, logvar = self.raw(x).feats.chunk(2, dim=1)
        return mean, logvar

    def forward(self, x: SparseTensor, generator: torch.Generator | None = None) -> SparseTensor:
        """Return the means, or with a generator (of the CPU) latents drawn from it."""
        mean, logvar = self.distribution(x)
        if generator is None:
            return x.replace(mean)
        noise = torch.randn(mean.shape, generator=generator).to(mean)
        return x.replace(mean + torch.exp(0.5 * logvar) * noise)
