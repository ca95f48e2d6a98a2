"""A wall made strange: random changes of an image whose mortar is known.

What a segmenter meets outside the photographs it learned from: walls near and far, tilted, painted,
of bricks as light as their mortar, sprayed on, in shadow, with windows and doors beside them and
signs, cables and leaves before them.  `widen` takes a cut of a photograph or of a drawn wall and
makes one such view of it, in this order:

    view     perspective, rotation, scale; now and then a second wall, laid across, beside it
    paint    other colours of bricks and mortar, each apart from the other; paint over both
    cover    graffiti, things before the wall (their mortar stays labelled, as in TopoMortar), and
             openings in it (no mortar there)
    light    shadows, dusk, tint, noise, blur, compression

Images are (h, w, 3) of 0 to 255 in floats, masks (h, w); everything follows from the generator.
"""

from __future__ import annotations

import io
import math

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from scipy import ndimage
from torch.nn import functional

from geo3d.synth.wall_openings import opening, soft_field
from geo3d.synth.walls import stroke

Pixels = Float[np.ndarray, "h w 3"]
Share = Float[np.ndarray, "h w"]
Rng = np.random.Generator

ZOOM = (0.35, 1.2)
"""Pixels of the given image per pixel of the view: from a close-up to a step back."""


def widen(
    image: UInt8[np.ndarray, "y x 3"], mask: Bool[np.ndarray, "y x"], rng: Rng, side: int
) -> tuple[UInt8[np.ndarray, "side side 3"], Bool[np.ndarray, "side side"]]:
    """Return a strange view of a wall, and its mask.

    Args:
        image: a photograph or drawing of a wall.
        mask: true on its mortar.
        rng: everything follows from it.
        side: of the square view, in pixels.
    """
    pixels, share = view(image, mask, rng, side)
    if rng.random() < 0.12:
        pixels, share = _beside(pixels, share, view(image, mask, rng, side, turned=True), rng)
    if rng.random() < 0.5:
        pixels = repaint(pixels, share, rng)
    if rng.random() < 0.15:
        pixels = _in_one_paint(pixels, share, rng)
    if rng.random() < 0.25:
        pixels = graffiti(pixels, rng)
    if rng.random() < 0.25:
        pixels = _before(pixels, rng)
    if rng.random() < 0.3:
        pixels, share = opening(pixels, share, rng)
    if rng.random() < 0.35:
        pixels = shadows(pixels, rng)
    return camera(pixels, rng), share > 0.5


def view(
    image: UInt8[np.ndarray, "y x 3"],
    mask: Bool[np.ndarray, "y x"],
    rng: Rng,
    side: int,
    *,
    turned: bool = False,
) -> tuple[Pixels, Share]:
    """Look at a part of the wall from somewhere; beyond its edges it goes on as in a mirror.

    Args:
        image: the wall.
        mask: true on mortar.
        rng: where from.
        side: of the view in pixels.
        turned: by a quarter.
    """
    zoom = math.exp(rng.uniform(*np.log(ZOOM)))
    # Never a view wider than the image.
    zoom = min(zoom, min(mask.shape) / side)
    angle = rng.uniform(-0.7, 0.7) if rng.random() < 0.3 else rng.normal(0, 0.06)
    angle += math.pi / 2 if turned or rng.random() < 0.08 else 0.0
    slant = rng.uniform(-1, 1, 2) * (0.7 if rng.random() < 0.3 else 0.15) / math.sqrt(2)
    reach = 0.5 * zoom * side
    at = [rng.uniform(min(reach, n / 2), max(n - reach, n / 2)) for n in mask.shape]
    flip = rng.choice([-1.0, 1.0])
    y, x = (np.mgrid[0:side, 0:side] + 0.5) / side * 2 - 1
    far = 1 / (1 + 0.5 * (slant[0] * x + slant[1] * y))
    y, x = reach * far * y, reach * far * flip * x
    rows = at[0] + math.sin(angle) * x + math.cos(angle) * y
    columns = at[1] + math.cos(angle) * x - math.sin(angle) * y
    grid = np.stack([columns / mask.shape[1], rows / mask.shape[0]], -1) * 2 - 1
    seen = np.concatenate([image, 255 * mask[..., None]], -1).astype(np.float32)
    found = functional.grid_sample(
        torch.from_numpy(seen).permute(2, 0, 1)[None],
        torch.from_numpy(grid.astype(np.float32))[None],
        padding_mode="reflection",
        align_corners=False,
    )[0]
    pixels = found.permute(1, 2, 0).numpy().astype(np.float64)
    return pixels[..., :3], pixels[..., 3] / 255


