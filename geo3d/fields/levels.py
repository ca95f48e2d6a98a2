"""The shape of a hash grid: its settings, and scale and rows of each level.

Two published conventions differ at the border and in how many rows a level has.  "gridencoder"
stores one more corner per axis and gives zero outside [0, 1]; "tcnn" (tiny-cuda-nn) wraps round.

Notation: d dimensions; level l has the scale n_l = base * b^l - 1, b the factor between levels.
Source: torch-ngp's gridencoder; tiny-cuda-nn.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from geo3d.config import require

Convention = Literal["gridencoder", "tcnn"]
UINT32 = 2**32 - 1


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
    convention: Convention = "tcnn"
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
        known = (
            "features 1, 2, 4, 8; dim 2 to 5; finest >= base; log2_rows 3 to 30; align_corners "
            "only with gridencoder"
        )
        require(is_fine, "a hash grid", f"of {known}; this is {self}")

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
    """Row steps per axis; 0 for an axis that does not change the row."""
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
        strides, reached = _strides(corners, rows, config)
        hashed = config.grid == "hash" and reached > rows
        levels.append(Level(scale, offset, rows, strides, hashed, resolution))
        offset += rows
    return tuple(levels)


def row_count(config: HashGridConfig) -> int:
    """Return how many rows the table has, all levels together."""
    last = grid_levels(config)[-1]
    return last.offset + last.rows


def _round_up(rows: int) -> int:
    return -(-rows // 8) * 8


def _strides(corners: int, rows: int, config: HashGridConfig) -> tuple[tuple[int, ...], int]:
    """Return the row steps per axis, and how many rows a level without sharing would reach.

    gridencoder leaves out axes once its table is full.  tiny-cuda-nn keeps them all, and none
    where the last would not fit into 32 bits.
    """
    powers = [corners**axis for axis in range(config.dim + 1)]
    if config.convention == "tcnn":
        fits = powers[-1] <= UINT32
        return (tuple(powers[:-1]), powers[-1]) if fits else ((0,) * config.dim, UINT32)
    strides = tuple(power if power <= rows else 0 for power in powers[:-1])
    return strides, next((power for power in powers if power > rows), powers[-1])
