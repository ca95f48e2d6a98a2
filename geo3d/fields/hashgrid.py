"""Multiresolution hash grids: a table of features read at a point, level by level.

Notation: x in [0, 1]^d; level l has the scale n_l = base * b^l - 1 (b the factor between levels);
the point lies at x n_l + 1/2 in the grid's cells (no 1/2 with aligned corners); each level mixes
the features of the 2^d corners of its cell.  Coarse levels store every corner ("dense"), fine ones
share rows: row = XOR_d(corner_d * prime_d) mod rows.

Levels and the two published conventions: `geo3d.fields.levels`.  `encode_reference` is readable and
differentiable in table and points; `hashgrid_fast` and `hashgrid_gpu` compute the same faster.

Source: Mueller et al. 2022 (Instant NGP); torch-ngp's gridencoder; tiny-cuda-nn.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from geo3d.errors import ConfigError
from geo3d.fields.levels import UINT32, HashGridConfig, Level, grid_levels, row_count

Backend = Literal["auto", "torch", "numba", "tinycudann"]
PRIMES = (1, 2654435761, 805459861, 3674653429, 2097192037, 1434869437, 2165219737)
_INITIAL = 1e-4


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

    Raises:
        ConfigError, BackendUnavailable: see `chosen_backend`.
    """
    is_float32 = points.dtype == table.dtype == torch.float32
    chosen = chosen_backend(backend, config, points.device, is_float32)
    if chosen == "torch":
        return encode_reference(points, table, config)
    if chosen == "tinycudann":
        from geo3d.fields.hashgrid_gpu import encode_gpu

        return encode_gpu(points, table, config)
    from geo3d.fields.hashgrid_fast import encode_fast

    return encode_fast(points, table, config)


def chosen_backend(
    backend: Backend,
    config: HashGridConfig,
    device: torch.device | str = "cpu",
    is_float32: bool = True,
) -> Backend:
    """Return what ``backend`` comes to for tensors of this kind: torch, numba or tinycudann.

    "auto" takes tiny-cuda-nn for tables of its convention on an NVIDIA GPU where it is installed,
    numba for float32 in three dimensions on the CPU, else torch.  Asked for by name, tiny-cuda-nn
    also serves tensors on the CPU, which then travel to the GPU and back.

    Raises:
        ConfigError: ``config.bad_value`` for a backend that cannot compute this grid.
        BackendUnavailable: ``backend.unavailable``.
    """
    from geo3d.fields import hashgrid_gpu

    kind = torch.device(device).type
    for_numba = kind == "cpu" and is_float32 and config.dim == 3
    if backend == "numba" and not for_numba:
        raise ConfigError(
            "config.bad_value",
            "The numba hash grid takes float32 points in 3 dimensions on the CPU.",
            'Use backend="torch".',
        )
    if backend == "tinycudann":
        hashgrid_gpu.tinycudann_encoding(config)
    if backend != "auto":
        return backend
    if kind == "cuda" and is_float32 and hashgrid_gpu.can_encode(config):
        return "tinycudann"
    return "numba" if for_numba else "torch"


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
    return (index & UINT32) % level.rows
