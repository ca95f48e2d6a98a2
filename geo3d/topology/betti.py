"""Exact Betti numbers of masks: components (b0), loops in 2D or tunnels in 3D (b1), cavities (b2).

How pixels touch is said by `geo3d.topology.grids.Pixels`: "cells" (the default, foreground 8- or
26-connected) is what the cubical complex of top-dimensional cells gives and what the published
TopoMortar numbers use.

* b0 is the number of connected components of the foreground.
* The last number (b1 in 2D, b2 in 3D) is the number of background components that do not reach the
  border: components of the mask padded by one background pixel, minus one.
* b1 in 3D follows from the Euler characteristic: b1 = b0 + b2 - chi, where chi counts the cells of
  the complex with alternating signs.

An empty mask has no component, (0, 0); a full one is a single block, (1, 0).  The published code
counts one component in an empty mask (the essential class of the filtration): `empty_is_one`.
"""

from __future__ import annotations

from functools import reduce
from itertools import combinations

import numpy as np

from geo3d.topology.grids import Pixels, as_mask, check_not_flat, check_pixels, label_components


def betti_numbers(
    mask: np.ndarray, pixels: Pixels = "cells", *, empty_is_one: bool = False
) -> tuple[int, ...]:
    """Return (b0, b1) of an image's or (b0, b1, b2) of a volume's mask.

    Args:
        mask: booleans, or numbers 0 and 1.
        pixels: how pixels touch, see the module.
        empty_is_one: count an empty mask as one component, as the published code does.

    Raises:
        ShapeError: "topology.bad_dimensions", "topology.not_a_mask", "topology.flat".
        ConfigError: "topology.unknown_pixels".
    """
    check_pixels(pixels)
    filled = as_mask(mask)
    check_not_flat(filled)
    return numbers_of(filled, pixels, empty_is_one=empty_is_one)


def numbers_of(filled: np.ndarray, pixels: Pixels, *, empty_is_one: bool) -> tuple[int, ...]:
    """Return the Betti numbers of a checked mask, also of a tile one voxel thick."""
    components = count_components(filled, corners=pixels == "cells")
    cavities = count_components(~np.pad(filled, 1), corners=pixels == "vertices") - 1
    tunnels = () if filled.ndim == 2 else (components + cavities - euler_number(filled, pixels),)
    if empty_is_one and components == 0:
        components = 1
    return (components, *tunnels, cavities)


def count_components(mask: np.ndarray, *, corners: bool) -> int:
    """Count connected components; ``corners`` says whether pixels that share a corner touch."""
    return label_components(mask, corners=corners)[1]


def euler_number(mask: np.ndarray, pixels: Pixels = "cells") -> int:
    """Return the number of even-dimensional minus odd-dimensional cells of the complex.

    With "vertices" a cell that extends along some axes is there if all its pixels are; with "cells"
    a face that is thin along some axes is there if any pixel beside it is.

    Raises:
        ShapeError: "topology.bad_dimensions", "topology.not_a_mask".
        ConfigError: "topology.unknown_pixels".
    """
    check_pixels(pixels)
    filled = as_mask(mask)
    all_axes, together = range(filled.ndim), np.logical_and
    if pixels == "cells":
        filled, together = np.pad(filled, 1), np.logical_or
    total = 0
    for n_axes in range(filled.ndim + 1):
        dimension = filled.ndim - n_axes if pixels == "cells" else n_axes
        for axes in combinations(all_axes, n_axes):
            cells = reduce(lambda found, axis: _paired(found, axis, together), axes, filled)
            total += (-1) ** dimension * int(np.count_nonzero(cells))
    return total


def _paired(values: np.ndarray, axis: int, together: np.ufunc) -> np.ndarray:
    """Combine each entry with the next one along an axis."""
    first = [slice(None)] * values.ndim
    second = [slice(None)] * values.ndim
    first[axis], second[axis] = slice(None, -1), slice(1, None)
    return together(values[tuple(first)], values[tuple(second)])