def _beside(
    pixels: Pixels, share: Share, other: tuple[Pixels, Share], rng: Rng
) -> tuple[Pixels, Share]:
    """Put another wall beside this one, with a joint between them."""
    side = len(share)
    width = rng.uniform(2, 5)
    place = _across(side, rng.choice([0.0, math.pi / 2]) + rng.normal(0, 0.15))
    place = place - np.quantile(place, rng.uniform(0.15, 0.85))
    beyond = np.clip(place + 0.5, 0, 1)
    joint = np.clip(width - abs(place) + 0.5, 0, 1)
    mixed = pixels + beyond[..., None] * (other[0] - pixels)
    mortar = share + beyond * (other[1] - share)
    tone = np.average(pixels.reshape(-1, 3), axis=0, weights=share.ravel() + 1e-6)
    grain = rng.normal(0, 8, mixed.shape)
    return mixed + joint[..., None] * (tone + grain - mixed), np.maximum(mortar, joint)


def repaint(pixels: Pixels, share: Share, rng: Rng) -> Pixels:
    """Give bricks and mortar other colours; their grain stays."""
    bricks, mortar = (_mean(pixels, s) for s in (1 - share, share))
    kind = rng.random()
    if kind < 0.35:
        # Other colours as far apart as they come.
        new = rng.uniform(20, 235, (2, 3))
    elif kind < 0.7:
        # Greyish stones, with mortar lighter or darker by something one can see.
        tone = rng.uniform(40, 225)
        step = rng.choice([-1.0, 1.0]) * rng.uniform(18, 90)
        new = np.array([[tone], [np.clip(tone + step, 5, 250)]]) + rng.normal(0, 12, (2, 3))
    else:
        # Mortar of another lightness beside the same bricks.
        new = np.array([bricks, np.full(3, rng.uniform(15, 240)) + rng.normal(0, 10, 3)])
    gain = rng.uniform(0.5, 1.3)
    wide = share[..., None]
    old = (1 - wide) * bricks + wide * mortar
    out = (1 - wide) * new[0] + wide * new[1] + gain * (pixels - old)
    if rng.random() < 0.5:
        numbers, count = ndimage.label(share < 0.5)  # type: ignore[misc]
        tones = rng.normal(0, rng.uniform(5, 35), (count + 1, 1)) + rng.normal(0, 6, (count + 1, 3))
        tones[0] = 0
        out = out + (1 - wide) * tones[np.asarray(numbers, np.int64)]
    if rng.random() < 0.4:
        out = out + _relief(share, rng)[..., None] * rng.uniform(10, 40)
    return np.clip(out, 0, 255)


def _in_one_paint(pixels: Pixels, share: Share, rng: Rng) -> Pixels:
    """Paint bricks and mortar over in one colour: only relief and some grain stay."""
    colour = rng.uniform(60, 245) + rng.normal(0, 15, 3)
    grey = pixels.mean(axis=-1, keepdims=True)
    grain = grey - ndimage.gaussian_filter(grey, (3, 3, 0))
    relief = _relief(share, rng)[..., None] * rng.uniform(15, 70)
    deep = -share[..., None] * rng.uniform(-5, 35)
    worn = rng.uniform(0.75, 1.0)
    out = colour + rng.uniform(0.2, 0.8) * grain + relief + deep
    return np.clip(worn * out + (1 - worn) * pixels, 0, 255)


def _relief(share: Share, rng: Rng) -> Share:
    """Return light and shade at the edges of deeper mortar, about in [-1, 1]."""
    depth = ndimage.gaussian_filter(share, rng.uniform(0.6, 1.6))
    angle = rng.uniform(0, 2 * math.pi)
    slope = math.sin(angle) * np.gradient(depth, axis=0) + math.cos(angle) * np.gradient(
        depth, axis=1
    )
    return slope / (abs(slope).max() + 1e-6)


