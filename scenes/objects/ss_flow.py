"""The flow transformer of the sparse structure: a dense 3D grid of latents as tokens.

``SSFlowConfig()`` is the published network for images (555,543,560 parameters).  Parameter names
are those of the published network, so that its weights load by name.

A network with ``guess_channels`` (none that is published) takes the last m tokens of its condition
for a guess of the object, g channels on s^3 cells with m k = g s^3, and adds to each token what is
guessed in its place.  With a ``guess_error`` it also learns the flow of what the guess leaves over.

Notation: b batch, c latent channels, r edge of the grid, n = (r / p)^3 tokens of p^3 voxels,
d width of a token, l tokens of the condition with k channels.

Source: Xiang et al., "Structured 3D Latents for Scalable and Versatile 3D Generation" (TRELLIS,
2024), section 3.3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from geo3d.config import require
from geo3d.errors import ShapeError
from scenes.objects.attention import ModulatedBlock, initialise_flow, modulation_layers
from scenes.objects.embeddings import (
    TimestepEmbedder,
    grid_positions,
    patchify,
    position_sinusoids,
    rotary_angles,
    unpatchify,
)
from scenes.objects.precision import torso_dtype


@dataclass(frozen=True)
class FlowConfig:
    """What the shapes of both flow transformers say; the field names are those of published model
    files."""

    resolution: int = 16
    """Edge of the grid of latents, or of that which the voxels are in."""
    in_channels: int = 8
    """Channels of the latents."""
    model_channels: int = 1024
    """Width of a token."""
    cond_channels: int = 1024
    """Channels of the condition's tokens."""
    out_channels: int = 8
    """Channels of the velocity."""
    num_blocks: int = 24
    """Transformer blocks."""
    num_heads: int | None = 16
    """Attention heads; None means as many as have ``num_head_channels`` channels."""
    num_head_channels: int = 64
    """Channels of a head where ``num_heads`` is None."""
    mlp_ratio: float = 4.0
    """Hidden channels of a block's perceptron over its width."""
    patch_size: int = 1
    """Edge of the cubes that become tokens."""
    pe_mode: Literal["ape", "rope"] = "ape"
    """Positions added to tokens (as published), or rotating queries and keys."""
    use_fp16: bool = False
    """The published weights' torso is half precision; the loader decides what runs."""
    use_checkpoint: bool = False
    """Compute blocks again in the backward pass instead of keeping their activations."""
    share_mod: bool = False
    """One modulation for all transformer blocks."""
    qk_rms_norm: bool = True
    """Normalise queries and keys of the self attention."""
    qk_rms_norm_cross: bool = False
    """Normalise queries and keys of the cross attention."""
    guess_channels: int = 0
    """Channels of a guess that the condition's last tokens hold; published: 0."""
    guess_resolution: int = 16
    """Cells per side of the guess, if any."""
    guess_first: int = 0
    """The channel of the guess at which what it says of the latents begins."""
    guess_error: float = 0.0
    """Root mean square of the latents less their guess; 0: the guess is told, but not built on."""

    @property
    def heads(self) -> int:
        """Attention heads."""
        return self.num_heads or self.model_channels // self.num_head_channels

    def block(self) -> ModulatedBlock:
        """Return a block of the transformer."""
        return ModulatedBlock(
            self.model_channels,
            self.cond_channels,
            self.heads,
            mlp_ratio=self.mlp_ratio,
            qk_rms_norm=self.qk_rms_norm,
            qk_rms_norm_cross=self.qk_rms_norm_cross,
            share_mod=self.share_mod,
        )


