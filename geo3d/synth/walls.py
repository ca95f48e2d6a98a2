"""Brick walls drawn by rule: an image and the exact mask of its mortar.

A wall is a plane with coordinates (u, v) in units of a brick's height.  Each pixel looks up its
place on the plane (through perspective, rotation and a slight waviness), the distance to the
nearest edge between stones, and the stone it lies on.  Pixels nearer to an edge than half the
mortar's width are mortar.  Colours, grain, light and things in front come last and leave the mask
alone, so that mortar behind an object is labelled, as in TopoMortar.

Everything follows from the seed.  The groups are named like those of TopoMortar.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from scipy import ndimage
from scipy.spatial import KDTree

from geo3d.errors import ConfigError

GROUPS = ("indistr", "angles", "colors", "graffiti", "objects", "shadows", "occlusion")
"""In-distribution walls, and six kinds of shift."""
STYLES = ("running", "stack", "stones")
"""Rows shifted by half a brick; bricks in a grid; irregular stones."""
MIN_SIDE = 16

_CLAY = np.array([[178, 92, 70], [150, 80, 62], [196, 142, 104], [128, 72, 66], [188, 168, 140]])
_MORTAR = np.array([[188, 182, 172], [160, 152, 142], [206, 200, 188], [120, 114, 108]])


@dataclass(frozen=True, eq=False)
class Wall:
    """A drawn wall."""

    image: UInt8[np.ndarray, "h w 3"]
    mask: Bool[np.ndarray, "h w"]
    """True on mortar."""
    style: str
    group: str


@dataclass(frozen=True, eq=False)
class _Joints:
    """What the plane holds at every pixel."""

    distance: Float[np.ndarray, "h w"]
    """To the nearest edge between stones, in units of a brick's height."""
    stone: Int[np.ndarray, "h w"]
    """A number that differs between neighbouring stones."""


def brick_wall(
    seed: int,
    height: int = 256,
    width: int = 256,
    *,
    style: str | None = None,
    group: str = "indistr",
) -> Wall:
    """Draw a wall.

    Args:
        seed: everything else about the wall follows from it.
        height: of the image, in pixels.
        width: of the image, in pixels.
        style: one of `STYLES`; drawn by lot if None.
        group: one of `GROUPS`.

    Raises:
        ConfigError: ``bricks.unknown``, ``bricks.too_small``.
    """
    _check("style", style or STYLES[0], STYLES)
    _check("group", group, GROUPS)
    if min(height, width) < MIN_SIDE:
        raise ConfigError(
            "bricks.too_small",
            f"A wall of {width} x {height} pixels is too small.",
            f"Give at least {MIN_SIDE} on each side.",
        )
    rng = np.random.default_rng([seed, GROUPS.index(group)])
    chosen = style or STYLES[rng.choice(len(STYLES), p=[0.65, 0.1, 0.25])]
    brick_pixels = float(rng.uniform(24, 56))
    u, v = _plane(rng, height, width, brick_pixels, tilted=group == "angles")
    joints = _STYLE_FUNCTIONS[chosen](rng, u, v)
    half_width = rng.uniform(0.06, 0.14) * (1 + 0.35 * smooth_noise(rng, height, width, 12))
    # Where the plane is seen from far away, a unit of it covers fewer pixels.
    pixel = np.hypot(*np.gradient(v)) + 1e-6
    depth = (half_width - joints.distance) / pixel
    image = _paint(rng, joints.stone, np.clip(depth + 0.5, 0, 1), shifted=group == "colors")
    image *= _light(rng, height, width)
    if group in _COVERS:
        image = _COVERS[group](rng, image)
    image += rng.normal(0, rng.uniform(1, 5), image.shape)
    image = ndimage.gaussian_filter(image, (*(2 * [rng.uniform(0.2, 0.8)]), 0))
    return Wall(np.clip(image, 0, 255).astype(np.uint8), depth > 0, chosen, group)


def smooth_noise(
    rng: np.random.Generator, height: int, width: int, cells: int
) -> Float[np.ndarray, "{height} {width}"]:
    """Return smooth random values around 0, about in [-1, 1], that vary over side / cells."""
    coarse = rng.uniform(-1, 1, (cells + 3, cells + 3))
    rows = np.linspace(1, cells + 1, height)
    columns = np.linspace(1, cells + 1, width)
    grid = np.meshgrid(rows, columns, indexing="ij")
    return ndimage.map_coordinates(coarse, grid, order=3, mode="nearest")


