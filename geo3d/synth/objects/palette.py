"""Colours as things have them: woods, metals, paints, cloths, stones, leaves.

Each function draws an sRGB colour (three numbers 0..255) from a generator.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

Rng = np.random.Generator
Color = UInt8[np.ndarray, " 3"]

BLACK = np.array([34, 34, 38], np.uint8)
WHITE = np.array([238, 236, 230], np.uint8)
GLASS = np.array([120, 160, 190], np.uint8)
RUBBER = np.array([40, 40, 44], np.uint8)


def hsv(hue: float, saturation: float, value: float) -> Color:
    """Return the sRGB colour of hue, saturation and value in 0..1 (hue wraps)."""
    rgb = colorsys.hsv_to_rgb(hue % 1.0, min(max(saturation, 0), 1), min(max(value, 0), 1))
    return np.rint(255 * np.array(rgb)).astype(np.uint8)


def wood(rng: Rng) -> Color:
    """Draw a wood, from ash to walnut."""
    return hsv(rng.uniform(0.055, 0.1), rng.uniform(0.35, 0.65), rng.uniform(0.35, 0.85))


def metal(rng: Rng) -> Color:
    """Draw a grey or brass metal."""
    if rng.random() < 0.25:
        return hsv(rng.uniform(0.1, 0.13), rng.uniform(0.4, 0.6), rng.uniform(0.65, 0.85))
    return hsv(rng.uniform(0.55, 0.65), rng.uniform(0.0, 0.12), rng.uniform(0.3, 0.8))


def paint(rng: Rng) -> Color:
    """Draw any strong colour; now and then black, white or grey."""
    if rng.random() < 0.2:
        return hsv(0.6, 0.03, rng.choice([0.15, 0.5, 0.93]))
    return hsv(rng.random(), rng.uniform(0.55, 0.9), rng.uniform(0.5, 0.95))


def cloth(rng: Rng) -> Color:
    """Draw a softer colour."""
    return hsv(rng.random(), rng.uniform(0.15, 0.6), rng.uniform(0.4, 0.9))


def stone(rng: Rng) -> Color:
    """Draw a stone, plaster or concrete."""
    return hsv(rng.uniform(0.05, 0.15), rng.uniform(0.02, 0.3), rng.uniform(0.5, 0.9))


def brick(rng: Rng) -> Color:
    """Draw a brick or roof tile."""
    return hsv(rng.uniform(0.0, 0.06), rng.uniform(0.45, 0.75), rng.uniform(0.4, 0.75))


def leaf(rng: Rng) -> Color:
    """Draw a leaf, sometimes in autumn."""
    hue = rng.uniform(0.04, 0.14) if rng.random() < 0.2 else rng.uniform(0.22, 0.4)
    return hsv(hue, rng.uniform(0.45, 0.8), rng.uniform(0.35, 0.75))


def ceramic(rng: Rng) -> Color:
    """Draw a glaze."""
    if rng.random() < 0.3:
        return hsv(0.1, rng.uniform(0.02, 0.12), rng.uniform(0.8, 0.95))
    return hsv(rng.random(), rng.uniform(0.25, 0.75), rng.uniform(0.4, 0.9))


def either(rng: Rng, *draws: Color | Sequence[int]) -> Color:
    """Return one of the colours."""
    return np.asarray(draws[int(rng.integers(len(draws)))], np.uint8)


def darker(color: Color, factor: float = 0.6) -> Color:
    """Return the colour with its sRGB values times ``factor``."""
    return np.clip(np.rint(color * factor), 0, 255).astype(np.uint8)