@dataclass(frozen=True)
class SSFlowConfig(FlowConfig):
    """Shape of the network."""

    def __post_init__(self) -> None:
        divides = self.patch_size >= 1 and self.resolution % self.patch_size == 0
        require(divides, "patch_size", f"a divisor of the resolution {self.resolution}")
        aligned = not self.guess_channels or self.guess_resolution % self.resolution == 0
        require(aligned, "guess_resolution", f"a multiple of {self.resolution}")

    @property
    def tokens(self) -> int:
        """Tokens of a grid."""
        return (self.resolution // self.patch_size) ** 3


class SparseStructureFlowModel(nn.Module):
    """The velocity of a noisy grid of latents, given the time and the image's tokens."""

    def __init__(self, config: SSFlowConfig, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        width, cells = config.model_channels, config.patch_size**3
        self.t_embedder = TimestepEmbedder(width)
        if config.share_mod:
            self.adaLN_modulation = modulation_layers(width)
        positions = grid_positions(config.resolution // config.patch_size)
        if config.pe_mode == "ape":
            self.register_buffer("pos_emb", position_sinusoids(positions, width))
        else:
            angles = rotary_angles(positions, width // config.heads)
            self.register_buffer("rope_angles", angles, persistent=False)
        self.input_layer = nn.Linear(config.in_channels * cells, width)
        if config.guess_channels:
            block = config.guess_resolution * config.patch_size // config.resolution
            self.guess_layer = nn.Linear(config.guess_channels * block**3, width)
        self.blocks = nn.ModuleList(config.block() for _ in range(config.num_blocks))
        self.out_layer = nn.Linear(width, config.out_channels * cells)
        initialise_flow(self, generator)

    def forward(
        self, x: Float[Tensor, "b c r r r"], t: Float[Tensor, " b"], cond: Float[Tensor, "b l k"]
    ) -> Float[Tensor, "b c r r r"]:
        """Return the velocity of ``x`` at the times ``t`` = 1000 times [0, 1].

        Raises:
            ShapeError: ``ss_flow.wrong_grid``.
        """
        config = self.config
        expected = (config.in_channels, *[config.resolution] * 3)
        if tuple(x.shape[1:]) != expected:
            raise ShapeError(
                "ss_flow.wrong_grid", f"The grid is {tuple(x.shape[1:])}, expected {expected}.", ""
            )
        base = None
        if config.guess_channels:
            cond, guess = split_guess(cond, config.guess_channels, config.guess_resolution)
            fold = config.guess_resolution // config.resolution
            if config.guess_error:
                end = config.guess_first + config.in_channels // fold**3
                own = patchify(guess[:, config.guess_first : end], fold)
                x, base = around_guess(x, own, t[:, None, None, None, None], config.guess_error)
        h = self.input_layer(patchify(x, config.patch_size).flatten(2).transpose(1, 2))
        if config.guess_channels:
            cells = patchify(guess, fold * config.patch_size)
            h = h + self.guess_layer(cells.flatten(2).transpose(1, 2))
        if config.pe_mode == "ape":
            h = h + self.pos_emb
        time = self.t_embedder(t)
        if config.share_mod:
            time = self.adaLN_modulation(time)
        torso = torso_dtype(self)
        h = self._blocks(h.to(torso), time.to(torso), cond.to(torso)).to(x.dtype)
        h = self.out_layer(F.layer_norm(h, h.shape[-1:]))
        edge = config.resolution // config.patch_size
        grid = h.transpose(1, 2).unflatten(2, (edge, edge, edge))
        velocity = unpatchify(grid, config.patch_size)
        return velocity if base is None else velocity + base

    def _blocks(self, h: Tensor, time: Tensor, cond: Tensor) -> Tensor:
        angles = None if self.config.pe_mode == "ape" else self.rope_angles
        for block in self.blocks:
            if self.config.use_checkpoint and torch.is_grad_enabled():
                h = checkpoint(block, h, time, cond, angles, use_reentrant=False)
            else:
                h = block(h, time, cond, angles)
        return h


def around_guess(x: Tensor, guess: Tensor, t: Tensor, error: float) -> tuple[Tensor, Tensor]:
    """Return the state less its guess, and the velocity if errors of the guess were plain noise.

    With x = (1 - t) z + t e and v = e - z, the state x - (1 - t) g has the velocity v + g of the
    path of z - g.  If z - g is normal with deviation s, the mean of that velocity is the state
    times (t - (1 - t) s^2) / (t^2 + (1 - t)^2 s^2): at t = 1 all noise, so that one step gives the
    guess.  A network that adds to it what it knows better begins there as good as the guess.

    Args:
        x: noisy latents.
        guess: of the latents, of the same shape.
        t: 1000 times [0, 1], broadcastable to ``x``.
        error: s.
    """
    t = (t / 1000).to(x.dtype)
    state = x - (1 - t) * guess
    variance = error**2
    linear = (t - (1 - t) * variance) / (t**2 + ((1 - t) ** 2) * variance)
    return state, linear * state - guess


def split_guess(
    cond: Float[Tensor, "b l k"], channels: int, resolution: int
) -> tuple[Float[Tensor, "b l-m k"], Float[Tensor, "b g s s s"]]:
    """Return the tokens to attend to, and the grid of the guess that the last tokens hold.

    Raises:
        ShapeError: ``flow.no_guess``.
    """
    count, rest = divmod(channels * resolution**3, cond.shape[2])
    if rest or count >= cond.shape[1]:
        raise ShapeError(
            "flow.no_guess",
            f"The condition's {cond.shape[1]} tokens hold no guess of {channels} channels on "
            f"{resolution}^3 cells, which this network takes.",
            "Use the image encoder of the network's own pipeline.",
        )
    guess = cond[:, -count:].reshape(len(cond), channels, *[resolution] * 3)
    return cond[:, :-count], guess
