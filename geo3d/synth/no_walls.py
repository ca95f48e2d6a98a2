"""Images that show no wall: plain, patterned, textured, cluttered.

For teaching and testing what tells walls from everything else.  `KINDS` are learned from, `UNSEEN`
are kept for tests.  Two of them stand in for photographs: "spectrum" has the power law of natural
images (Field 1987), "clutter" their occlusions and edges (dead leaves: Lee, Mumford, Huang 2001).

Images are (side, side, 3); everything follows from the seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float, UInt8
from scipy import ndimage
from scipy.spatial import KDTree

from geo3d.errors import ConfigError
from geo3d.synth.wall_openings import soft_field, surface
from geo3d.synth.walls import stroke
from geo3d.synth.wide_walls import camera

Pixels = Float[np.ndarray, "side side 3"]
Rng = np.random.Generator


def no_wall(seed: int, side: int = 256, *, kind: str) -> UInt8[np.ndarray, "side side 3"]:
    """Draw an image without a wall.

    Args:
        seed: everything follows from it and the kind.
        side: in pixels.
        kind: one of `KINDS` or `UNSEEN`.

    Raises:
        ConfigError: ``no_walls.unknown``.
    """
    names = (*KINDS, *UNSEEN)
    if kind not in names:
        known = ", ".join(names)
        raise ConfigError("no_walls.unknown", f"There is no kind {kind!r}.", f"Known: {known}.")
    rng = np.random.default_rng([seed, names.index(kind)])
    pixels = {**KINDS, **UNSEEN}[kind](rng, side)
    return camera(pixels, rng) if kind != "flat" else np.clip(pixels, 0, 255).astype(np.uint8)


def _colours(rng: Rng, count: int) -> Float[np.ndarray, "n 3"]:
    tones = rng.uniform(10, 245, (count, 1))
    return np.clip(tones + rng.normal(0, rng.choice([5.0, 40.0]), (count, 3)), 0, 255)


def _mixed(rng: Rng, share: np.ndarray) -> Pixels:
    """Return two colours mixed by a map in [0, 1], with some grain."""
    one, other = _colours(rng, 2)
    mixed = one + share[..., None] * (other - one)
    return mixed + rng.normal(0, rng.uniform(0, 6), (*share.shape, 1))


def _grid(side: int, angle: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[0:side, 0:side] / side
    return math.cos(angle) * y + math.sin(angle) * x, math.cos(angle) * x - math.sin(angle) * y


def _scaled(values: np.ndarray) -> np.ndarray:
    return (values - values.min()) / (np.ptp(values) + 1e-9)


def _flat(rng: Rng, side: int) -> Pixels:
    return np.broadcast_to(_colours(rng, 1)[0], (side, side, 3)).copy()


def _slope(rng: Rng, side: int) -> Pixels:
    along, _ = _grid(side, rng.uniform(0, 2 * math.pi))
    return _mixed(rng, _scaled(along))


def _noise(rng: Rng, side: int) -> Pixels:
    sigma = rng.choice([0.0, rng.uniform(0.5, 6)])
    field = ndimage.gaussian_filter(rng.normal(0, 1, (side, side)), sigma)
    return _mixed(rng, np.clip(0.5 + field / (5 * field.std()), 0, 1))


def _spectrum(rng: Rng, side: int) -> Pixels:
    rows, columns = np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side)[None]
    stretch = math.exp(rng.normal(0, 0.4))
    radius = np.hypot(rows * stretch, columns) + 1 / side
    shaped = np.fft.fft2(rng.normal(0, 1, (3, side, side))) / radius ** rng.uniform(0.7, 1.8)
    fields = np.fft.ifft2(shaped).real
    fields = fields / fields.std(axis=(1, 2), keepdims=True)
    own = rng.uniform(0, 0.6)
    mixed = (1 - own) * fields[:1] + own * fields
    return (rng.uniform(60, 190) + rng.uniform(20, 60) * mixed).transpose(1, 2, 0)


def _stripes(rng: Rng, side: int) -> Pixels:
    along, _ = _grid(side, rng.uniform(0, 2 * math.pi))
    wave = np.sin(along * 2 * math.pi * rng.uniform(2, 30))
    return _mixed(rng, np.clip(0.5 + wave * rng.uniform(0.5, 8), 0, 1))


def _dots(rng: Rng, side: int) -> Pixels:
    along, across = _grid(side, rng.uniform(0, math.pi))
    count = rng.uniform(4, 20)
    cells = np.hypot((along * count) % 1 - 0.5, (across * count) % 1 - 0.5)
    return _mixed(rng, np.clip((rng.uniform(0.15, 0.4) - cells) * side / count + 0.5, 0, 1))


def _text(rng: Rng, side: int) -> Pixels:
    """Lines of strokes as high as letters."""
    height = int(rng.integers(6, max(side // 8, 8)))
    ink = np.zeros((side, side))
    for top in range(height, side - height, int(1.8 * height)):
        at = height
        while at < side - height * rng.uniform(1, 4):
            width = int(rng.integers(height // 2, height + 1))
            if rng.random() < 0.85:
                box = rng.random((4, 3)) < 0.55
                letter = np.kron(box, np.ones((height // 4 + 1, width // 3 + 1)))[:height, :width]
                ink[top : top + height, at : at + width] = letter[:, : side - at]
            at += width + max(height // 5, 1)
    return _mixed(rng, ink)


def _clutter(rng: Rng, side: int) -> Pixels:
    """Lay textured discs, boxes and triangles over each other, sizes by a power law."""
    pixels = surface(side, rng)
    y, x = np.mgrid[0:side, 0:side]
    for _ in range(rng.integers(15, 70)):
        size = side * 0.03 / (1 - rng.random()) ** 0.7
        row, column = rng.uniform(0, side, 2)
        angle, stretch = rng.uniform(0, math.pi), rng.uniform(0.4, 1)
        a = (math.cos(angle) * (x - column) + math.sin(angle) * (y - row)) / size
        b = (math.cos(angle) * (y - row) - math.sin(angle) * (x - column)) / (size * stretch)
        kind = rng.integers(3)
        inside = (a**2 + b**2, np.maximum(abs(a), abs(b)), np.maximum(abs(a) * 2 + b, -b))[kind] < 1
        paint = surface(side, rng) if rng.random() < 0.3 else _colours(rng, 1)
        light = 1 + rng.uniform(-0.3, 0.3) * np.clip(a, -1, 1)
        pixels = np.where(inside[..., None], paint * light[..., None], pixels)
    return pixels


def _grass(rng: Rng, side: int) -> Pixels:
    """Draw blades, each a short line of its own green, over darker ones."""
    pixels = np.array([30, 45, 20]) + rng.normal(0, 6, (side, side, 3))
    length = int(rng.uniform(0.05, 0.2) * side)
    tint = np.array([80, 115, 50]) * rng.uniform(0.5, 1.3) + rng.normal(0, 25, 3)
    steps = np.arange(length)
    for depth in np.linspace(0.4, 1.2, 30 * side * 4 // length):
        angle = rng.normal(-math.pi / 2, rng.uniform(0.1, 1.0))
        bend = rng.normal(0, 0.01) * steps**2 / length
        rows = (rng.uniform(0, side + length) + math.sin(angle) * steps).astype(int)
        columns = (rng.uniform(0, side) + math.cos(angle) * steps + bend * 20).astype(int)
        fits = (rows >= 0) & (rows < side) & (columns >= 0) & (columns < side)
        pixels[rows[fits], columns[fits]] = tint * depth * rng.uniform(0.7, 1.3)
    return pixels


def _cells(rng: Rng, side: int, size: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return distance to the nearest and the second of scattered points, and the nearest's number;
    distances in sizes of a cell."""
    count = int((1.4 / size) ** 2) + 4
    sites = rng.uniform(-0.2, 1.2, (count, 2))
    y, x = np.mgrid[0:side, 0:side] / side
    near, index = map(np.asarray, KDTree(sites).query(np.stack([y, x], -1).reshape(-1, 2), k=2))
    shape = (side, side)
    return (near[:, 0] / size).reshape(shape), (near[:, 1] / size).reshape(shape), index[:, 0]


