"""Persistent homology of images and volumes, with the pixels where classes are born and die.

Notation: f the image, n pixels; a sublevel set holds the pixels with f <= t, a superlevel set those
with f >= t.  A class of dimension 0 is a component, of dimension 1 a loop (2D: around a hole; 3D: a
tunnel), of dimension 2 a cavity.  Pixels that enter at one level enter in index order, and each
cell belongs to the last of its pixels ("vertices") or the first ("cells"), so places are unique
even where values tie.

* Dimension 0: union-find over the sorted pixels, elder rule.
* The last dimension: Alexander duality.  A hole of {f <= t} is a component of {f > t} that does not
  reach the border, so it is dimension 0 of the reversed image, with the outside as the eldest.
* Dimension 1 of a volume: reduction of the matrix of squares against edges, `tunnels.py`.

Why not GUDHI: its cubical complex is MIT, but importing the package loads all its extensions, among
them those built on CGAL under the GPL, and its fast 2D code gives values without pixels.
Sources: Edelsbrunner & Harer, Computational Topology (2010), chapter VII; Garin et al., Duality in
persistent homology of images (2020).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64

from geo3d.errors import InputError
from geo3d.topology.grids import Pixels, check_dimensions, check_pixels
from geo3d.topology.merging import Stack, cavity_merges, component_merges, stack
from geo3d.topology.tunnels import births_and_deaths


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
    births, deaths = births_and_deaths(_turned(values, superlevel), pixels)
    born, died = (_turned_back(values, at) for at in (births, deaths))
    return _pairs(values, born, died, superlevel)


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
