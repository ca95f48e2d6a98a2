"""Vessels, roads and tubes drawn by rule: images and volumes of thin structures with exact masks.

Each is a network of lines with a radius.  A pixel's depth is the largest (radius - distance) over
the points of all lines; it belongs to the mask where the depth is above 0, and what it shows mixes
line and ground by how much of the pixel the line covers.  Colours, texture, noise and things in
front come last and leave the mask alone, so that a road under a tree is labelled.

* `vessel_image`: two trees that grow in from the rim and cross, like those of a retina: thin
  branches are faint, loops come from crossings.
* `road_map`: a bent grid of streets seen from above, with roofs of the colour of the road.
* `tube_volume`: trees in three dimensions with connections that close tunnels, grey.

Everything follows from the seed.  The groups are kinds of shift.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8
from scipy import ndimage
from scipy.interpolate import CubicSpline

from geo3d.errors import ConfigError
from geo3d.synth.walls import smooth_noise

GROUPS = ("indistr", "faint", "noisy", "covered")
"""As trained on; little contrast; much noise; things in front."""
MIN_SIDE = 32

Line = tuple[np.ndarray, np.ndarray]
"""Points (p, d) half a pixel apart, and the radius (p,) at each; every line has its own p."""


@dataclass(frozen=True, eq=False)
class Lines:
    """A drawn image or volume of thin structures."""

    image: UInt8[np.ndarray, "*space c"]
    mask: Bool[np.ndarray, "*space"]
    group: str


def vessel_image(
    seed: int, height: int = 128, width: int = 128, *, group: str = "indistr"
) -> Lines:
    """Draw vessels on a reddish ground.

    Raises:
        ConfigError: ``lines.unknown_group``, ``lines.too_small``.
    """
    rng = _generator("vessels", seed, group, min(height, width))
    shape, side = (height, width), min(height, width)
    lines = []
    for tree in range(2):
        # From opposite rims, so that the trees cross.
        start = np.array([rng.uniform(0.2, 0.8) * height, (tree - 0.02) * (width - 1) * 1.02])
        along = np.array([rng.uniform(-0.5, 0.5), 1.0 - 2 * tree])
        lines += _tree(rng, start, along, 0.34 * side, rng.uniform(0.026, 0.034) * side, 5)
    depth = _depth(shape, lines)
    share = np.clip(depth + 0.5, 0, 1)[..., None]
    thick = ndimage.gaussian_filter(np.clip(depth, 0, None), 1.0)[..., None]
    ground = np.array([196.0, 108.0, 62.0]) + rng.normal(0, 10, 3)
    ground = ground * (1 + 0.18 * smooth_noise(rng, height, width, 3))[..., None]
    ground = ground + 9 * smooth_noise(rng, height, width, 24)[..., None]
    strength = np.clip(0.2 + 0.14 * thick, 0, 0.5) * (0.45 if group == "faint" else 1.0)
    image = ground * (1 - share * strength * np.array([0.8, 1.15, 1.0]))
    if group == "covered":
        image = _blots(rng, image, np.array([236.0, 214.0, 120.0]), 0.02, 0.07)
    return Lines(_exposed(rng, image, group, 5.0), depth > 0, group)


def road_map(seed: int, height: int = 128, width: int = 128, *, group: str = "indistr") -> Lines:
    """Draw roads from above.

    Raises:
        ConfigError: ``lines.unknown_group``, ``lines.too_small``.
    """
    rng = _generator("roads", seed, group, min(height, width))
    shape, side = (height, width), min(height, width)
    radius = rng.uniform(0.018, 0.026) * side
    depth = _depth(shape, list(_streets(rng, height, width, radius)))
    share = np.clip(depth + 0.5, 0, 1)[..., None]
    grass, soil = np.array([88.0, 112.0, 66.0]), np.array([150.0, 134.0, 104.0])
    mix = np.clip(0.5 + 0.9 * smooth_noise(rng, height, width, 6), 0, 1)[..., None]
    ground = mix * grass + (1 - mix) * soil + 12 * smooth_noise(rng, height, width, 30)[..., None]
    paving = np.array([138.0, 136.0, 134.0]) + rng.normal(0, 8, 3)
    # Roofs beside the road have its colour, or are red.
    for _ in range(rng.integers(18, 30)):
        y, x = rng.uniform(0, height), rng.uniform(0, width)
        h, w = rng.uniform(0.02, 0.06, 2) * side
        box = (slice(int(max(y - h, 0)), int(y + h) + 1), slice(int(max(x - w, 0)), int(x + w) + 1))
        roof = paving + rng.normal(0, 12, 3) if rng.random() < 0.6 else np.array([150.0, 84, 66])
        ground[box] = roof
    if group == "faint":
        paving = 0.45 * paving + 0.55 * (grass + soil) / 2
    image = share * paving + (1 - share) * ground
    # Single trees stand everywhere; an avenue of them is a shift.
    crowns = 0.03 if group == "covered" else 0.006
    image = _blots(rng, image, np.array([48.0, 78.0, 42.0]), crowns, 0.035)
    return Lines(_exposed(rng, image, group, 6.0), depth > 0, group)


def tube_volume(seed: int, side: int = 48, *, group: str = "indistr") -> Lines:
    """Draw bright tubes in a dark volume of ``side`` voxels along each axis, grey.

    Raises:
        ConfigError: ``lines.unknown_group``, ``lines.too_small``.
    """
    rng = _generator("tubes", seed, group, side)
    half = (side - 1) / 2
    lines = []
    for axis in (2, 1):
        start, along = np.full(3, half), np.zeros(3)
        start += rng.uniform(-0.2, 0.2, 3) * side
        start[axis], along[axis] = -1.0, 1.0
        lines += _tree(rng, start, along, 0.3 * side, 0.05 * side, 4)
    ends = [points[-1] for points, _ in lines]
    for _ in range(3):
        # Connections between branches close tunnels.
        one, two = rng.choice(len(ends), 2, replace=False)
        middle = (ends[one] + ends[two]) / 2 + rng.normal(0, 0.08 * side, 3)
        lines.append(_curve(np.stack([ends[one], middle, ends[two]]), 0.03 * side, 0.03 * side))
    depth = _depth((side,) * 3, lines)
    share = np.clip(depth + 0.5, 0, 1)
    slow = ndimage.zoom(rng.normal(0, 1, (4, 4, 4)), side / 4, order=1)[:side, :side, :side]
    level = 130.0 if group != "faint" else 62.0
    image: Any = 50 + 14 * slow + level * share * (0.75 + 0.25 * np.clip(depth / 2, 0, 1))
    if group == "covered":
        # Bright lumps beside and on the tubes: calcium, contrast agent.
        for _ in range(10):
            centre = rng.uniform(0, side, 3)
            lump = _depth((side,) * 3, [(centre[None], np.array([rng.uniform(1.5, 3.0)]))]) > 0
            image[lump] = 225
    return Lines(_exposed(rng, image[..., None], group, 16.0), depth > 0, group)


def _generator(what: str, seed: int, group: str, side: int) -> np.random.Generator:
    if group not in GROUPS:
        raise ConfigError(
            "lines.unknown_group",
            f"There is no group {group!r} of {what}.",
            f"Known: {', '.join(GROUPS)}.",
        )
    if side < MIN_SIDE:
        raise ConfigError(
            "lines.too_small", f"{side} pixels are too few for {what}.", f"Give {MIN_SIDE} or more."
        )
    return np.random.default_rng([seed, GROUPS.index(group), *what.encode()])


def _tree(
    rng: np.random.Generator,
    start: np.ndarray,
    along: np.ndarray,
    length: float,
    radius: float,
    levels: int,
) -> list[Line]:
    """Return the branches of a tree: each forks into a strong and a weak one."""
    lines, tips = [], [(start, along / np.linalg.norm(along), length, radius)]
    for _ in range(levels):
        grown = []
        for tip, heading, reach, thick in tips:
            bend = rng.normal(0, 0.22, (2, len(tip)))
            middle = tip + reach * (0.5 * heading + 0.3 * bend[0])
            end = tip + reach * (heading + 0.4 * bend[1])
            lines.append(_curve(np.stack([tip, middle, end]), thick, 0.85 * thick))
            ahead = (end - middle) / np.linalg.norm(end - middle)
            aside = rng.normal(0, 1, len(tip))
            aside -= (aside @ ahead) * ahead
            aside /= np.linalg.norm(aside)
            for turn, weaker in ((0.45, 0.82), (-0.8, 0.62)):
                heading_next = ahead + turn * rng.uniform(0.6, 1.4) * aside
                heading_next /= np.linalg.norm(heading_next)
                grown.append((end, heading_next, reach * rng.uniform(0.6, 0.9), thick * weaker))
        tips = grown
    return lines


def _streets(rng: np.random.Generator, height: int, width: int, radius: float) -> Iterator[Line]:
    """Yield the edges of a bent grid; a fifth of them is missing."""
    cells = int(rng.integers(3, 5))
    step = np.array([height, width]) / cells
    turn = rng.uniform(-0.5, 0.5)
    spin = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    middle = np.array([height, width]) / 2
    nodes = {}
    for place in product(range(-1, cells + 2), repeat=2):
        moved = (np.array(place) + rng.uniform(-0.25, 0.25, 2)) * step
        nodes[place] = spin @ (moved - middle) + middle
    for (i, j), one in nodes.items():
        for other in ((i + 1, j), (i, j + 1)):
            if other in nodes and rng.random() > 0.2:
                two = nodes[other]
                bend = (one + two) / 2 + rng.normal(0, 0.05, 2) * step
                wide = radius * (1.5 if rng.random() < 0.25 else 1.0)
                yield _curve(np.stack([one, bend, two]), wide, wide)


def _curve(knots: Float[np.ndarray, "k d"], first: float, last: float) -> Line:
    """Return points on a smooth curve through knots, and radii from ``first`` to ``last``."""
    steps = np.linalg.norm(np.diff(knots, axis=0), axis=1)
    places = np.concatenate([[0.0], np.cumsum(np.maximum(steps, 1e-6))])
    count = max(2, math.ceil(2 * places[-1]))
    at = np.linspace(0, places[-1], count)
    return CubicSpline(places, knots)(at), np.maximum(np.linspace(first, last, count), 0.6)


def _depth(shape: tuple[int, ...], lines: list[Line]) -> Float[np.ndarray, "*space"]:
    """Return the largest radius minus distance over all points, at least -2."""
    depth = np.full(shape, -2.0)
    for points, radii in lines:
        for point, radius in zip(points, radii, strict=True):
            reach = radius + 1.5
            low = np.maximum(np.floor(point - reach), 0).astype(int)
            high = np.minimum(np.ceil(point + reach) + 1, shape).astype(int)
            if (low >= high).any():
                continue
            axes = np.ogrid[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
            away = sum((axis - p) ** 2 for axis, p in zip(axes, point, strict=True))
            box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
            np.maximum(depth[box], radius - np.sqrt(away), out=depth[box])
    return depth


def _blots(
    rng: np.random.Generator, image: np.ndarray, colour: np.ndarray, cover: float, size: float
) -> Float[np.ndarray, "h w 3"]:
    """Lay soft round blots over the image: so many that they would cover a share of it."""
    height, width, _ = image.shape
    side = min(height, width)
    y, x = np.mgrid[0:height, 0:width]
    area = math.pi * (size * side / 2) ** 2
    for _ in range(round(3 * cover * height * width / area)):
        radius = rng.uniform(0.4, 1.0) * size * side
        away = np.hypot(y - rng.uniform(0, height), x - rng.uniform(0, width))
        soft = np.clip(radius - away + 0.5, 0, 1)[..., None]
        image = (1 - soft) * image + soft * (colour + rng.normal(0, 12, 3))
    return image


def _exposed(
    rng: np.random.Generator, image: np.ndarray, group: str, noise: float
) -> UInt8[np.ndarray, "*space c"]:
    """Add the noise of a sensor and cut to 8 bits."""
    level = noise * rng.uniform(0.6, 1.2) * (2.6 if group == "noisy" else 1.0)
    blurred = ndimage.gaussian_filter(image, (*(0.5,) * (image.ndim - 1), 0))
    return np.clip(blurred + rng.normal(0, level, image.shape), 0, 255).astype(np.uint8)
