"""Teaching a segmenter to tell walls from other images, and testing it.

Walls are the training images, strange views of them (`geo3d.synth.wide_walls`) and drawn walls.
Other images are drawn (`geo3d.synth.no_walls`), and training images whose pieces are shuffled: they
look like photographs of bricks and show no wall.  What `UNSEEN` draws is never learned from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float64, UInt8

from geo3d.progress import ProgressCallback, ignore_progress, report
from geo3d.segmentation.predict import Segmenter
from geo3d.segmentation.samples import Sample
from geo3d.segmentation.wall_score import fit_wall_score
from geo3d.synth.no_walls import KINDS, no_wall
from geo3d.synth.walls import GROUPS, brick_wall
from geo3d.synth.wide_walls import widen

SIDES = (224, 288, 352)
"""Sides of the images learned from, in turn."""
TILES = (8, 16, 32, 64)
"""Sides of the pieces of shuffled images, in pixels, in turn."""
_FIRST_SEED = 7_000_000
"""Seeds from here on are drawn nowhere else."""

Pixels = UInt8[np.ndarray, "h w 3"]


def train_wall_score(
    segmenter: Segmenter,
    photographs: Sequence[Sample],
    *,
    rounds: int = 8,
    seed: int = 0,
    progress: ProgressCallback = ignore_progress,
) -> tuple[Segmenter, dict[str, float]]:
    """Return the segmenter with a score of walls, and how good it is on folds kept aside.

    Args:
        segmenter: with the network lite0.
        photographs: walls with masks; best those the segmenter learned from.
        rounds: images of each drawn kind and group.
        seed: everything follows from it.
        progress: receives an event per image.
    """
    features: dict[bool, list[Float64[np.ndarray, " n"]]] = {True: [], False: []}
    images = list(_images(photographs, rounds, seed))
    for done, (image, is_wall) in enumerate(images):
        report(progress, "looking at walls and others", done, len(images))
        found = segmenter.predict(image).probabilities
        features[is_wall].append(segmenter.wall_features(image, found))
    score, numbers = fit_wall_score(features[True], features[False], seed)
    counts = {"walls": len(features[True]), "others": len(features[False])}
    numbers = {**numbers, **counts}
    info = {**segmenter.info, "wall_score": numbers}
    return replace(segmenter, wall_score=score, info=info), numbers


def _images(photographs: Sequence[Sample], rounds: int, seed: int) -> Iterator[tuple[Pixels, bool]]:
    """Yield images, and whether they show a wall."""
    rng = np.random.default_rng([seed, _FIRST_SEED])
    first = _FIRST_SEED + 10_000 * seed
    for k, sample in enumerate(photographs):
        side = SIDES[k % len(SIDES)]
        yield sample.image, True
        for _ in range(2):
            yield widen(sample.image, sample.mask, rng, side)[0], True
        view = widen(sample.image, sample.mask, rng, side)[0]
        yield shuffled(view, TILES[k % len(TILES)], rng), False
    for k in range(rounds):
        side = SIDES[k % len(SIDES)]
        for group in GROUPS:
            yield brick_wall(first + k, side, side, group=group).image, True
        for kind in KINDS:
            yield no_wall(first + k, side, kind=kind), False


def shuffled(image: Pixels, tile: int, rng: np.random.Generator) -> Pixels:
    """Return the image cut into squares that are put together at random."""
    rows, columns = (n // tile for n in image.shape[:2])
    cut = image[: rows * tile, : columns * tile].reshape(rows, tile, columns, tile, 3)
    pieces = cut.swapaxes(1, 2).reshape(-1, tile, tile, 3)[rng.permutation(rows * columns)]
    laid = pieces.reshape(rows, columns, tile, tile, 3).swapaxes(1, 2)
    return np.ascontiguousarray(laid.reshape(rows * tile, columns * tile, 3))
