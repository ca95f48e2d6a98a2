"""Features on the active voxels of a batch of grids.

A `SparseTensor` is a matrix of features over a `VoxelGrid`, the set of active voxels.  The grid is
shared by every tensor over the same voxels and keeps what is computed from the voxels alone
(neighbour maps, windows, the coarser grid), so that each is computed once, whatever the level.

Notation: n voxels of all items together, b items, c channels; a voxel is (item, x, y, z), and the
voxels of an item are contiguous.  An item may have no voxel at all, which is why the number of
items is part of the grid.

Source: Xiang et al., "Structured 3D Latents for Scalable and Versatile 3D Generation" (2025).
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Hashable, Sequence
from itertools import pairwise
from typing import Any, TypeVar, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from geo3d.errors import ShapeError

T = TypeVar("T")


class VoxelGrid:
    """The active voxels of ``batch_size`` items, and what is computed from them once.

    Args:
        coords: (item, x, y, z) per voxel, items in ascending order.
        batch_size: number of items; by default as many as the last voxel's item tells, which
            loses empty items at the end.

    Raises:
        ShapeError: ``sparse.bad_coords`` if the rows are not four integers, or an item's voxels are
            scattered or outside the batch.
    """

    def __init__(self, coords: Int[Tensor, "n 4"], batch_size: int | None = None) -> None:
        if coords.ndim != 2 or coords.shape[1] != 4 or coords.is_floating_point():
            raise ShapeError(
                "sparse.bad_coords",
                f"Voxels are rows of 4 integers (item, x, y, z), not {tuple(coords.shape)} of "
                f"{coords.dtype}.",
            )
        items = coords[:, 0].long()
        size = batch_size if batch_size is not None else (int(items.max()) + 1 if len(items) else 0)
        if len(items) and (
            bool((items.diff() < 0).any()) or int(items[0]) < 0 or int(items[-1]) >= size
        ):
            raise ShapeError(
                "sparse.bad_coords",
                f"The voxels are not ordered by item, or name an item outside the batch of {size}.",
                "Sort the rows by their first column and pass the right batch_size.",
            )
        self.coords = coords.int()
        self.batch_size = size
        self.batch_index = items
        self.counts: list[int] = torch.bincount(items, minlength=size).tolist()
        self._kept: dict[Hashable, Any] = {}

    def __len__(self) -> int:
        return len(self.coords)

    @property
    def layout(self) -> list[slice]:
        """The rows of each item."""
        ends = torch.tensor([0, *self.counts]).cumsum(0).tolist()
        return [slice(start, end) for start, end in pairwise(ends)]

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return what ``make`` returned the first time it was asked for under ``key``."""
        if key not in self._kept:
            self._kept[key] = make()
        return cast(T, self._kept[key])

    def keep(self, key: Hashable, value: object) -> None:
        """Remember ``value`` under ``key`` for `once`."""
        self._kept[key] = value


