"""Euclidean distance maps of masks, and the region-wise map built on them.

Notation: t_c mask of class c, d_c its distance map (0 outside, else the distance in pixels to the
nearest pixel outside the mask), R_c the region-wise map: -d_c / max(d_c) inside, +1 outside.
Source: Valverde & Tohka, Region-wise loss for biomedical image segmentation (2023), "RRW" map.

A mask that fills its array has no outside, so the distance is undefined there (libraries return
numbers that mean nothing): `distance_map` gives inf and the region-wise map -1 everywhere, an
absent class +1 everywhere.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Float32, Shaped
from scipy import ndimage

from geo3d.topology.grids import as_mask


def distance_map(mask: Shaped[np.ndarray, "*space"]) -> Float[np.ndarray, "*space"]:
    """Return each foreground pixel's distance to the background in pixels; 0 on the background.

    Raises:
        ShapeError: "topology.bad_dimensions", "topology.not_a_mask".
    """
    filled = as_mask(mask)
    if filled.all():
        return np.full(filled.shape, np.inf)
    return np.asarray(ndimage.distance_transform_edt(filled))


def region_wise_map(mask: Shaped[np.ndarray, "*space"]) -> Float32[np.ndarray, "*space"]:
    """Return R of one class: -1 at its deepest pixel, towards 0 at its edge, +1 outside.

    Raises:
        ShapeError: "topology.bad_dimensions", "topology.not_a_mask".
    """
    filled = as_mask(mask)
    if filled.all() or not filled.any():
        return np.full(filled.shape, -1 if filled.all() else 1, dtype=np.float32)
    distance = distance_map(filled)
    return np.where(filled, -distance / distance.max(), 1).astype(np.float32)


def surface(mask: Bool[np.ndarray, "*space"]) -> Bool[np.ndarray, "*space"]:
    """Return the foreground pixels with a background pixel beside them; outside is background."""
    return mask & ~ndimage.binary_erosion(mask)


def surface_distances(
    one: Bool[np.ndarray, "*space"], two: Bool[np.ndarray, "*space"]
) -> Float[np.ndarray, " n"]:
    """Return the distance in pixels of each surface pixel of ``one`` to the surface of ``two``.

    Both masks must hold a pixel.
    """
    to_two = ndimage.distance_transform_edt(~surface(two))
    return np.asarray(to_two)[surface(one)]
