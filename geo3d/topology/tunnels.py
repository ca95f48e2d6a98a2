"""Tunnels of volumes: which edge of the voxel grid begins each loop, and which square fills it.

Notation: voxels are points, joined along the axes by edges, with squares and cubes between them; a
cell enters with the last of its voxels.  Two strict orders of voxels: that of the *columns*, in
which squares come, and that of the *rows*, in which edges are compared.  With one order for both,
the pairs are those of persistent homology in dimension 1.  With two, of which one enters earlier
than the other, they are those of image persistence: the loop begins in the order of the rows and
ends in that of the columns (Bauer & Schmahl 2023).

* The 12 squares around a voxel and its 6 edges are numbered on the spot, so nothing is sorted but
  the voxels, and a row number tells its edge.
* Most squares end a loop that the same voxel began.  Tables tell them, and they are never columns.
* Squares that close a surface never fill a loop: taken backwards, they join the regions of two
  cubes, which a union-find tells before the reduction ("clearing", Chen & Kerber 2011).
* Other columns go through a heap of voxels, each with its edges as bits, so that equal ones cancel.
* A voxel with rank `OUTSIDE` belongs to the outside, which is shrunk to a point: edges inside it
  are no rows.  A voxel with rank `ABSENT` never enters.

Sources: Edelsbrunner & Harer, Computational Topology (2010), VII; Stucki et al., Efficient Betti
matching enables topology-aware 3D segmentation (2024), for image persistence of volumes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Int16, Int32, Int64

from geo3d.topology.grids import Pixels
from geo3d.topology.merging import Stack
from geo3d.topology.tunnel_kernels import (
    SQUARES,
    closing_squares,
    columns_left,
    star_tables,
    stars,
)
from geo3d.topology.tunnel_reduction import reduce_columns

OUTSIDE = -1
ABSENT = np.iinfo(np.int32).max


@dataclass(frozen=True, eq=False)
class Grid:
    """The voxels of one volume in the order in which loops are looked for.

    Attributes:
        order: flat index of each voxel; "cells": from dark to bright, as what is looked at are the
            loops of the complement, which are those of the foreground read backwards.
        rank: place in the order of each voxel of the padded volume; `OUTSIDE`, `ABSENT`.
    """

    order: Int32[np.ndarray, " n"]
    rank: Int32[np.ndarray, "d h w"]

    @cached_property
    def padded_order(self) -> Int32[np.ndarray, " n"]:
        """Return the index in the padded volume of each voxel of the order."""
        flat = self.rank.ravel()
        inside = np.flatnonzero((flat >= 0) & (flat != ABSENT)).astype(np.int32)
        order = np.empty_like(inside)
        order[flat[inside]] = inside
        return order

    @cached_property
    def star(self) -> Int32[np.ndarray, " p"]:
        """Return the cells that enter with each voxel, see `tunnel_kernels`."""
        return stars(self.rank).ravel()

    @cached_property
    def closed(self) -> Int16[np.ndarray, " p"]:
        """Return the squares of each star that close a surface."""
        _, _, closing, regions = star_tables()
        flat = self.padded_order, self.rank.ravel(), self.star
        return closing_squares(*flat, _steps(self.rank), ABSENT, closing, regions)

    def loops(self, rows: Grid) -> tuple[Int64[np.ndarray, " l"], Int64[np.ndarray, " l"]]:
        """Return the edge that begins each loop, and the square that ends it, in order.

        An edge is 6 times the place of its last voxel in `rows`, and a number below 6; a square is
        12 times its place, and a number below 12.  Loops that one voxel begins and ends may be
        left out.
        """
        paths, forest, _, _ = star_tables()
        # Where another order has less in a star, a square may not be the first beside an edge.
        inner = np.where(self.star & ~rows.star & SQUARES, 0, self.star)
        order = self.padded_order
        squares = columns_left(order, self.star, self.closed, inner, forest)
        flat = order, inner, rows.padded_order, rows.rank.ravel()
        return reduce_columns(squares, *flat, _steps(self.rank), paths), squares


def grids(own: Stack, pixels: Pixels) -> list[Grid]:
    """Return the voxels of each volume of a stack, ready to look for loops."""
    n, *padded = own.padded
    size, padded_size = own.inner.size // n, int(np.prod(padded))
    ends = np.searchsorted(own.ascending // size, np.arange(n + 1))
    found = []
    for item in range(n):
        order = own.ascending[ends[item] : ends[item + 1]]
        order = order if pixels == "cells" else order[::-1]
        rank = np.full(padded_size, OUTSIDE if pixels == "cells" else ABSENT, dtype=np.int32)
        rank[own.inner[order] - item * padded_size] = np.arange(order.size)
        found.append(Grid(order, rank.reshape(padded)))
    return found


def births_and_deaths(
    own: Stack, pixels: Pixels
) -> tuple[Int64[np.ndarray, " l"], Int64[np.ndarray, " l"]]:
    """Return the voxels of birth and death of all tunnels of a stack, some of no span too."""
    pairs = []
    for grid in grids(own, pixels):
        edges, squares = grid.loops(grid)
        pairs.append(np.stack([grid.order[edges // 6], grid.order[squares // 12]]))
    begun, ended = np.concatenate(pairs, axis=1).astype(np.int64)
    return (ended, begun) if pixels == "cells" else (begun, ended)


def _steps(rank: np.ndarray) -> Int64[np.ndarray, 3]:
    return np.array([rank.shape[1] * rank.shape[2], rank.shape[2], 1])
