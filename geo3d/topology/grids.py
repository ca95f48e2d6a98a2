"""Masks and neighbourhoods of pixel grids, in 2D and 3D.

A grid can be read in two ways, which `Pixels` names.  "cells": a pixel is a closed square (a voxel
a closed cube), so foreground pixels that share a corner touch (8 neighbours in 2D, 26 in 3D) and
background pixels touch along sides only (4, 6).  "vertices": a pixel is a point, joined to its
neighbours along the axes, so the two roles change.  Exactly one of a diagonal pair of foreground
and the crossing pair of background is joined, which is what makes components and holes dual.
"""

from __future__ import annotations

from itertools import product
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int32, Int64
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
    """Refuse arrays that are not pictures or volumes (code "topology.bad_dimensions")."""
    if array.ndim not in (2, 3) or array.size == 0:
        raise ShapeError(
            "topology.bad_dimensions",
            f"An array of shape {array.shape} is not a picture or a volume.",
            "Give one (h, w) or (d, h, w) array at a time, without batch and channels.",
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
