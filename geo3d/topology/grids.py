"""Masks and neighbourhoods of pixel grids, in 2D and 3D.

A grid can be read in two ways, which `Pixels` names.  "cells": a pixel is a closed square (a voxel
a closed cube), so foreground pixels that share a corner touch (8 neighbours in 2D, 26 in 3D) and
background pixels touch along sides only (4, 6).  "vertices": a pixel is a point, joined to its
neighbours along the axes, so the two roles change.  Exactly one of a diagonal pair of foreground
and the crossing pair of background is joined, which is what makes components and holes dual.

Euclidean distance maps of masks, and the region-wise map built on them.

Notation: t_c mask of class c, d_c its distance map (0 outside, else the distance in pixels to the
nearest pixel outside the mask), R_c the region-wise map: -d_c / max(d_c) inside, +1 outside.
Source: Valverde & Tohka, Region-wise loss for biomedical image segmentation (2023), "RRW" map.

A mask that fills its array has no outside, so the distance is undefined there (libraries return
numbers that mean nothing): `distance_map` gives inf and the region-wise map -1 everywhere, an
absent class +1 everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Float32, Int32, Int64, Shaped
from scipy import ndimage

from geo3d.errors import ConfigError, ShapeError

Pixels = Literal["cells", "vertices"]
PIXELS: tuple[Pixels, ...] = ("cells", "vertices")


def as_mask(mask: np.ndarray) -> Bool[np.ndarray, "*space"]:
    """Return a mask as booleans; 0/1 numbers are accepted.

    Raises:
        ShapeError: "topology.bad_dimensions" if it is neither 2D nor 3D or has no pixel;
            "topology.not_a_mask" if it holds anything but 0 and 1.
    """
    array = np.asarray(mask)
    check_dimensions(array)
    if array.dtype == bool:
        return array
    if not ((array == 0) | (array == 1)).all():
        raise ShapeError(
            "topology.not_a_mask",
            "A mask holds values other than 0 and 1.",
            "Say what is foreground first, for example `label == 255`.",
        )
    return array == 1


def check_dimensions(array: np.ndarray) -> None:
    """Refuse arrays that are not images or volumes (code "topology.bad_dimensions")."""
    if array.ndim not in (2, 3) or array.size == 0:
        raise ShapeError(
            "topology.bad_dimensions",
            f"An array of shape {array.shape} is not an image or a volume.",
            "Give one (h, w) or (d, h, w) array at a time, without batch and channels.",
        )


def check_not_flat(array: np.ndarray) -> None:
    """Refuse (1, h, w), an image with its channel or a volume of one slice (code "topology.flat").

    Both have the topology of the image, so nothing is lost by taking the axis away.
    """
    if array.ndim == 3 and array.shape[0] == 1:
        raise ShapeError(
            "topology.flat",
            f"A mask of shape {array.shape} is an image with a channel, or a volume of one slice.",
            "Give mask[0], the image; its components and holes are those of the slice.",
        )


def check_pixels(pixels: str) -> None:
    """Refuse an unknown reading of pixels (code "topology.unknown_pixels")."""
    if pixels not in PIXELS:
        raise ConfigError(
            "topology.unknown_pixels",
            f"There is no reading of pixels called {pixels!r}.",
            f"Known: {', '.join(PIXELS)}.",
        )


def label_components(
    mask: Bool[np.ndarray, "*space"], *, corners: bool
) -> tuple[Int32[np.ndarray, "*space"], int]:
    """Number the components of a mask from 1, in scan order; return their count too.

    Args:
        mask: foreground.
        corners: pixels that share a corner touch; else only those that share a side.
    """
    structure = ndimage.generate_binary_structure(mask.ndim, mask.ndim if corners else 1)
    labels = np.empty(mask.shape, dtype=np.int32)
    return labels, int(np.asarray(ndimage.label(mask, structure, output=labels)).item())


def neighbourhood(
    n_dims: int, pixels: Pixels, *, background: bool = False
) -> Int64[np.ndarray, "n d"]:
    """Return the steps to the neighbours of a foreground (or background) pixel."""
    steps = np.array([s for s in product((-1, 0, 1), repeat=n_dims) if any(s)], dtype=np.int64)
    if (pixels == "cells") != background:
        return steps
    return steps[np.abs(steps).sum(axis=1) == 1]


def distance_map(
    mask: Shaped[np.ndarray, "*space"], spacing: tuple[float, ...] | None = None
) -> Float[np.ndarray, "*space"]:
    """Return each foreground pixel's distance to the background; 0 on the background.

    Args:
        mask: foreground.
        spacing: size of a pixel along each axis; None: distances in pixels.

    Raises:
        ShapeError: "topology.bad_dimensions", "topology.not_a_mask".
    """
    filled = as_mask(mask)
    if filled.all():
        return np.full(filled.shape, np.inf)
    return np.asarray(ndimage.distance_transform_edt(filled, sampling=spacing))


def region_wise_map(
    mask: Shaped[np.ndarray, "*space"],
    spacing: tuple[float, ...] | None = None,
    outside: Bool[np.ndarray, "*space"] | None = None,
) -> Float32[np.ndarray, "*space"]:
    """Return R of one class: -1 at its deepest pixel, towards 0 at its edge, +1 outside.

    Args:
        mask: the class.
        spacing: size of a pixel along each axis; None: ones.
        outside: pixels that are beyond the image, so that no class ends there.

    Raises:
        ShapeError: "topology.bad_dimensions", "topology.not_a_mask".
    """
    inner = as_mask(mask)
    wide = inner if outside is None else inner | outside
    if wide.all() or not inner.any():
        return np.where(inner & wide.all(), np.float32(-1), np.float32(1))
    distance = distance_map(wide, spacing)
    return np.where(inner, -distance / distance[inner].max(), 1).astype(np.float32)


def surface(mask: Bool[np.ndarray, "*space"]) -> Bool[np.ndarray, "*space"]:
    """Return the foreground pixels with a background pixel beside them; outside is background."""
    return mask & ~ndimage.binary_erosion(mask)


def surface_distances(
    one: Bool[np.ndarray, "*space"],
    two: Bool[np.ndarray, "*space"],
    spacing: Sequence[float] | None = None,
) -> Float[np.ndarray, " n"]:
    """Return the distance of each surface pixel of ``one`` to the surface of ``two``.

    Both masks must hold a pixel.  The unit is that of ``spacing``, by default the pixel.
    """
    to_two = ndimage.distance_transform_edt(~surface(two), sampling=spacing)
    return np.asarray(to_two)[surface(one)]


def check_spacing(spacing: Sequence[float] | None, n_dims: int) -> None:
    """Refuse sizes of pixels that are not positive or not one per axis.

    Raises:
        ConfigError: "topology.bad_spacing".
    """
    if spacing is None or (len(spacing) == n_dims and all(0 < s < math.inf for s in spacing)):
        return
    raise ConfigError(
        "topology.bad_spacing",
        f"{tuple(spacing)} are no sizes of a pixel along {n_dims} axes.",
        "Give one positive number per axis.",
    )
