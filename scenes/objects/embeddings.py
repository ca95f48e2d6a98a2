"""How the networks are told times and places, and how grids become tokens.

Notation: b batch, n tokens, c channels, p patch edge, r grid edge, f frequencies; times are given
to the networks as 1000 t, t in [0, 1] (`time_to_steps`).

Source: Xiang et al., "Structured 3D Latents" (TRELLIS, 2024); Peebles and Xie, "Scalable Diffusion
Models with Transformers" (2023); Su et al., "RoFormer" (2021) for rotary positions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from geo3d.errors import ShapeError

FREQUENCIES = 256
"""Cosines and sines that describe a time."""
_BASE = 10_000.0


def time_to_steps(t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    """Convert times in [0, 1] to what the networks are fed."""
    return 1000.0 * t


def time_sinusoids(
    steps: Float[Tensor, " b"], count: int = FREQUENCIES
) -> Float[Tensor, "b count"]:
    """Return cosines, then sines, at ``count / 2`` frequencies that fall from 1 to 1e-4."""
    wide = steps.to(torch.promote_types(steps.dtype, torch.float32))
    angles = wide[:, None] * _frequencies(count // 2, wide)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def position_sinusoids(positions: Tensor, channels: int) -> Float[Tensor, "n channels"]:
    """Return sines, then cosines, of each coordinate, axis after axis, padded with zeros.

    Args:
        positions: coordinates (n, 3) in voxels.
        channels: width of the code; what is left over ``channels // 6 * 6`` is zero.
    """
    wide = positions.float()
    angles = wide[:, :, None] * _frequencies(channels // 3 // 2, wide)
    code = torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(1)
    return F.pad(code, (0, channels - code.shape[1]))


def rotary_angles(positions: Tensor, head_channels: int) -> Float[Tensor, "n f"]:
    """Return by how much each pair of a head's channels turns, for `rotate`.

    Args:
        positions: coordinates (n, 3) in voxels.
        head_channels: channels of a head, even; pairs beyond three equal parts do not turn.
    """
    wide = positions.float()
    angles = (wide[:, :, None] * _frequencies(head_channels // 2 // 3, wide)).flatten(1)
    return F.pad(angles, (0, head_channels // 2 - angles.shape[1]))


def rotate(x: Float[Tensor, "*n h d"], angles: Float[Tensor, "n f"]) -> Float[Tensor, "*n h d"]:
    """Turn consecutive pairs of channels by ``angles``, the same in every head."""
    pairs = x.to(torch.promote_types(x.dtype, torch.float32)).unflatten(-1, (-1, 2))
    real, imaginary = pairs.unbind(-1)
    cos, sin = angles.cos()[..., None, :], angles.sin()[..., None, :]
    turned = torch.stack([real * cos - imaginary * sin, real * sin + imaginary * cos], dim=-1)
    return turned.flatten(-2).to(x.dtype)


def grid_positions(edge: int, device: torch.device | None = None) -> Tensor:
    """Return the integer coordinates (edge^3, 3) of a cube, the last axis fastest."""
    axis = torch.arange(edge, device=device)
    return torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1).reshape(-1, 3)


def patchify(x: Float[Tensor, "b c r r r"], p: int) -> Float[Tensor, "b c2 r2 r2 r2"]:
    """Fold cubes of ``p`` voxels into channels, ordered (channel, x, y, z).

    Raises:
        ShapeError: ``patchify.no_divisor`` (the edge is no multiple of ``p``).
    """
    b, c, r = x.shape[:3]
    if r % p:
        raise ShapeError(
            "patchify.no_divisor",
            f"Patches of {p} do not divide a grid of {r}.",
            "Choose a patch size that divides the resolution.",
        )
    cells = x.reshape(b, c, r // p, p, r // p, p, r // p, p).permute(0, 1, 3, 5, 7, 2, 4, 6)
    return cells.reshape(b, c * p**3, r // p, r // p, r // p)


def unpatchify(x: Float[Tensor, "b c2 r2 r2 r2"], p: int) -> Float[Tensor, "b c r r r"]:
    """Undo `patchify`; also the "pixel shuffle" of the structure decoder.

    Raises:
        ShapeError: ``patchify.no_divisor`` (the channels are no multiple of ``p**3``).
    """
    b, c, r = x.shape[:3]
    if c % p**3:
        raise ShapeError(
            "patchify.no_divisor",
            f"{c} channels cannot be unfolded into cubes of {p} voxels.",
            "The channels must be a multiple of the cube's voxels.",
        )
    cells = x.reshape(b, c // p**3, p, p, p, r, r, r).permute(0, 1, 5, 2, 6, 3, 7, 4)
    return cells.reshape(b, c // p**3, r * p, r * p, r * p)


class TimestepEmbedder(nn.Module):
    """Sinusoids of the time and two linear layers."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(FREQUENCIES, channels), nn.SiLU(), nn.Linear(channels, channels)
        )

    def forward(self, steps: Float[Tensor, " b"]) -> Float[Tensor, "b c"]:
        """Return a code of the times ``steps`` = 1000 t."""
        return self.mlp(time_sinusoids(steps))


def _frequencies(count: int, like: Tensor) -> Float[Tensor, " f"]:
    exponents = torch.arange(count, dtype=torch.float64, device="cpu") / max(count, 1)
    return (_BASE**-exponents).to(device=like.device, dtype=like.dtype)