class SparseTensor:
    """Features of voxels, with the arithmetic of tensors.

    ``+ - * /`` take a number, another sparse tensor over the same voxels, or a tensor: one that
    broadcasts to (b, c) speaks of items, and each voxel gets its item's row; any other must
    broadcast to the features.  (With as many voxels as items, (n, c) is read as (b, c).)

    Args:
        feats: one row per voxel.
        coords: (item, x, y, z) per voxel, items in ascending order; or the grid of another tensor.
        batch_size: see `VoxelGrid`; ignored with a grid.

    Raises:
        ShapeError: ``sparse.bad_coords``; ``sparse.wrong_rows`` if the rows do not match.
    """

    def __init__(
        self,
        feats: Float[Tensor, "n ..."],
        coords: Int[Tensor, "n 4"] | VoxelGrid,
        batch_size: int | None = None,
    ) -> None:
        self.grid = coords if isinstance(coords, VoxelGrid) else VoxelGrid(coords, batch_size)
        if feats.ndim < 1 or len(feats) != len(self.grid):
            raise ShapeError(
                "sparse.wrong_rows",
                f"There are {len(self.grid)} voxels and features of shape {tuple(feats.shape)}.",
                "Give one row of features per voxel.",
            )
        self.feats = feats

    @property
    def coords(self) -> Int[Tensor, "n 4"]:
        """(item, x, y, z) of each voxel."""
        return self.grid.coords

    @property
    def batch_size(self) -> int:
        """Number of items, empty ones included."""
        return self.grid.batch_size

    @property
    def batch_index(self) -> Int[Tensor, " n"]:
        """Item of each voxel."""
        return self.grid.batch_index

    @property
    def layout(self) -> list[slice]:
        """The rows of each item."""
        return self.grid.layout

    @property
    def shape(self) -> tuple[int, ...]:
        """(b, c): what per-item tensors broadcast to."""
        return (self.batch_size, *self.feats.shape[1:])

    @property
    def device(self) -> torch.device:
        """Where the features are."""
        return self.feats.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the features."""
        return self.feats.dtype

    def __len__(self) -> int:
        return len(self.grid)

    def __repr__(self) -> str:
        return f"SparseTensor(shape={self.shape}, voxels={self.grid.counts}, dtype={self.dtype})"

    def replace(self, feats: Float[Tensor, "n ..."]) -> SparseTensor:
        """Return other features on the same voxels."""
        return SparseTensor(feats, self.grid)

    def to(self, target: torch.dtype | torch.device | str) -> SparseTensor:
        """Return the tensor in another type, or on another device."""
        feats = self.feats.to(target)
        if feats.device == self.coords.device:
            return self.replace(feats)
        return SparseTensor(feats, self.coords.to(feats.device), self.batch_size)

    def detach(self) -> SparseTensor:
        """Return the same features cut off from their history."""
        return self.replace(self.feats.detach())

    def items(self) -> list[SparseTensor]:
        """Return each item as a batch of one."""
        parts = []
        for rows in self.layout:
            coords = self.coords[rows].clone()
            coords[:, 0] = 0
            parts.append(SparseTensor(self.feats[rows], coords, 1))
        return parts

    def per_voxel(self, other: Tensor) -> Tensor:
        """Return ``other`` ready to combine with the features (see the class)."""
        try:
            per_item = other.broadcast_to(self.shape)
        except RuntimeError:
            return other
        if other.ndim == self.feats.ndim and len(other) == self.batch_size != 1:
            return per_item[self.batch_index]
        return other

    def _combine(self, other: Any, operation: Callable[[Any, Any], Tensor]) -> SparseTensor:
        if isinstance(other, SparseTensor):
            if other.grid is not self.grid and not torch.equal(other.coords, self.coords):
                raise ShapeError(
                    "sparse.other_voxels",
                    "Two sparse tensors over different voxels cannot be combined.",
                    "Make one from the other with replace.",
                )
            return self.replace(operation(self.feats, other.feats))
        if isinstance(other, Tensor):
            other = self.per_voxel(other)
        elif not isinstance(other, int | float):
            return NotImplemented
        return self.replace(operation(self.feats, other))

    def __add__(self, other: Any) -> SparseTensor:
        return self._combine(other, operator.add)

    def __sub__(self, other: Any) -> SparseTensor:
        return self._combine(other, operator.sub)

    def __mul__(self, other: Any) -> SparseTensor:
        return self._combine(other, operator.mul)

    def __truediv__(self, other: Any) -> SparseTensor:
        return self._combine(other, operator.truediv)

    def __radd__(self, other: Any) -> SparseTensor:
        return self._combine(other, operator.add)

    def __rsub__(self, other: Any) -> SparseTensor:
        return self._combine(other, lambda mine, theirs: theirs - mine)

    def __rmul__(self, other: Any) -> SparseTensor:
        return self._combine(other, operator.mul)

    def __rtruediv__(self, other: Any) -> SparseTensor:
        return self._combine(other, lambda mine, theirs: theirs / mine)

    def __neg__(self) -> SparseTensor:
        return self.replace(-self.feats)


def join_items(items: Sequence[SparseTensor]) -> SparseTensor:
    """Return one batch of all the items of several tensors, in order.

    Raises:
        ShapeError: ``sparse.no_items`` for an empty list.
    """
    if not items:
        raise ShapeError("sparse.no_items", "There is no sparse tensor to join.")
    coords, start = [], 0
    for item in items:
        moved = item.coords.clone()
        moved[:, 0] += start
        coords.append(moved)
        start += item.batch_size
    return SparseTensor(torch.cat([item.feats for item in items]), torch.cat(coords), start)