def _pebbles(rng: Rng, side: int) -> Pixels:
    """Heap rounded stones of all tones, dark between them."""
    near, second, index = _cells(rng, side, rng.uniform(0.02, 0.09))
    tones = _colours(rng, int(index.max()) + 1)
    stones = 0.5 * tones[index].reshape(side, side, 3) + 0.5 * tones.mean(axis=0)
    round_ = np.clip(second - near, 0, 0.6) / 0.6
    slope = np.gradient(near, axis=0) * side * 0.02
    light = (0.25 + 0.75 * round_) * (1 + np.clip(slope, -0.4, 0.4))
    return stones * light[..., None] + rng.normal(0, 8, (side, side, 1))


def _wood(rng: Rng, side: int) -> Pixels:
    along, across = _grid(side, rng.normal(0, 0.1))
    warped = across * rng.uniform(5, 25) + rng.uniform(0.3, 2) * soft_field(rng, side, 3)
    rings = 0.5 + 0.5 * np.sin(2 * math.pi * warped + 3 * along)
    fine = ndimage.gaussian_filter(rng.normal(0, 1, (side, side)), (12, 0.7))
    return _mixed(rng, np.clip(rings * rng.uniform(0.3, 1) + fine / fine.std() * 0.12, 0, 1))


def _scene(rng: Rng, side: int) -> Pixels:
    """Sky, ground and some upright things between them."""
    horizon = int(rng.uniform(0.2, 0.8) * side)
    pixels = surface(side, rng)
    pixels[:horizon] = surface(side, rng)[:horizon]
    for _ in range(rng.integers(1, 7)):
        low = int(np.clip(horizon + rng.normal(0.1, 0.15) * side, 4, side))
        high = int(np.clip(low - rng.uniform(0.05, 0.7) * side, 0, low - 3))
        left = int(rng.uniform(-0.1, 1) * side)
        right = left + int(rng.uniform(0.02, 0.4) * side)
        box = (slice(high, low), slice(max(left, 0), max(right, 1)))
        pixels[box] = surface(side, rng)[box]
    return pixels


