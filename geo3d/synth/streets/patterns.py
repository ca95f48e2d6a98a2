"""Patterns in world coordinates: noise, bands, bricks, lane marks.

Notation: p points; lengths in metres.  Everything is a function of place and seed, so that all
images of a layout agree.  ``footprint`` (p,) is the size of a pixel at the point; details smaller
than it fade into their mean.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

_PRIMES = (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0x27D4EB2F)


def hashed(seed: int, *keys: Int[np.ndarray, ...] | int) -> Float[np.ndarray, ...]:
    """Return numbers in [0, 1) that depend on integer keys only (a 32-bit mix of them)."""
    mixed = np.asarray((seed * 0x2545F491 + 0x1234567) & 0xFFFFFFFF, np.uint32)
    with np.errstate(over="ignore"):
        for key, prime in zip(keys, _PRIMES, strict=False):
            mixed = mixed ^ (np.asarray(key).astype(np.int64).astype(np.uint32) * np.uint32(prime))
            mixed = (mixed ^ (mixed >> np.uint32(15))) * np.uint32(0x2C1B3C6D)
            mixed = (mixed ^ (mixed >> np.uint32(12))) * np.uint32(0x297A2D39)
        mixed = mixed ^ (mixed >> np.uint32(15))
    return np.asarray(mixed / 2.0**32)


def value_noise(
    points: Float[np.ndarray, "p d"], cell: float, seed: int
) -> Float[np.ndarray, " p"]:
    """Return smooth noise in [0, 1] that varies over ``cell`` metres, in 2 or 3 dimensions."""
    scaled = points / cell
    corner = np.floor(scaled).astype(np.int64)
    part = scaled - corner
    part = part * part * (3 - 2 * part)
    d = points.shape[1]
    total = np.zeros(len(points))
    for bits in range(1 << d):
        step = [(bits >> axis) & 1 for axis in range(d)]
        weight = np.ones(len(points))
        for axis in range(d):
            weight *= part[:, axis] if step[axis] else 1 - part[:, axis]
        total += weight * hashed(seed, *(corner[:, a] + step[a] for a in range(d)))
    return total


def fade(detail: float, footprint: Float[np.ndarray, " p"]) -> Float[np.ndarray, " p"]:
    """Return 1 where a detail of this size is resolved, 0 where a pixel swallows it."""
    return np.clip(1.5 * detail / np.maximum(footprint, 1e-6) - 0.5, 0.0, 1.0)


def bricks(
    along: Float[np.ndarray, " p"], height: Float[np.ndarray, " p"], seed: int
) -> Float[np.ndarray, " p"]:
    """Return the brightness of brickwork, about 1: darker mortar, bricks of several shades."""
    row = np.floor(height / 0.18).astype(np.int64)
    shifted = along / 0.5 + 0.5 * (row % 2)
    column = np.floor(shifted).astype(np.int64)
    is_mortar = (shifted - column < 0.06) | (height / 0.18 - row < 0.12)
    return np.where(is_mortar, 1.25, 0.8 + 0.4 * hashed(seed, row, column))


def band(
    x: Float[np.ndarray, " p"],
    low: float | Float[np.ndarray, " p"],
    high: float | Float[np.ndarray, " p"],
    footprint: Float[np.ndarray, " p"],
) -> Float[np.ndarray, " p"]:
    """Return the share of a pixel of this width about ``x`` that lies between two values."""
    half = np.maximum(footprint, 1e-6) / 2
    covered = np.minimum(x + half, high) - np.maximum(x - half, low)
    return np.clip(covered / (2 * half), 0.0, 1.0)


def every(
    x: Float[np.ndarray, " p"],
    period: float | Float[np.ndarray, " p"],
    width: float,
    footprint: Float[np.ndarray, " p"],
) -> Float[np.ndarray, " p"]:
    """Return the share of a pixel on lines of this width, repeated and centred on multiples."""
    from_line = np.abs(x - period * np.round(x / period))
    near = band(from_line, -width / 2, width / 2, footprint)
    # a pixel wider than the period holds the lines' share
    return np.where(footprint < period, near, width / period)


def lane_marks(
    lateral: Float[np.ndarray, " p"],
    along: Float[np.ndarray, " p"],
    wide: Float[np.ndarray, " p"],
    long: Float[np.ndarray, " p"],
) -> Float[np.ndarray, " p"]:
    """Return how much paint lies on the road, by place relative to the driven path.

    Args:
        lateral: metres to the right of the path.
        along: metres driven.
        wide: size of a pixel across the road.
        long: and along it.
    """
    within = np.mod(along + 1.5, 6.0)
    dash = band(within, 1.5, 4.5, np.minimum(long, 3.0))
    middle = band(lateral, -1.83, -1.67, wide) * dash
    edge = band(lateral, 1.59, 1.71, wide)
    return np.maximum(0.95 * middle, 0.8 * edge)
