"""Windows, doors and other ends of a wall: there is no mortar in them.

An opening is a box (or a disc) that reaches over an edge of the image, or lies in it; frames within
frames, panes of one tone, of a slope or of a blurred world, and a few straight lines.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float
from scipy import ndimage
from torch.nn import functional

Pixels = Float[np.ndarray, "h w 3"]
Share = Float[np.ndarray, "h w"]


def opening(pixels: Pixels, share: Share, rng: np.random.Generator) -> tuple[Pixels, Share]:
    """Return the image with an opening, and the mortar that is left."""
    side = len(share)
    depth = _depth(side, rng)
    inside = depth > 0
    if not inside.any() or inside.mean() > 0.75:
        return pixels, share
    out = np.where(inside[..., None], surface(side, rng), pixels)
    level = 0.0
    for _ in range(rng.integers(0, 4)):
        level += rng.uniform(0.01, 0.07) * side
        out = np.where((depth > level)[..., None], surface(side, rng), out)
    if rng.random() < 0.6:
        out = _lines(out, depth > level, rng)
    # The wall throws a shadow into it, or the frame one on the wall.
    edge = np.exp(-np.abs(depth) / rng.uniform(1, 4)) * rng.uniform(0, 0.6)
    return out * (1 - edge[..., None]), np.where(inside, 0.0, share)


def soft_field(rng: np.random.Generator, side: int, cells: int) -> Share:
    """Return smooth random values around 0, about in [-1, 1], that vary over side / cells."""
    coarse = torch.from_numpy(rng.uniform(-1, 1, (1, 1, cells + 1, cells + 1)))
    field = functional.interpolate(coarse, (side, side), mode="bicubic", align_corners=True)
    return field[0, 0].numpy()


def _depth(side: int, rng: np.random.Generator) -> Share:
    """Return the distance to the opening's edge in pixels, positive within it."""
    angle = rng.normal(0, 0.1)
    y, x = np.mgrid[0:side, 0:side].astype(float) - side / 2
    x, y = math.cos(angle) * x - math.sin(angle) * y, math.sin(angle) * x + math.cos(angle) * y
    half = rng.uniform(0.12, 0.6, 2) * side
    at = rng.uniform(-0.6, 0.6, 2) * side
    if rng.random() < 0.2:
        return half[0] - np.hypot(y - at[0], x - at[1])
    if rng.random() < 0.5:
        # A strip from edge to edge: the wall ends there.
        half[rng.integers(2)] = 2 * side
    return np.minimum(half[0] - abs(y - at[0]), half[1] - abs(x - at[1]))


def surface(side: int, rng: np.random.Generator) -> Pixels:
    """Return one of: a tone, a slope, a blurred world, foliage, rough plaster."""
    tone = rng.choice([rng.uniform(5, 60), rng.uniform(170, 250), rng.uniform(60, 170)])
    colour = tone + rng.normal(0, 1, 3) * rng.choice([4.0, 35.0])
    kind = rng.integers(5)
    if kind == 0:
        texture = rng.normal(0, rng.uniform(0.5, 4), (side, side))
    elif kind == 1:
        texture = np.linspace(-1, 1, side)[:, None] * rng.uniform(-50, 50) * np.ones((1, side))
    elif kind == 2:
        texture = soft_field(rng, side, int(rng.integers(2, 10))) * rng.uniform(15, 70)
    elif kind == 3:
        texture = 40 * soft_field(rng, side, 30) + rng.normal(0, 30, (side, side))
        colour = np.array([70, 100, 50]) * rng.uniform(0.4, 1.4)
    else:
        rough = ndimage.gaussian_filter(rng.normal(0, 1, (side, side)), rng.uniform(0.6, 2.5))
        texture = rough / rough.std() * rng.uniform(4, 25)
    return np.clip(colour + texture[..., None], 0, 255)


def _lines(pixels: Pixels, inside: np.ndarray, rng: np.random.Generator) -> Pixels:
    """Draw bars, slits or a row of small things within the opening."""
    side = len(inside)
    y, x = np.mgrid[0:side, 0:side]
    step, width = rng.uniform(0.05, 0.4) * side, rng.uniform(1, 8)
    near = [abs((v - rng.uniform(0, side)) % step - step / 2) < width / 2 for v in (y, x)]
    kind = rng.integers(4)
    marked = (near[0], near[1], near[0] | near[1], near[0] & near[1])[kind]
    tone = rng.uniform(0, 255) + rng.normal(0, 12, 3)
    return np.where((marked & inside)[..., None], np.clip(tone, 0, 255), pixels)
