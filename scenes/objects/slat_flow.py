"""The flow transformer of structured latents: sparse voxels, packed by residual blocks into tokens.

``SLatFlowConfig()`` is the published network for images (600,432,520 parameters).  Parameter names
are those of the published network, so that its weights load by name.

Notation: b items, n voxels, m tokens (voxels of the coarsest grid), c channels, l tokens of the
condition with k channels.

Source: Xiang et al., "Structured 3D Latents for Scalable and Versatile 3D Generation" (TRELLIS,
2024), section 3.3.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from geo3d.config import require
from geo3d.errors import ShapeError
from scenes.objects.attention import LayerNorm32, ModulatedBlock, initialise_flow, modulation_layers
from scenes.objects.embeddings import TimestepEmbedder, position_sinusoids, rotary_angles
from scenes.objects.precision import torso_dtype
from scenes.objects.sparse import SparseTensor
from scenes.objects.sparse_ops import SparseConv3d, downsample, upsample
from scenes.objects.ss_flow import FlowConfig, around_guess, split_guess

_EPS = 1e-6


@dataclass(frozen=True)
class SLatFlowConfig(FlowConfig):
    """Shape of the network."""

    resolution: int = 64
    patch_size: int = 2
    """Edge of the cubes that become tokens, 2 to the number of ``io_block_channels``."""
    num_io_res_blocks: int = 2
    """Residual blocks per level before and after the transformer."""
    io_block_channels: tuple[int, ...] | None = (128,)
    """Channels of each level, fine to coarse; None for no level."""
    use_skip_connection: bool = True
    """Hand the features of each input block to its output block."""

    def __post_init__(self) -> None:
        cells = 2 ** len(self.io_block_channels or ())
        require(
            self.patch_size == cells, "patch_size", f"{cells}, doubled by each io_block_channel"
        )
        aligned = not self.guess_channels or self.resolution % self.guess_resolution == 0
        require(aligned, "guess_resolution", f"a divisor of the resolution {self.resolution}")

    @property
    def levels(self) -> list[int]:
        """Channels from the voxels to the tokens."""
        return [*(self.io_block_channels or ()), self.model_channels]


class SLatFlowModel(nn.Module):
    """The velocity of noisy latents on voxels, given the time and the image's tokens."""

    def __init__(self, config: SLatFlowConfig, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        width, first = config.model_channels, config.levels[0]
        self.t_embedder = TimestepEmbedder(width)
        if config.share_mod:
            self.adaLN_modulation = modulation_layers(width)
        self.input_layer = nn.Linear(config.in_channels, first)
        if config.guess_channels:
            self.guess_layer = nn.Linear(config.guess_channels, first)
        self.input_blocks = nn.ModuleList(_input_blocks(config))
        self.blocks = nn.ModuleList(config.block() for _ in range(config.num_blocks))
        self.out_blocks = nn.ModuleList(_output_blocks(config))
        self.out_layer = nn.Linear(first, config.out_channels)
        initialise_flow(self, generator)
        _initialise_convolutions(self, generator)

    def forward(
        self, x: SparseTensor, t: Float[Tensor, " b"], cond: Float[Tensor, "b l k"]
    ) -> SparseTensor:
        """Return the velocity of ``x`` at the times ``t`` = 1000 times [0, 1].

        Raises:
            ShapeError: ``slat_flow.wrong_input`` (channels, or times and conditions per item).
        """
        _check(self.config, x, t, cond)
        torso = torso_dtype(self)
        time = self.t_embedder(t)
        steering = self.adaLN_modulation(time) if self.config.share_mod else time
        time = time.to(torso)
        state, base, told = x.feats, None, None
        if self.config.guess_channels:
            cond, guess = self._guessed(x, cond)
            told = self.guess_layer(guess)
            if self.config.guess_error:
                first = self.config.guess_first
                own, times = guess[:, first : first + state.shape[1]], t[x.coords[:, 0].long()]
                state, base = around_guess(state, own, times[:, None], self.config.guess_error)
        feats = self.input_layer(state)
        h = x.replace(feats if told is None else feats + told).to(torso)
        skips = []
        for block in self.input_blocks:
            h = block(h, time)
            skips.append(h.feats)
        h = self._transform(h, steering.to(torso), cond.to(torso))
        for block in self.out_blocks:
            if self.config.use_skip_connection:
                h = h.replace(torch.cat([h.feats, skips.pop()], dim=1))
            h = block(h, time)
        # Published weights expect this norm before the cast, unlike that of the structure's flow.
        normed = F.layer_norm(h.feats, h.feats.shape[-1:]).to(x.dtype)
        velocity = self.out_layer(normed)
        return x.replace(velocity if base is None else velocity + base)

    def _guessed(self, x: SparseTensor, cond: Tensor) -> tuple[Tensor, Float[Tensor, "n g"]]:
        """Return the tokens to attend to, and what is guessed of each voxel."""
        edge = self.config.guess_resolution
        cond, grid = split_guess(cond, self.config.guess_channels, edge)
        item, *place = x.coords.long().T
        place = [axis * edge // self.config.resolution for axis in place]
        return cond, grid[item, :, place[0], place[1], place[2]]

    def _transform(self, h: SparseTensor, steering: Tensor, cond: Tensor) -> SparseTensor:
        config, angles = self.config, None
        tokens, positions = h.feats, h.coords[:, 1:]
        if config.pe_mode == "ape":
            tokens = tokens + position_sinusoids(positions, config.model_channels).to(tokens.dtype)
        else:
            angles = rotary_angles(positions, config.model_channels // config.heads)
        lengths = h.grid.counts
        for block in self.blocks:
            step = cast(ModulatedBlock, block).forward_packed
            if config.use_checkpoint and torch.is_grad_enabled():
                step = partial(checkpoint, step, use_reentrant=False)
            tokens = step(tokens, steering, cond, lengths, angles)
        return h.replace(tokens)


class SparseResBlock3d(nn.Module):
    """Two convolutions steered by the time, after a change of resolution."""

    def __init__(
        self,
        channels: int,
        emb_channels: int,
        out_channels: int,
        resample: Literal[down, up, none] = "none",
    ) -> None:
        super().__init__()
        self.resample = resample
        self.norm1 = LayerNorm32(channels, eps=_EPS)
        self.norm2 = LayerNorm32(out_channels, eps=_EPS, elementwise_affine=False)
        self.conv1 = SparseConv3d(channels, out_channels)
        self.conv2 = SparseConv3d(out_channels, out_channels)
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb_channels, 2 * out_channels))
        self.skip_connection = (
            nn.Identity() if channels == out_channels else nn.Linear(channels, out_channels)
        )

    def forward(self, x: SparseTensor, time: Float[Tensor, "b k"]) -> SparseTensor:
        """Resample and transform."""
        if self.resample != "none":
            x = downsample(x) if self.resample == "down" else upsample(x)
        scale, shift = self.emb_layers(time).chunk(2, dim=1)
        h = self.conv1(x.replace(F.silu(self.norm1(x.feats))))
        h = h.replace(self.norm2(h.feats)) * (1 + scale) + shift
        h = self.conv2(h.replace(F.silu(h.feats)))
        return h + self.skip_connection(x.feats)


def _input_blocks(config: SLatFlowConfig) -> list[SparseResBlock3d]:
    blocks, width = [], config.model_channels
    for fine, coarse in pairwise(config.levels):
        blocks += [SparseResBlock3d(fine, width, fine) for _ in range(config.num_io_res_blocks - 1)]
        blocks.append(SparseResBlock3d(fine, width, coarse, "down"))
    return blocks


def _output_blocks(config: SLatFlowConfig) -> list[SparseResBlock3d]:
    blocks, width = [], config.model_channels
    factor = 2 if config.use_skip_connection else 1
    for coarse, fine in pairwise(reversed(config.levels)):
        blocks.append(SparseResBlock3d(factor * coarse, width, fine, "up"))
        blocks += [
            SparseResBlock3d(factor * fine, width, fine)
            for _ in range(config.num_io_res_blocks - 1)
        ]
    return blocks


@torch.no_grad()
def _initialise_convolutions(network: nn.Module, generator: torch.Generator | None) -> None:
    for module in network.modules():
        if isinstance(module, SparseResBlock3d):
            weight = module.conv1.conv.weight
            bound = weight[0].numel() ** -0.5
            weight.uniform_(-bound, bound, generator=generator)
            module.conv2.conv.weight.zero_()


def _check(config: SLatFlowConfig, x: SparseTensor, t: Tensor, cond: Tensor) -> None:
    b = x.batch_size
    if x.feats.shape[1:] != (config.in_channels,) or t.shape != (b,) or len(cond) != b:
        raise ShapeError(
            "slat_flow.wrong_input",
            f"{b} items of {tuple(x.feats.shape[1:])} channels (expected {config.in_channels}) "
            f"came with {tuple(t.shape)} times and {len(cond)} conditions.",
            "Give one time and one condition per item, empty items included.",
        )