def graffiti(pixels: Pixels, rng: Rng) -> Pixels:
    """Spray areas and strokes, some outlined; the wall's relief shines through."""
    side = len(pixels)
    for _ in range(rng.integers(0, 3)):
        field = soft_field(rng, side, int(rng.integers(2, 7)))
        area = _step(field - rng.uniform(-0.1, 0.4), rng.uniform(0.01, 0.3))
        pixels = _sprayed(pixels, area, rng)
    for _ in range(rng.integers(1, 6)):
        radius = rng.uniform(0.01, 0.09) * side
        line = stroke(rng, side, side, radius)
        if rng.random() < 0.5:
            line = np.clip(ndimage.gaussian_filter(line, radius * rng.uniform(0.1, 0.6)), 0, 1)
        if rng.random() < 0.3:
            pixels = _sprayed(pixels, ndimage.grey_dilation(line, size=(5, 5)), rng)
        pixels = _sprayed(pixels, line, rng)
    return pixels


def _sprayed(pixels: Pixels, area: Share, rng: Rng) -> Pixels:
    grey = pixels.mean(axis=-1, keepdims=True)
    fine = grey - ndimage.gaussian_filter(grey, (4, 4, 0))
    tone = rng.choice([rng.uniform(0, 50), rng.uniform(200, 250), rng.uniform(50, 200)])
    colour = np.clip(tone + rng.normal(0, 1, 3) * rng.choice([8, 60]), 0, 255)
    paint = colour + rng.uniform(0.1, 0.9) * fine
    cover = area[..., None] * rng.uniform(0.4, 0.97)
    return pixels + cover * (np.clip(paint, 0, 255) - pixels)


def _before(pixels: Pixels, rng: Rng) -> Pixels:
    """Put signs, cables, pipes or leaves before the wall."""
    side = len(pixels)
    kind = rng.integers(4)
    if kind == 0:
        for _ in range(rng.integers(1, 4)):
            pixels = _sign(pixels, rng)
    elif kind == 1:
        for _ in range(rng.integers(1, 6)):
            line = stroke(rng, side, side, rng.uniform(0.004, 0.02) * side)[..., None]
            pixels = pixels + line * (rng.uniform(0, 200, 3) - pixels)
    elif kind == 2:
        pixels = _pipe(pixels, rng)
    else:
        pixels = _leaves(pixels, rng)
    return pixels


def _sign(pixels: Pixels, rng: Rng) -> Pixels:
    side = len(pixels)
    height, width = rng.uniform(0.08, 0.4, 2) * side
    y, x = np.mgrid[0:side, 0:side]
    dy = abs(y - rng.uniform(0, side)) - height / 2
    dx = abs(x - rng.uniform(0, side)) - width / 2
    inside = np.maximum(dy, dx) if rng.random() < 0.8 else np.hypot(dy + height / 2, dx + width / 2)
    inside = inside if inside.min() < 0 else inside - min(height, width) / 2
    tones = rng.uniform(10, 245, 3)[:, None] + rng.normal(0, 20, (3, 3))
    out = np.where((inside < 0)[..., None], tones[0], pixels)
    rim = -rng.uniform(2, 8)
    out = np.where((inside < rim)[..., None], tones[1], out)
    if rng.random() < 0.7:
        marks = stroke(rng, side, side, rng.uniform(1, 4)) * (inside < 2 * rim)
        marks = np.maximum(marks, stroke(rng, side, side, rng.uniform(1, 4)) * (inside < 2 * rim))
        out = out + marks[..., None] * (tones[2] - out)
    return np.clip(out, 0, 255)


def _pipe(pixels: Pixels, rng: Rng) -> Pixels:
    side = len(pixels)
    place = _across(side, rng.choice([0.0, math.pi / 2]) + rng.normal(0, 0.1))
    place = place - np.quantile(place, rng.uniform(0.05, 0.95))
    radius = rng.uniform(0.015, 0.07) * side
    round_ = np.sqrt(np.clip(1 - (place / radius) ** 2, 0, 1))
    light = 0.5 + 0.5 * round_ + 0.3 * np.clip(1 - abs(place / radius + 0.4) * 3, 0, 1)
    colour = (rng.uniform(30, 220) + rng.normal(0, 15, 3)) * light[..., None]
    return np.where((abs(place) < radius)[..., None], np.clip(colour, 0, 255), pixels)