def _rings(rng: Rng, side: int) -> Pixels:
    y, x = np.mgrid[0:side, 0:side] / side - rng.uniform(0, 1, (2, 1, 1))
    wave = np.sin(np.hypot(y, x) * 2 * math.pi * rng.uniform(4, 25))
    return _mixed(rng, np.clip(0.5 + wave * rng.uniform(0.5, 4), 0, 1))


def _ripples(rng: Rng, side: int) -> Pixels:
    total = np.zeros((side, side))
    for _ in range(6):
        along, _across = _grid(side, rng.normal(0, 0.35))
        total += np.sin(2 * math.pi * (along * rng.uniform(4, 25) + rng.random()))
    return _mixed(rng, _scaled(total + 2 * soft_field(rng, side, 4)))


def _bubbles(rng: Rng, side: int) -> Pixels:
    near, _second, index = _cells(rng, side, rng.uniform(0.05, 0.15))
    tones = _colours(rng, int(index.max()) + 1)[index].reshape(side, side, 3)
    ball = np.sqrt(np.clip(1 - (near / 0.45) ** 2, 0, 1))[..., None]
    return tones.mean(axis=(0, 1)) * 0.5 * (1 - ball) + tones * ball


def _hair(rng: Rng, side: int) -> Pixels:
    fine = ndimage.gaussian_filter1d(rng.normal(0, 1, (side, side)), side / 16, axis=0)
    bent = (np.arange(side) + side * 0.15 * soft_field(rng, side, 2)) % (side - 1)
    rows = np.broadcast_to(np.arange(side)[:, None], (side, side))
    return _mixed(rng, _scaled(ndimage.map_coordinates(fine, [rows, bent], order=1)))


def _scribble(rng: Rng, side: int) -> Pixels:
    ink = np.zeros((side, side))
    for _ in range(rng.integers(4, 14)):
        ink = np.maximum(ink, stroke(rng, side, side, rng.uniform(1, 5)))
    return _mixed(rng, ink)


KINDS: Mapping[str, Callable[[Rng, int], Pixels]] = {
    "flat": _flat,
    "slope": _slope,
    "noise": _noise,
    "spectrum": _spectrum,
    "stripes": _stripes,
    "dots": _dots,
    "text": _text,
    "clutter": _clutter,
    "grass": _grass,
    "pebbles": _pebbles,
    "wood": _wood,
    "scene": _scene,
}
"""What is learned from."""
UNSEEN: Mapping[str, Callable[[Rng, int], Pixels]] = {
    "rings": _rings,
    "ripples": _ripples,
    "bubbles": _bubbles,
    "hair": _hair,
    "scribble": _scribble,
}
"""What is kept for tests."""
