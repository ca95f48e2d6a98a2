"""Which active voxels touch each other: the maps behind convolutions, windows and pooling.

A voxel's *key* is one integer, ordered like (item, x, y, z); neighbours are found by a table of the
whole batch of grids where that is small, else by bisection among the sorted keys.  Every result is
kept on the `VoxelGrid`, so that it is made once per set of voxels and level.

Notation: n voxels, m coarse voxels; offset o of the 27 runs like the kernel, o = 9 i + 3 j + k for
the neighbour at (x, y, z) + (i - 1, j - 1, k - 1).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from scenes.objects.sparse import VoxelGrid

CENTRE = 13
"""The offset (0, 0, 0)."""
_TABLE_CELLS_PER_VOXEL = 512
"""A table of all cells is used up to this many cells per voxel."""


class Pairs(NamedTuple):
    """Rows that meet under one offset of the kernel."""

    source: Int[Tensor, " p"]
    """The neighbours, whose features are read."""
    target: Int[Tensor, " p"]
    """The voxels that have them, each at most once, ascending."""


class Windows(NamedTuple):
    """Voxels sorted by the window they are in."""

    order: Int[Tensor, " n"]
    """The voxel at each place."""
    place: Int[Tensor, " n"]
    """The place of each voxel."""
    lengths: list[int]
    """Voxels per window."""
    window_of_voxel: Int[Tensor, " n"]
    """The window of each voxel; windows are numbered by (item, x, y, z)."""


class Coarser(NamedTuple):
    """The grid of half the resolution."""

    grid: VoxelGrid
    """The coarse voxels, ordered by (item, x, y, z)."""
    parent: Int[Tensor, " n"]
    """The coarse voxel of each fine voxel."""
    children: Int[Tensor, " m"]
    """Number of fine voxels in each coarse one."""


def neighbour_pairs(grid: VoxelGrid) -> list[Pairs]:
    """Return, for each of the 27 offsets, the pairs (neighbour, voxel) of active voxels."""
    return grid.once("pairs", lambda: _find_pairs(grid))


def windows(grid: VoxelGrid, size: int, shift: int) -> Windows:
    """Return the partition into cubes of ``size`` voxels after moving the voxels by ``shift``."""
    return grid.once(("windows", size, shift), lambda: _partition(grid, size, shift))


def coarser(grid: VoxelGrid) -> Coarser:
    """Return the grid of half the resolution, which remembers the fine one (see `finer`)."""
    return grid.once("coarser", lambda: _halve(grid))


def finer(grid: VoxelGrid) -> tuple[VoxelGrid, Int[Tensor, " n"]] | None:
    """Return the grid that ``grid`` was made from by `coarser`, and each fine voxel's parent."""
    return grid.once("finer", lambda: None)


def children(grid: VoxelGrid) -> VoxelGrid:
    """Return the grid of twice the resolution where all 8 children of each voxel are active."""
    return grid.once("children", lambda: _split(grid))


def _keys(coords: Int[Tensor, "n 4"], sizes: list[int]) -> Int[Tensor, " n"]:
    item, x, y, z = coords.long().unbind(1)
    return ((item * sizes[0] + x) * sizes[1] + y) * sizes[2] + z


def _find_pairs(grid: VoxelGrid) -> list[Pairs]:
    device = grid.coords.device
    if len(grid) == 0:
        nothing = torch.zeros(0, dtype=torch.long, device=device)
        return [Pairs(nothing, nothing)] * 27
    # With a rim of one cell around every item no neighbour wraps into another row or item.
    low = grid.coords[:, 1:].amin(0) - 1
    sizes = (grid.coords[:, 1:].amax(0) - low + 2).tolist()
    moved = grid.coords.clone()
    moved[:, 1:] -= low
    keys = _keys(moved, sizes)
    steps = [(i * sizes[1] + j) * sizes[2] + k for i, j, k in _offsets()]
    row_of = _Lookup(keys, grid.batch_size * sizes[0] * sizes[1] * sizes[2])
    everyone = torch.arange(len(grid), device=device)
    pairs = [Pairs(everyone, everyone)] * 27
    for offset in range(CENTRE):
        row = row_of(keys + steps[offset])
        target = (row >= 0).nonzero()[:, 0]
        source = row[target]
        pairs[offset] = Pairs(source, target)
        # The opposite offset sees the same pairs from the other side.
        order = source.argsort() if not _ascending(source) else slice(None)
        pairs[26 - offset] = Pairs(target[order], source[order])
    return pairs


def _offsets() -> list[tuple[int, int, int]]:
    return [(i - 1, j - 1, k - 1) for i in range(3) for j in range(3) for k in range(3)]


def _ascending(rows: Int[Tensor, " p"]) -> bool:
    return bool((rows.diff() > 0).all())


class _Lookup:
    """The row of a key, or -1."""

    def __init__(self, keys: Int[Tensor, " n"], cells: int) -> None:
        self.table = None
        rows = torch.arange(len(keys), device=keys.device)
        if cells <= _TABLE_CELLS_PER_VOXEL * len(keys):
            self.table = torch.full((cells,), -1, dtype=torch.int32, device=keys.device)
            self.table[keys] = rows.int()
            return
        self.keys, self.rows = (keys, rows) if _ascending(keys) else keys.sort()

    def __call__(self, keys: Int[Tensor, " p"]) -> Int[Tensor, " p"]:
        if self.table is not None:
            return self.table.index_select(0, keys).long()
        place = torch.searchsorted(self.keys, keys).clamp_(max=len(self.keys) - 1)
        return torch.where(self.keys[place] == keys, self.rows[place], -1)


def _partition(grid: VoxelGrid, size: int, shift: int) -> Windows:
    cells = grid.coords.clone()
    cells[:, 1:] = (cells[:, 1:] + shift).div(size, rounding_mode="floor")
    _, window, counts = _unique(cells)
    order = window.argsort(stable=True)
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device)
    return Windows(order, place, counts.tolist(), window)


def _halve(grid: VoxelGrid) -> Coarser:
    cells = grid.coords.clone()
    cells[:, 1:] = cells[:, 1:].div(2, rounding_mode="floor")
    coords, parent, counts = _unique(cells)
    coarse = VoxelGrid(coords, grid.batch_size)
    coarse.keep("finer", (grid, parent))
    return Coarser(coarse, parent, counts)


def _split(grid: VoxelGrid) -> VoxelGrid:
    steps = torch.arange(2, dtype=torch.int32, device=grid.coords.device)
    corners = torch.cartesian_prod(steps[:1], steps, steps, steps)
    doubled = grid.coords * torch.tensor([1, 2, 2, 2], device=grid.coords.device)
    return VoxelGrid((doubled[:, None] + corners).flatten(0, 1), grid.batch_size)


def _unique(cells: Int[Tensor, "n 4"]) -> tuple[Tensor, Tensor, Tensor]:
    """Return the distinct rows in order, the row of each cell, and how many cells each stands for.

    A sort of keys: `torch.unique` over rows is some ten times slower.
    """
    if len(cells) == 0:
        nothing = torch.zeros(0, dtype=torch.long, device=cells.device)
        return cells, nothing, nothing
    low = cells[:, 1:].amin(0)
    sizes = (cells[:, 1:].amax(0) - low + 1).tolist()
    moved = cells.clone()
    moved[:, 1:] -= low
    keys, index, counts = _keys(moved, sizes).unique(return_inverse=True, return_counts=True)
    rows = torch.empty(len(keys), 4, dtype=cells.dtype, device=cells.device)
    rows[index] = cells
    return rows, index, counts
