"""A stroke by hand on a mask: a line that joins (becomes foreground) or cuts (becomes background).

    found = stroke(mask, [(10, 4), (10, 40)], width=3, value=True)
    found.mask, found.before, found.after

Points are in pixels along the axes of the mask, in the order of its axes; pixel k covers k to k+1,
so its centre is at k + 1/2.  A stroke takes every pixel whose centre is within half its width, and
the pixels its middle line runs through, one side to the next: so even the thinnest line joins and
cuts, however slanted it is and whichever way pixels touch (`geo3d.topology.grids`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int64

from geo3d.errors import InputError
from geo3d.topology.betti import betti_numbers
from geo3d.topology.grids import Pixels, as_mask

Points = Sequence[Sequence[float]] | Float[np.ndarray, "n d"]
MAX_POINTS = 10_000
MAX_WIDTH = 1024.0
_STEP = 0.25
"""Pixels between samples of the middle line."""


@dataclass(frozen=True, eq=False)
class Stroked:
    """A mask after a stroke."""

    mask: Bool[np.ndarray, "*space"]
    before: tuple[int, ...]
    """Betti numbers of the mask that was given."""
    after: tuple[int, ...]
    changed: Int64[np.ndarray, " n"]
    """Flat indices of the pixels that were flipped; flipping them again undoes the stroke."""


def stroke(
    mask: Bool[np.ndarray, "*space"],
    points: Points,
    width: float,
    value: bool,
    pixels: Pixels = "cells",
) -> Stroked:
    """Return a copy of a mask with a stroke painted on it.

    Args:
        mask: 2D or 3D.
        points: corners of the stroke, one a dot; what lies outside the mask is cut off.
        width: of the stroke, in pixels.
        value: True joins, False cuts.
        pixels: how pixels touch, for the numbers.

    Raises:
        ShapeError: "topology.bad_dimensions", "topology.not_a_mask".
        InputError: "topology.bad_stroke".
        ConfigError: "topology.unknown_pixels".
    """
    given = as_mask(mask)
    painted = given.copy()
    painted[brushed(given.shape, points, width)] = value
    changed = np.flatnonzero(painted != given)
    before = betti_numbers(given, pixels)
    after = betti_numbers(painted, pixels) if len(changed) else before
    return Stroked(painted, before, after, changed)


def brushed(shape: tuple[int, ...], points: Points, width: float) -> Bool[np.ndarray, "*space"]:
    """Return the pixels of an array that a stroke covers; see `stroke`.

    Raises:
        InputError: "topology.bad_stroke".
    """
    corners = _checked(points, len(shape), width)
    found = np.zeros(shape, dtype=bool)
    for start, end in zip(corners, corners[1:] if len(corners) > 1 else corners, strict=False):
        _brush(found, start, end, width / 2)
        middle = _middle_line(start, end)
        inside = ((middle >= 0) & (middle < shape)).all(axis=1)
        found[tuple(middle[inside].T)] = True
    return found


def _brush(found: np.ndarray, start: np.ndarray, end: np.ndarray, radius: float) -> None:
    """Mark the pixels whose centres are within a radius of a segment."""
    low = np.clip(np.floor(np.minimum(start, end) - radius), 0, found.shape).astype(np.int64)
    high = np.clip(np.ceil(np.maximum(start, end) + radius), 0, found.shape).astype(np.int64)
    if (low >= high).any():
        return
    along, length = end - start, float(np.sum((end - start) ** 2))
    grid = np.ogrid[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    away = [axis + 0.5 - at for axis, at in zip(grid, start, strict=True)]
    t = sum(a * d for a, d in zip(away, along, strict=True)) / length if length else 0.0
    t = np.clip(t, 0, 1)
    distance = sum((a - t * d) ** 2 for a, d in zip(away, along, strict=True))
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    found[box] |= distance <= radius**2


def _middle_line(start: np.ndarray, end: np.ndarray) -> Int64[np.ndarray, "n d"]:
    """Return the pixels of a segment, each sharing a side with the next."""
    count = int(np.ceil(np.abs(end - start).max() / _STEP)) + 1
    samples = start + np.linspace(0, 1, count)[:, None] * (end - start)
    places = np.floor(samples).astype(np.int64)
    steps = [places]
    # From one sample to the next one axis after the other: no step is diagonal.
    for axis in range(1, places.shape[1]):
        between = places[:-1].copy()
        between[:, :axis] = places[1:, :axis]
        steps.append(between)
    return np.concatenate(steps)


def _checked(points: Points, dimensions: int, width: float) -> Float[np.ndarray, "n d"]:
    try:
        corners = np.asarray(points, dtype=np.float64)
    except (TypeError, ValueError):
        corners = np.zeros(0)
    fits = corners.shape[1:] == (dimensions,)
    if not fits or not 1 <= len(corners) <= MAX_POINTS or not np.isfinite(corners).all():
        raise InputError(
            "topology.bad_stroke",
            f"A stroke on an array of {dimensions} dimensions is a list of 1 to {MAX_POINTS} "
            f"points of {dimensions} numbers.",
            "Give (row, column) of each corner, in pixels.",
        )
    if not 0 < width <= MAX_WIDTH:
        raise InputError(
            "topology.bad_stroke",
            f"A stroke cannot be {width:g} pixels wide.",
            f"Above 0, at most {MAX_WIDTH:g}.",
        )
    return corners
