"""A lattice of cubic cells over the world, with a band in which neighbours blend.

Cell (i, j, k) has its centre at (i, j, k) times the side G.  Within half a band of a face a point
belongs to both sides, with weights that go linearly from one cell to the other: what neighbours
hold is mixed and no seam is left.  Cells are known before training, from boxes the scene fills.
Source: Urban Architect (arXiv 2404.06780), section 3.2; the band and the order of cells are ours.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from geo3d.config import require

Key = tuple[int, int, int]
_HALF = 2**20
"""Codes hold 21 bits per axis."""


class Members(NamedTuple):
    """The points that lie in one cell."""

    key: Key
    points: Int[Tensor, " m"]
    """Their numbers."""
    weights: Float[Tensor, " m"]
    """Their share in this cell; over all cells a point's shares sum to 1."""


class Lattice:
    """The cells of a scene.

    Args:
        side: of a cell, metres.
        keys: the cells that exist, in any order.
        band: width in which neighbours blend, metres; 0 for hard borders.

    Raises:
        ConfigError: ``config.bad_value``.
    """

    def __init__(self, side: float, keys: Iterable[Key], band: float = 0.0) -> None:
        require(side > 0, "the side of a cell", f"positive, not {side} m")
        require(
            0 <= band < side, "the blend band", f"at least 0 and less than the side, not {band} m"
        )
        self.side = float(side)
        self.band = float(band)
        self.keys: tuple[Key, ...] = tuple(sorted(set(keys)))
        self._order = sorted(range(len(self.keys)), key=lambda i: _code(self.keys[i]))
        codes = [_code(self.keys[i]) for i in self._order]
        self._codes = torch.tensor(codes, dtype=torch.int64)

    def local(self, points: Float[Tensor, "*n 3"], key: Key) -> Float[Tensor, "*n 3"]:
        """Return coordinates in [0, 1] within the cell and its half of the bands."""
        centre = torch.tensor(key, dtype=torch.float64) * self.side
        return (points - centre.to(points)) / (self.side + self.band) + 0.5

    def codes(self, points: Float[Tensor, "p 3"]) -> Int[Tensor, " p"]:
        """Return one number per point that is the same for points of the same cell."""
        return _codes(torch.round(points / self.side).long())

    def locate(self, points: Float[Tensor, "p 3"]) -> list[Members]:
        """Return the points of each existing cell, cells sorted; others belong nowhere."""
        scaled = points.detach() / self.side
        nearest = torch.round(scaled)
        offset = scaled - nearest
        nearest = nearest.long()
        half = self.band / (2 * self.side)
        step = torch.where(offset < 0, -1, 1)
        if half > 0:
            beyond = ((offset.abs() - (0.5 - half)) / (2 * half)).clamp(min=0)
        else:
            beyond = torch.zeros_like(offset)
        # most points are far from every face and need no second look
        edge = torch.nonzero((beyond > 0).any(dim=1))[:, 0]
        inner = torch.nonzero((beyond <= 0).all(dim=1))[:, 0]
        numbers, codes, shares = [inner], [_codes(nearest[inner])], [torch.ones(len(inner))]
        nearest, beyond, step = nearest[edge], beyond[edge], step[edge]
        for bits in itertools.product((0, 1), repeat=3):
            chosen = torch.tensor(bits)
            share = torch.where(chosen.bool(), beyond, 1 - beyond).prod(dim=1)
            here = torch.nonzero(share > 0)[:, 0]
            numbers.append(edge[here])
            codes.append(_codes(nearest[here] + step[here] * chosen))
            shares.append(share[here])
        return self._group(torch.cat(numbers), torch.cat(codes), torch.cat(shares), len(points))

    def _group(self, numbers: Tensor, codes: Tensor, shares: Tensor, count: int) -> list[Members]:
        if not len(self._codes):
            return []
        place = torch.searchsorted(self._codes, codes).clamp(max=len(self._codes) - 1)
        exists = self._codes[place] == codes
        numbers, place, shares = numbers[exists], place[exists], shares[exists]
        # where a neighbour does not exist, the others take its share
        total = torch.zeros(count, dtype=shares.dtype).index_add(0, numbers, shares)
        shares = shares / total[numbers]
        order = torch.argsort(place, stable=True)
        found, sizes = torch.unique_consecutive(place[order], return_counts=True)
        parts = torch.split(order, sizes.tolist())
        members = [
            Members(self.keys[self._order[cell]], numbers[part], shares[part])
            for cell, part in zip(found.tolist(), parts, strict=True)
        ]
        return sorted(members, key=lambda one: one.key)


def cells_of_boxes(
    boxes: Float[np.ndarray, "n 2 3"], side: float, band: float = 0.0
) -> tuple[Key, ...]:
    """Return the cells, sorted, that boxes (two corners each) or their blend bands touch."""
    keys: set[Key] = set()
    low = np.round((boxes[:, 0] - band / 2) / side).astype(int)
    high = np.round((boxes[:, 1] + band / 2) / side).astype(int)
    for a, b in np.unique(np.concatenate([low, high], axis=1), axis=0).reshape(-1, 2, 3).tolist():
        keys.update(
            (x, y, z)
            for x in range(a[0], b[0] + 1)
            for y in range(a[1], b[1] + 1)
            for z in range(a[2], b[2] + 1)
        )
    return tuple(sorted(keys))


def cell_name(key: Key) -> str:
    """Return the name of a cell, such as "x0y-1z2"."""
    return "x{}y{}z{}".format(*key)


def code_of_cell(key: Key) -> int:
    """Return the number `Lattice.codes` gives to points of this cell."""
    return _code(key)


def _code(key: Key) -> int:
    x, y, z = (value + _HALF for value in key)
    return (x << 42) | (y << 21) | z


def _codes(keys: Int[Tensor, "p 3"]) -> Int[Tensor, " p"]:
    moved = keys + _HALF
    return (moved[:, 0] << 42) | (moved[:, 1] << 21) | moved[:, 2]