def _plane(
    rng: np.random.Generator, height: int, width: int, brick_pixels: float, *, tilted: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return the place (u, v) on the wall that each pixel shows."""
    y, x = np.mgrid[0:height, 0:width].astype(float) + 0.5
    x, y = (x - width / 2) / brick_pixels, (y - height / 2) / brick_pixels
    angle = rng.uniform(-0.6, 0.6) if tilted else rng.normal(0, 0.02)
    reach = max(height, width) / 2 / brick_pixels
    slant = rng.uniform(-1, 1, 2) * (0.45 if tilted else 0.06) / reach / math.sqrt(2)
    x, y = math.cos(angle) * x - math.sin(angle) * y, math.sin(angle) * x + math.cos(angle) * y
    far = 1 / (1 + slant[0] * x + slant[1] * y)
    x, y = x * far, y * far
    wave = rng.uniform(0.02, 0.12)
    u = x + wave * smooth_noise(rng, height, width, 8) + rng.uniform(0, 100)
    v = y + wave * smooth_noise(rng, height, width, 8) + rng.uniform(0, 100)
    return u, v


def _rows(rng: np.random.Generator, u: np.ndarray, v: np.ndarray, shift: float) -> _Joints:
    """Lay bricks in rows; each row is shifted against the one below."""
    length = rng.uniform(1.8, 3.2)
    row = np.floor(v)
    jitter = rng.uniform(-0.08, 0.08, 512)[row.astype(int) % 512] if shift else 0.0
    along = u / length + shift * (row % 2) + jitter
    column = np.floor(along)
    across = np.minimum(v - row, row + 1 - v)
    beside = np.minimum(along - column, column + 1 - along) * length
    distance = np.minimum(across, beside)
    # Corners are worn: near a corner both edges are near.
    worn = rng.uniform(0.0, 0.08)
    distance = distance - np.maximum(worn - np.maximum(across, beside), 0)
    return _Joints(distance, (row * 7919 + column).astype(np.int64))


def _running(rng: np.random.Generator, u: np.ndarray, v: np.ndarray) -> _Joints:
    return _rows(rng, u, v, 0.5)


def _stack(rng: np.random.Generator, u: np.ndarray, v: np.ndarray) -> _Joints:
    return _rows(rng, u, v, 0.0)


def _stones(rng: np.random.Generator, u: np.ndarray, v: np.ndarray) -> _Joints:
    """Cut the plane into the cells of scattered points (Voronoi)."""
    stretch = rng.uniform(1.0, 1.8)
    spacing = 1.3
    low = np.floor([u.min() / stretch, v.min()]) - 2 * spacing
    high = np.ceil([u.max() / stretch, v.max()]) + 2 * spacing
    axes = [np.arange(a, b, spacing) for a, b in zip(low, high, strict=True)]
    sites = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)
    sites = sites + rng.uniform(-0.42, 0.42, sites.shape) * spacing
    points = np.stack([u / stretch, v], -1).reshape(-1, 2)
    near, index = map(np.asarray, KDTree(sites).query(points, k=2))
    apart = np.linalg.norm(sites[index[:, 0]] - sites[index[:, 1]], axis=1)
    # Distance to the line half way between the two nearest sites.
    edge = (near[:, 1] ** 2 - near[:, 0] ** 2) / (2 * apart)
    return _Joints(edge.reshape(u.shape), index[:, 0].reshape(u.shape).astype(np.int64))


_STYLE_FUNCTIONS = {"running": _running, "stack": _stack, "stones": _stones}


def _paint(
    rng: np.random.Generator, stone: np.ndarray, mortar: np.ndarray, *, shifted: bool
) -> Float[np.ndarray, "h w 3"]:
    """Colour stones and mortar and give both some grain; ``mortar`` is the share in a pixel."""
    height, width = stone.shape
    clay = _CLAY[rng.integers(len(_CLAY))] + rng.normal(0, 12, 3)
    paste = _MORTAR[rng.integers(len(_MORTAR))] + rng.normal(0, 10, 3)
    if shifted:
        clay, paste = rng.uniform(20, 235, 3), rng.uniform(20, 235, 3)
        if abs(clay.mean() - paste.mean()) < 40:
            paste = (clay + 110) % 256
    own = rng.normal(0, rng.uniform(6, 18), (1024, 1)) + rng.normal(0, 5, (1024, 3))
    grain = smooth_noise(rng, height, width, 40)[..., None] * rng.uniform(4, 16)
    fine = ndimage.gaussian_filter(rng.normal(0, 1, stone.shape), 0.8)[..., None]
    bricks = clay + own[stone % 1024] + grain + fine * rng.uniform(4, 20)
    joint = paste + 0.6 * grain[::-1] + fine[:, ::-1] * rng.uniform(4, 16)
    share = mortar[..., None]
    # Mortar lies deeper, so stones throw a thin shadow on it.
    shade = 1 - rng.uniform(0, 0.35) * (mortar - ndimage.shift(mortar, (2, 1), mode="nearest"))
    return (share * joint + (1 - share) * bricks) * np.clip(shade, 0.5, 1.0)[..., None]


def _light(rng: np.random.Generator, height: int, width: int) -> Float[np.ndarray, "h w 1"]:
    slow = smooth_noise(rng, height, width, 2) * rng.uniform(0.02, 0.15)
    return (rng.uniform(0.75, 1.15) * (1 + slow))[..., None]


def _shadows(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Throw one to three soft shadows with straight edges."""
    height, width, _ = image.shape
    y, x = np.mgrid[0:height, 0:width]
    for _ in range(rng.integers(1, 4)):
        angle = rng.uniform(0, 2 * math.pi)
        place = math.cos(angle) * x + math.sin(angle) * y
        edge = rng.uniform(np.quantile(place, 0.3), np.quantile(place, 0.7))
        soft = 1 / (1 + np.exp(-np.clip((place - edge) / rng.uniform(1, 8), -30, 30)))
        image = image * (1 - rng.uniform(0.35, 0.65) * soft[..., None])
    return image


def _graffiti(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Spray two to five curved strokes; the relief of the wall shines through."""
    height, width, _ = image.shape
    for _ in range(rng.integers(2, 6)):
        reach = stroke(rng, height, width, rng.uniform(0.02, 0.06) * min(height, width))
        cover = reach[..., None] * rng.uniform(0.7, 0.92)
        image = (1 - cover) * image + cover * rng.uniform(0, 255, 3)
    return image


def _objects(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Put two to five small things of one colour in front."""
    height, width, _ = image.shape
    y, x = np.mgrid[0:height, 0:width]
    for _ in range(rng.integers(2, 6)):
        size = rng.uniform(0.04, 0.14, 2) * min(height, width)
        dy, dx = (y - rng.uniform(0, height)) / size[0], (x - rng.uniform(0, width)) / size[1]
        # Exponent 2 is an ellipse, a large one a box.
        inside = abs(dy) ** (p := rng.choice([2.0, 8.0])) + abs(dx) ** p < 1
        image = np.where(inside[..., None], rng.uniform(0, 255, 3), image)
    return image


def _occlusion(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Let a plant or a cable run over the wall."""
    height, width, _ = image.shape
    for _ in range(rng.integers(4, 10)):
        reach = stroke(rng, height, width, rng.uniform(0.008, 0.025) * min(height, width))
        leaf = np.array([60, 95, 45]) * rng.uniform(0.4, 1.4) + rng.normal(0, 10, 3)
        image = (1 - reach[..., None]) * image + reach[..., None] * leaf
    return image


def stroke(
    rng: np.random.Generator, height: int, width: int, radius: float
) -> Float[np.ndarray, "{height} {width}"]:
    """Return how much a curved stroke covers each pixel."""
    ends = rng.uniform(-0.1, 1.1, (4, 2)) * [height, width]
    t = np.linspace(0, 1, 4 * max(height, width))[:, None]
    curve = sum(math.comb(3, i) * t**i * (1 - t) ** (3 - i) * point for i, point in enumerate(ends))
    dots = np.ones((height, width), dtype=bool)
    rows, columns = np.asarray(curve).round().astype(int).T
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    if not inside.any():
        return np.zeros((height, width))
    dots[rows[inside], columns[inside]] = False
    away = np.asarray(ndimage.distance_transform_edt(dots))
    return np.clip(radius - away + 0.5, 0, 1)


_COVERS = {
    "shadows": _shadows,
    "graffiti": _graffiti,
    "objects": _objects,
    "occlusion": _occlusion,
}


def _check(what: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(
            "bricks.unknown", f"There is no {what} {value!r}.", f"Known: {', '.join(known)}."
        )
