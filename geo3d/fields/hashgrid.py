"""Multiresolution hash grids: a table of features read at a point, level by level.

Notation: x in [0, 1]^d; level l has the scale n_l = base * b^l - 1 (b the factor between levels);
the point lies at x n_l + 1/2 in the grid's cells (no 1/2 with aligned corners); each level mixes
the features of the 2^d corners of its cell.  Coarse levels store every corner ("dense"), fine ones
share rows: row = XOR_d(corner_d * prime_d) mod rows.

Two published conventions differ at the border and in how many rows a level has.  "gridencoder"
stores one more corner per axis and gives zero outside [0, 1]; "tcnn" (tiny-cuda-nn) wraps round.

Source: Mueller et al. 2022 (Instant NGP); torch-ngp's gridencoder; tiny-cuda-nn.  This module is
the readable reference with gradients to table and points; `hashgrid_fast` and `hashgrid_gpu`
compute the same faster.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from geo3d.errors import ConfigError

Backend = Literal["auto", "torch", "numba"]
PRIMES = (1, 2654435761, 805459861, 3674653429, 2097192037, 1434869437, 2165219737)
_UINT32 = 0xFFFFFFFF
_INITIAL = 1e-4


@dataclass(frozen=True)
class HashGridConfig:
    """The shape of a hash grid.

    Raises:
        ConfigError: ``config.bad_value``.
    """

    levels: int = 16
    """Number of resolutions."""
    features: int = 2
    """Numbers per row of the table: 1, 2, 4 or 8."""
    base: int = 16
    """Resolution of the coarsest level."""
    finest: int = 2048
    """Resolution of the finest level; see `per_level_scale`."""
    log2_rows: int = 19
    """Logarithm of the most rows a level may have."""
    dim: int = 3
    """Dimension of the points, 2 to 5."""
    convention: Literal["gridencoder", "tcnn"] = "tcnn"
    """Which published layout of the table."""
    interpolation: Literal["linear", "smoothstep"] = "linear"
    """Weights of the corners."""
    grid: Literal["hash", "tiled"] = "hash"
    """What fine levels do when they have more corners than rows."""
    align_corners: bool = False
    """Whether the border of the box lies on grid points (gridencoder only)."""
    per_level_scale: float | None = None
    """Factor between levels; None takes the one that leads from `base` to `finest`."""

    def __post_init__(self) -> None:
        is_fine = (
            self.levels >= 1
            and self.features in (1, 2, 4, 8)
            and 2 <= self.dim <= 5
            and self.base >= 1
            and 3 <= self.log2_rows <= 30
            and (self.finest >= self.base or self.per_level_scale is not None)
            and not (self.align_corners and self.convention == "tcnn")
        )
        if not is_fine:
            raise ConfigError(
                "config.bad_value",
                f"These settings make no hash grid: {self}.",
                "features 1, 2, 4, 8; dim 2 to 5; finest >= base; log2_rows 3 to 30; "
                "align_corners only with gridencoder.",
            )

    @property
    def factor(self) -> float:
        """The factor between the resolutions of neighbouring levels."""
        if self.per_level_scale is not None:
            return self.per_level_scale
        if self.levels == 1:
            return 1.0
        return (self.finest / self.base) ** (1 / (self.levels - 1))

    @property
    def width(self) -> int:
        """Numbers per encoded point."""
        return self.levels * self.features


class Level(NamedTuple):
    """One resolution of a grid."""

    scale: float
    """Cells across the unit box."""
    offset: int
    """First row in the table."""
    rows: int
    """Rows of this level."""
    strides: tuple[int, ...]
    """Row steps per axis; 0 where the row index stopped growing."""
    hashed: bool
    """Whether rows are shared by hashing."""
    resolution: int
    """Corners per axis the level is meant to store."""


@functools.cache
def grid_levels(config: HashGridConfig) -> tuple[Level, ...]:
    """Return the levels of a grid; rows and scales exactly as the two conventions define them."""
    levels = []
    offset = 0
    log2_factor = np.float32(math.log2(config.factor))
    for index in range(config.levels):
        # float32 step by step, as in the kernels; numpy's own float32 exp2 is an ulp off
        exponent = float(np.float32(index) * log2_factor)
        power = np.float32(2.0**exponent)
        scale = float(power * np.float32(config.base) - np.float32(1))
        corners = math.ceil(scale) + 1
        most = 2**config.log2_rows
        if config.convention == "gridencoder":
            resolution = math.ceil(config.base * config.factor**index)
            resolution += not config.align_corners
            rows = _round_up(min(most, resolution**config.dim))
            corners += not config.align_corners
        else:
            resolution = corners
            most = config.base**config.dim if config.grid == "tiled" else most
            rows = min(_round_up(corners**config.dim), most)
        strides, reached = _strides(corners, rows, config.dim)
        hashed = config.grid == "hash" and reached > rows
        levels.append(Level(scale, offset, rows, strides, hashed, resolution))
        offset += rows
    return tuple(levels)


def row_count(config: HashGridConfig) -> int:
    """Return how many rows the table has, all levels together."""
    last = grid_levels(config)[-1]
    return last.offset + last.rows


def encode_reference(
    points: Float[Tensor, "p d"], table: Float[Tensor, "rows c"], config: HashGridConfig
) -> Float[Tensor, "p width"]:
    """Encode points of the unit box with plain torch, any device, any float type.

    Differentiable in ``table`` and ``points``; the features of a level lie side by side.
    """
    encoded = [_encode_level(points, table, config, level) for level in grid_levels(config)]
    result = torch.cat(encoded, dim=1)
    if config.convention == "gridencoder":
        inside = ((points >= 0) & (points <= 1)).all(dim=1, keepdim=True)
        result = torch.where(inside, result, torch.zeros_like(result))
    return result


def encode(
    points: Float[Tensor, "p d"],
    table: Float[Tensor, "rows c"],
    config: HashGridConfig,
    backend: Backend = "auto",
) -> Float[Tensor, "p width"]:
    """Encode points of the unit box with the chosen or the best implementation for these tensors.

    "auto" takes numba for float32 points in three dimensions on the CPU, else torch.  Tables of
    tiny-cuda-nn live inside its own module: see `hashgrid_gpu`.

    Raises:
        ConfigError: ``config.bad_value`` for a backend that cannot take these tensors.
    """
    from geo3d.fields import hashgrid_fast

    fits = hashgrid_fast.can_encode(points, table, config)
    if backend == "numba" and not fits:
        raise ConfigError(
            "config.bad_value",
            "The numba hash grid takes float32 points in 3 dimensions on the CPU.",
            'Use backend="torch".',
        )
    if backend == "torch" or not fits:
        return encode_reference(points, table, config)
    return hashgrid_fast.encode_fast(points, table, config)


class HashGrid(nn.Module):
    """A table of features with its settings; `forward` encodes points of the unit box."""

    def __init__(
        self,
        config: HashGridConfig,
        generator: torch.Generator | None = None,
        backend: Backend = "auto",
    ) -> None:
        super().__init__()
        self.config = config
        self.backend: Backend = backend
        start = torch.rand(row_count(config), config.features, generator=generator)
        self.table = nn.Parameter((start * 2 - 1) * _INITIAL)

    def forward(self, points: Float[Tensor, "p d"]) -> Float[Tensor, "p width"]:
        """Encode points of the unit box."""
        return encode(points, self.table, self.config, self.backend)


def _round_up(rows: int) -> int:
    return -(-rows // 8) * 8


def _strides(corners: int, rows: int, dim: int) -> tuple[tuple[int, ...], int]:
    strides, stride = [], 1
    for _ in range(dim):
        if stride > rows:
            strides.append(0)
            continue
        strides.append(stride)
        stride *= corners
    return tuple(strides), stride


def _encode_level(
    points: Tensor, table: Tensor, config: HashGridConfig, level: Level
) -> Float[Tensor, "p c"]:
    position = points * level.scale + (0.0 if config.align_corners else 0.5)
    cell = torch.floor(position.detach())
    far = position - cell
    if config.interpolation == "smoothstep":
        far = far * far * (3 - 2 * far)
    cell = cell.long()
    total = torch.zeros(len(points), config.features, dtype=table.dtype, device=table.device)
    for corner in range(2**config.dim):
        bits = [(corner >> axis) & 1 for axis in range(config.dim)]
        weight = torch.ones_like(far[:, 0])
        for axis, bit in enumerate(bits):
            weight = weight * (far[:, axis] if bit else 1 - far[:, axis])
        row = _row(cell + torch.tensor(bits, device=cell.device), level)
        total = total + weight[:, None].to(table.dtype) * table[level.offset + row]
    return total


def _row(corner: Int[Tensor, "p d"], level: Level) -> Int[Tensor, " p"]:
    index = torch.zeros_like(corner[:, 0])
    if level.hashed:
        for axis in range(corner.shape[1]):
            index = index ^ (corner[:, axis] * PRIMES[axis])
    else:
        for axis, stride in enumerate(level.strides):
            index = index + corner[:, axis] * stride
    return (index & _UINT32) % level.rows