def _leaves(pixels: Pixels, rng: Rng) -> Pixels:
    """Scatter leaves, more of them where a smooth field is high."""
    side = len(pixels)
    size = max(int(rng.uniform(0.015, 0.06) * side), 2)
    field = soft_field(rng, side, 3)
    seeds = rng.random((side, side)) < np.clip(field - rng.uniform(-0.1, 0.4), 0, 1) / size**2
    green = np.array([70, 105, 45]) * rng.uniform(0.5, 1.5) + rng.normal(0, 15, 3)
    y, x = np.mgrid[-size : size + 1, -size : size + 1]
    for row, column in np.argwhere(seeds)[:250]:
        angle = rng.uniform(0, math.pi)
        a, b = math.cos(angle) * x + math.sin(angle) * y, math.cos(angle) * y - math.sin(angle) * x
        leaf = (a / size) ** 2 + (b / (0.5 * size)) ** 2 < 1
        rows, columns = row + y[leaf], column + x[leaf]
        inside = (rows >= 0) & (rows < side) & (columns >= 0) & (columns < side)
        pixels[rows[inside], columns[inside]] = green * rng.uniform(0.6, 1.4)
    return np.clip(pixels, 0, 255)


def shadows(pixels: Pixels, rng: Rng) -> Pixels:
    """Throw shadows: straight edges, bars, or the dapple of leaves."""
    side = len(pixels)
    for _ in range(rng.integers(1, 3)):
        kind = rng.random()
        soft = rng.uniform(0.5, 8)
        place = _across(side, rng.uniform(0, 2 * math.pi))
        if kind < 0.4:
            dark = _step(place - np.quantile(place, rng.uniform(0.2, 0.8)), soft)
        elif kind < 0.6:
            wave = np.sin(place * 2 * math.pi / rng.uniform(0.05, 0.4) / side)
            dark = _step(wave - rng.uniform(-0.3, 0.8), soft * 0.05)
        else:
            field = soft_field(rng, side, int(rng.integers(4, 24)))
            dark = _step(field - rng.uniform(-0.3, 0.3), rng.uniform(0.01, 0.2))
        tint = rng.uniform(0.25, 0.75) + rng.normal(0, 0.03, 3)
        pixels = pixels * (1 - dark[..., None] * (1 - tint))
    return pixels


def camera(pixels: Pixels, rng: Rng) -> UInt8[np.ndarray, "h w 3"]:
    """Take the picture: light, tint, contrast, blur, noise, compression."""
    if rng.random() < 0.5:
        pixels = 255 * (np.clip(pixels, 0, 255) / 255) ** math.exp(rng.normal(0, 0.35))
    if rng.random() < 0.5:
        pixels = pixels * rng.uniform(0.3, 1.25) * (1 + rng.normal(0, 0.07, 3))
    if rng.random() < 0.2:
        slope = soft_field(rng, len(pixels), 2)[..., None]
        pixels = pixels * (1 + rng.uniform(0.1, 0.6) * slope)
    if rng.random() < 0.15:
        grey = pixels.mean(axis=-1, keepdims=True)
        pixels = grey + rng.uniform(0, 0.5) * (pixels - grey)
    if rng.random() < 0.35:
        sigma = rng.uniform(0.3, 1.6)
        soft = ndimage.gaussian_filter(pixels, (sigma, sigma, 0))
        pixels = soft if rng.random() < 0.5 else pixels + rng.uniform(0.3, 1.2) * (pixels - soft)
    if rng.random() < 0.35:
        pixels = pixels + rng.normal(0, rng.uniform(1, 14), pixels.shape)
    taken = np.clip(pixels, 0, 255).astype(np.uint8)
    if rng.random() < 0.3:
        packed = io.BytesIO()
        Image.fromarray(taken).save(packed, "JPEG", quality=int(rng.integers(30, 95)))
        taken = np.asarray(Image.open(packed))
    return taken


def _across(side: int, angle: float) -> Share:
    """Return the place of each pixel along a direction, in pixels."""
    y, x = np.mgrid[0:side, 0:side].astype(float)
    return math.cos(angle) * x + math.sin(angle) * y


def _step(values: Share, softness: float) -> Share:
    return 1 / (1 + np.exp(-np.clip(values / softness, -30, 30)))


def _mean(pixels: Pixels, weight: Share) -> Float[np.ndarray, 3]:
    return np.average(pixels.reshape(-1, 3), axis=0, weights=weight.ravel() + 1e-6)
