"""Persistent homology of images and volumes, with the pixels where classes are born and die.

Notation: f the image, n pixels; a sublevel set holds the pixels with f <= t, a superlevel set those
with f >= t.  A class of dimension 0 is a component, of dimension 1 a loop (2D: around a hole; 3D: a
tunnel), of dimension 2 a cavity.  Pixels that enter at one level enter in index order, and each
cell belongs to the last of its pixels ("vertices") or the first ("cells"), so places are unique
even where values tie.

* Dimension 0: union-find over the sorted pixels, elder rule.
* The last dimension: Alexander duality.  A hole of {f <= t} is a component of {f > t} that does not
  reach the border, so it is dimension 0 of the reversed image, with the outside as the eldest.
* Dimension 1 of a volume: reduction of the matrix of squares against edges; squares that enclose
  cavities are known beforehand from the dual graph and left out ("clearing").

Why not GUDHI: its cubical complex is MIT, but importing the package loads all its extensions, among
them those built on CGAL under the GPL, and its fast 2D code gives values without pixels.
Sources: Edelsbrunner & Harer, Computational Topology (2010), chapter VII; Garin et al., Duality in
persistent homology of images (2020); Chen & Kerber, Persistent homology with a twist (2011).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64

from geo3d.errors import InputError
from geo3d.topology.grids import Pixels, check_dimensions, check_pixels
from geo3d.topology.kernels import joining_edges, reduce_columns
from geo3d.topology.merging import Stack, cavity_merges, component_merges, stack


@dataclass(frozen=True)
class Pairs:
    """The classes of one dimension, without those that die at the level of their birth.

    Attributes:
        birth: level of appearance.
        death: level of disappearance; inf (sublevel) or -inf (superlevel) for the class that stays.
        birth_at: flat C-order index of the pixel that gives `birth`.
        death_at: likewise for `death`; -1 for the class that stays.
    """

    birth: Float[np.ndarray, " n"]
    death: Float[np.ndarray, " n"]
    birth_at: Int64[np.ndarray, " n"]
    death_at: Int64[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.birth)

    @property
    def persistence(self) -> Float[np.ndarray, " n"]:
        """How long each class lives; inf for the one that stays."""
        return np.abs(self.death - self.birth)


def persistence(
    values: np.ndarray, pixels: Pixels = "cells", *, superlevel: bool = False
) -> tuple[Pairs, ...]:
    """Return the pairs of every dimension: two entries for an image, three for a volume.

    Dimension 0 lists pairs in order of death and ends with the component that stays.

    Raises:
        ShapeError: "topology.bad_dimensions".
        InputError: "topology.not_finite".
        ConfigError: "topology.unknown_pixels".
    """
    values = _levels(values, pixels)
    components = component_pairs(values, pixels, superlevel=superlevel)
    cavities = cavity_pairs(values, pixels, superlevel=superlevel)
    if values.ndim == 2:
        return components, cavities
    return components, tunnel_pairs(values, pixels, superlevel=superlevel), cavities


def component_pairs(
    values: np.ndarray, pixels: Pixels = "cells", *, superlevel: bool = False
) -> Pairs:
    """Return dimension 0, the component that stays last.  Raises as `persistence`."""
    values = _levels(values, pixels)
    merges = component_merges(_turned(values, superlevel), pixels)
    births = _turned_back(values, np.append(merges.began(), merges.orders[0][:1]))
    deaths = np.append(_turned_back(values, merges.at), -1)
    return _pairs(values, births, deaths, superlevel)


def cavity_pairs(
    values: np.ndarray, pixels: Pixels = "cells", *, superlevel: bool = False
) -> Pairs:
    """Return the last dimension: holes in 2D, cavities in 3D.  Raises as `persistence`."""
    values = _levels(values, pixels)
    merges = cavity_merges(_turned(values, superlevel), pixels)
    births, deaths = (_turned_back(values, at) for at in (merges.at, merges.began()))
    return _pairs(values, births, deaths, superlevel)


def tunnel_pairs(
    values: Float[np.ndarray, "d h w"], pixels: Pixels = "cells", *, superlevel: bool = False
) -> Pairs:
    """Return dimension 1 of a volume.  Raises as `persistence`."""
    values = _levels(values, pixels)
    flat = values.ravel()
    order = np.argsort(-flat if superlevel else flat, kind="stable")
    rank = np.empty(order.size, dtype=np.int64)
    if pixels == "vertices":
        rank[order] = np.arange(order.size)
        births, deaths = _reduce_squares(rank.reshape(values.shape))
        return _pairs(values, order[births], order[deaths], superlevel)
    # Tunnels of the cells are tunnels of the complement, read backwards; the outside comes first.
    order = order[::-1]
    rank[order] = np.arange(order.size)
    deaths, births = _reduce_squares(np.pad(rank.reshape(values.shape), 1, constant_values=-1))
    inside = (births >= 0) & (deaths >= 0)
    return _pairs(values, order[births[inside]], order[deaths[inside]], superlevel)


def _levels(values: np.ndarray, pixels: str) -> np.ndarray:
    """Return finite levels that can be negated: 8-bit images and masks become float64."""
    array = np.asarray(values)
    check_dimensions(array)
    check_pixels(pixels)
    if not np.isfinite(array).all():
        raise InputError(
            "topology.not_finite",
            "An image holds NaN or infinite values.",
            "Persistence needs finite levels: check what made the image.",
        )
    return array if array.dtype.kind == "f" else array.astype(np.float64)


def _turned(values: np.ndarray, superlevel: bool) -> Stack:
    """Return the image back to front: `merging` takes the last of equal pixels first."""
    return stack(np.flip(values if superlevel else -values)[None])


def _turned_back(values: np.ndarray, at: np.ndarray) -> Int64[np.ndarray, " n"]:
    return values.size - 1 - at.astype(np.int64)


def _pairs(
    values: np.ndarray, birth_at: np.ndarray, death_at: np.ndarray, superlevel: bool
) -> Pairs:
    flat = values.ravel()
    birth, death = flat[birth_at], flat[death_at]
    death = np.where(death_at < 0, -np.inf if superlevel else np.inf, death).astype(flat.dtype)
    lives = birth != death
    return Pairs(birth[lives], death[lives], birth_at[lives], death_at[lives])


def _reduce_squares(rank: Int64[np.ndarray, "d h w"]) -> tuple[np.ndarray, np.ndarray]:
    """Return the ranks of the pixels where the loops of a grid graph with squares begin and end.

    Cells live on the doubled grid: a coordinate is odd along the axes in which the cell extends.
    A cell's rank is the highest of its pixels'.
    """
    cells = _doubled(rank)
    extent = sum(np.ix_(*(np.arange(n) % 2 for n in cells.shape)))
    flat, kind = cells.ravel(), np.asarray(extent).ravel()
    edges, squares = (ids[np.argsort(flat[ids], kind="stable")] for ids in _of_kind(kind))
    squares = squares[~_enclose_cavities(squares, cells.shape)]
    row = np.empty(flat.size, dtype=np.int64)
    row[edges] = np.arange(edges.size)
    columns = np.sort(row[_beside(squares, cells.shape, odd=True)], axis=1)[:, ::-1]
    last = reduce_columns(np.ascontiguousarray(columns), edges.size)
    return flat[edges[last]], flat[squares]


def _of_kind(kind: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.flatnonzero(kind == 1), np.flatnonzero(kind == 2)


def _doubled(rank: np.ndarray) -> np.ndarray:
    """Put pixels at even coordinates and the maximum of both neighbours between them."""
    for axis in range(rank.ndim):
        moved = np.moveaxis(rank, axis, 0)
        wide = np.empty((2 * len(moved) - 1, *moved.shape[1:]), dtype=rank.dtype)
        wide[::2] = moved
        wide[1::2] = np.maximum(moved[:-1], moved[1:])
        rank = np.moveaxis(wide, 0, axis)
    return np.ascontiguousarray(rank)


def _beside(cells: np.ndarray, shape: tuple[int, ...], *, odd: bool) -> np.ndarray:
    """Return the cells one step away along odd (faces) or even (cofaces) axes; -1 is outside."""
    at = np.stack(np.unravel_index(cells, shape), axis=1)
    chosen = np.nonzero((at % 2 == 1) == odd)
    axes = chosen[1].reshape(len(cells), -1)
    found = []
    for side in (-1, 1):
        for column in axes.T:
            coordinate = at[np.arange(len(cells)), column] + side
            size = np.array(shape)[column]
            stride = np.array([shape[1] * shape[2], shape[2], 1])[column]
            inside = (coordinate >= 0) & (coordinate < size)
            found.append(np.where(inside, cells + side * stride, -1))
    return np.stack(found, axis=1)


def _enclose_cavities(squares: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Say which squares close a surface: taken backwards, they join the regions of two cubes."""
    cubes = _beside(squares, shape, odd=False)[::-1] + 1
    return joining_edges(np.ascontiguousarray(cubes), int(np.prod(shape)) + 1)[::-1]
