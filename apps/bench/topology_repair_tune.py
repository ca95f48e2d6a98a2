"""Prices of repair, tried on images that no number is told of: the choice of the defaults.

Three kinds of images, none of them a test image: TopoMortar's validation photographs; the same in
other colours, noisy or blurred; walls drawn in its seven groups.  Each is segmented once by the
shipped segmenter, then repaired with every setting of `GRID`.  Mean Betti 0 / Betti 1 errors, and
the change of Dice.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8
from scipy import ndimage

from geo3d.progress import ProgressCallback, ignore_progress, tell_each
from geo3d.segmentation.data import read_topomortar
from geo3d.segmentation.predict import load_segmenter
from geo3d.synth.walls import GROUPS, brick_wall
from geo3d.topology.metrics import betti_errors, dice
from geo3d.topology.repair import RepairSettings, repair

GRID = {
    "gap_price": (0.0, 10.0, 20.0, 40.0),
    "hole_price": (50.0, 200.0),
    "component_price": (100.0, 300.0),
}
SHIFTS = ("colours", "noise", "blur")
EVERY = 2
"""Of the validation images one in so many."""
DRAWN_SEED, DRAWN_SIDE = 900_000, 320
"""Of walls that no training draws."""
_Pair = tuple[Float[np.ndarray, "h w"], Bool[np.ndarray, "h w"]]


def bench_tune(
    data: Path | None, seed: int = 0, progress: ProgressCallback = ignore_progress
) -> list[dict[str, Any]]:
    """Return a row for each setting; the first is the default.

    Raises:
        InputError: ``dataset.no_folder`` and others of `read_topomortar`.
    """
    segmenter = load_segmenter()
    found: dict[str, list[_Pair]] = {"validation": [], "shifted": [], "drawn": []}
    for kind, image, true in _images(data, seed):
        found[kind].append((segmenter.predict(image).probabilities[1], true))
    usual = RepairSettings()
    grid = [
        replace(usual, **dict(zip(GRID, prices, strict=True))) for prices in product(*GRID.values())
    ]
    rows = []
    for settings in tell_each([usual, *(s for s in grid if s != usual)], progress, "settings"):
        row: dict[str, Any] = {name: getattr(settings, name) for name in GRID}
        for kind, pairs in found.items():
            row[kind] = _mean(pairs, settings)
        rows.append(row)
    return rows


def shifted(
    image: UInt8[np.ndarray, "h w 3"], shift: str, generator: np.random.Generator
) -> UInt8[np.ndarray, "h w 3"]:
    """Return an image in other colours, with noise, or blurred."""
    values = image.astype(np.float64)
    if shift == "colours":
        contrast, light = generator.uniform(0.5, 1.5), generator.uniform(-40, 40, 3)
        values = 128 + (values[..., generator.permutation(3)] - 128) * contrast + light
    elif shift == "noise":
        values += generator.normal(0, generator.uniform(10, 35), values.shape)
    else:
        values = ndimage.gaussian_filter(values, (1.5, 1.5, 0))
    return np.clip(values, 0, 255).round().astype(np.uint8)


def _images(data: Path | None, seed: int) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    for k, item in enumerate(read_topomortar(data or "").val[::EVERY]):
        sample = item.load()
        yield "validation", sample.image, sample.mask
        generator = np.random.default_rng([seed, k])
        yield "shifted", shifted(sample.image, SHIFTS[k % len(SHIFTS)], generator), sample.mask
    for k, group in enumerate(GROUPS):
        wall = brick_wall(DRAWN_SEED + seed + k, DRAWN_SIDE, DRAWN_SIDE, group=group)
        yield "drawn", wall.image, wall.mask


def _mean(pairs: list[_Pair], settings: RepairSettings) -> str:
    rows = []
    for probabilities, true in pairs:
        mask = repair(probabilities, settings).mask
        change = dice(mask, true) - dice(probabilities > 0.5, true)
        rows.append([*betti_errors(mask, true), change])
    b0, b1, change = np.mean(rows, axis=0)
    return f"{b0:.2f} / {b1:.2f} ({change:+.4f})"
