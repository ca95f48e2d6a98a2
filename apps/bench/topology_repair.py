"""Repair of the shipped segmenter's masks, beside random repair and the best possible.

On TopoMortar's test images at hand (never trained on), by group: mean Betti 0 and 1 errors, change
of Dice.  A candidate is one change of one component (all but the largest) or one hole.

* repaired: `geo3d.topology.repair.repair`, as shipped.
* random: as many changes as repair has made of each kind, of candidates drawn at random: components
  removed or joined to the rest by a straight line, holes filled or opened to the nearest pixel
  outside them by one.  Mean over draws.
* small removed: components and holes of fewer than 64 pixels are taken away.
* ceiling: with the truth at hand, as many of the smallest components removed and holes filled as
  there are too many; what is missing stays missing.

The last row says how likely the repaired masks' advantage over each other way is by chance: random
signs over all images, two-sided, of Betti 0 / Betti 1, corrected by Holm over all six.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool
from scipy import ndimage
from skimage.draw import line

from geo3d.progress import ProgressCallback, ignore_progress, tell_each
from geo3d.segmentation.data import read_topomortar
from geo3d.segmentation.predict import load_segmenter
from geo3d.segmentation.referee import without_small
from geo3d.segmentation.significance import holm, sign_flip_p
from geo3d.topology.betti import betti_numbers
from geo3d.topology.grids import label_components
from geo3d.topology.metrics import betti_errors, dice
from geo3d.topology.repair import Repaired, repair

DRAWS = 5
SMALL = 64
WAYS = ("before", "repaired", "random", "small removed", "ceiling")
Mask = Bool[np.ndarray, "h w"]
Measured = dict[str, np.ndarray]
"""Of each way: Betti 0 error, Betti 1 error, change of Dice."""


def bench_repair(
    data: Path | None, seed: int = 0, progress: ProgressCallback = ignore_progress
) -> list[dict[str, Any]]:
    """Return a row for each group of images.

    Raises:
        InputError: ``dataset.no_folder`` and others of `read_topomortar`.
    """
    segmenter = load_segmenter()
    found: dict[str, list[Measured]] = {}
    for item in tell_each(read_topomortar(data or "").test, progress, "images"):
        sample = item.load()
        generator = np.random.default_rng([seed, *item.id.encode()])
        probabilities = segmenter.predict(sample.image).probabilities[1]
        found.setdefault(item.group, []).append(_measured(probabilities, sample.mask, generator))
    rows = [{"group": group, **_means(images)} for group, images in found.items()]
    every = [image for images in found.values() for image in images]
    rows.append({"group": "p, repaired against it (Holm)", **_by_chance(every, seed)})
    return rows


def _means(images: Sequence[Measured]) -> dict[str, str]:
    row = {}
    for way in WAYS:
        b0, b1, change = np.mean([image[way] for image in images], axis=0)
        row[way] = f"{b0:.2f} / {b1:.2f} ({change:+.4f})"
    return row


def _by_chance(images: Sequence[Measured], seed: int) -> dict[str, str]:
    """Return p of both Betti errors of the repaired masks against each way but the ceiling."""
    generator = np.random.default_rng(seed)
    others = [way for way in WAYS if way not in ("repaired", "ceiling")]
    tests = [(way, k) for way in others for k in (0, 1)]
    p = [
        sign_flip_p(np.array([image["repaired"][k] - image[way][k] for image in images]), generator)
        for way, k in tests
    ]
    corrected = dict(zip(tests, holm(p), strict=True))
    return {
        way: f"{corrected[way, 0]:.4f} / {corrected[way, 1]:.4f}" if way in others else "-"
        for way in WAYS
    }


def _measured(probabilities: np.ndarray, true: Mask, generator: np.random.Generator) -> Measured:
    """Return Betti 0 and 1 error and change of Dice of each way."""
    given, repaired = probabilities > 0.5, repair(probabilities)
    drawn = [random_repair(given, repaired, generator) for _ in range(DRAWS)]
    masks = {
        "before": [given],
        "repaired": [repaired.mask],
        "random": drawn,
        "small removed": [without_small(given, SMALL, "cells")],
        "ceiling": [best_repair(given, true)],
    }
    before = dice(given, true)
    return {
        way: np.mean([(*betti_errors(m, true), dice(m, true) - before) for m in ms], axis=0)
        for way, ms in masks.items()
    }


def random_repair(given: Mask, repaired: Repaired, generator: np.random.Generator) -> Mask:
    """Return the mask with as many random changes as a repair has made."""
    kinds = [change.kind for change in repaired.changes]
    mask = given.copy()
    pieces, holes = _pieces(mask), _holes(mask)
    n_pieces = min(len(pieces), sum(kind in ("join", "remove") for kind in kinds))
    for k in generator.permutation(len(pieces))[:n_pieces]:
        if generator.random() < 0.5:
            mask[pieces[k]] = False
        else:
            mask[_straight_line(pieces[k], mask & ~pieces[k])] = True
    n_holes = min(len(holes), len(kinds) - n_pieces)
    for k in generator.permutation(len(holes))[:n_holes]:
        if generator.random() < 0.5:
            mask[holes[k]] = True
        else:
            mask[_straight_line(holes[k], ~mask & ~holes[k])] = False
    return mask


def best_repair(given: Mask, true: Mask) -> Mask:
    """Return the mask without its smallest pieces and holes, as many as there are too many."""
    mask = given.copy()
    wanted = betti_numbers(true)
    pieces = sorted(_pieces(mask), key=np.count_nonzero)
    for piece in pieces[: max(0, len(pieces) + 1 - max(wanted[0], 1))]:
        mask[piece] = False
    holes = sorted(_holes(mask), key=np.count_nonzero)
    for hole in holes[: max(0, len(holes) - wanted[1])]:
        mask[hole] = True
    return mask


def _pieces(mask: Mask) -> list[Mask]:
    labels, count = label_components(mask, corners=True)
    largest = np.argmax(np.bincount(labels.ravel())[1:]) + 1 if count else 0
    return [labels == n for n in range(1, count + 1) if n != largest]


def _holes(mask: Mask) -> list[Mask]:
    labels, count = label_components(~np.pad(mask, 1), corners=False)
    return [(labels == n)[1:-1, 1:-1] for n in range(2, count + 1)]


def _straight_line(start: Mask, goal: Mask) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixels between the nearest two of two sets; none where the second is empty."""
    if not goal.any():
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    distance, nearest = ndimage.distance_transform_edt(~goal, return_indices=True)  # type: ignore[misc]
    at = np.argwhere(start)
    row, column = at[np.argmin(np.asarray(distance)[tuple(at.T)])]
    there = nearest[:, row, column]
    return line(int(row), int(column), int(there[0]), int(there[1]))
