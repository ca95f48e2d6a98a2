"""Time and memory of the losses, and time of Betti numbers, on this machine.

A batch is two images of 512^2 pixels, as in the published measurements: brick walls drawn here,
predicted with gaps, blobs and noise, or TopoMortar's own labels 001 and 002 with scores from their
pseudo labels.  Seconds are CPU seconds of forward and backward, torch on one thread, medians after
one run that compiles; every run gets labels the loss has not seen.  Memory is measured in a process
of its own for each loss: the highest resident size while it runs, minus the size before.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from PIL import Image
from scipy import ndimage
from torch import Tensor

from apps.bench.measuring import apart, forget_peak, medians, peak_mib, timed
from geo3d.errors import InputError
from geo3d.progress import ProgressCallback, ignore_progress, report
from geo3d.topology.betti import betti_numbers
from geo3d.topology.losses.catalogue import LOSSES

SIDE = 512

PUBLISHED = {
    "ce_dice": "0.026",
    "skeleton_recall": "0.041",
    "region_wise": "0.131",
    "topo_win": "0.346",
    "cl_dice": "1.40 (3 rounds), 2.84 (10)",
    "topo_loss": "3.16",
    "warping": "10.7",
    "cb_dice": "88.6",
    "betti_matching": "0.40-1.05 (topolosses 0.2.0, C++)",
}
"""CPU seconds of the published TopoMortar code (commit f709b3c) for TopoMortar's training images
001 and 002, one thread of an x86 core, torch 2.13; Betti matching with the library named."""

PUBLISHED_BETTI_MS = {"published (GUDHI CubicalComplex)": 474.0}
"""CPU milliseconds for one label, measured likewise."""

TARGETS = {
    "cl_dice": 0.5,
    "cb_dice": 1.0,
    "topo_loss": 0.3,
    "warping": 0.7,
    "topo_win": 0.1,
    "betti_matching": 0.5,
}
"""CPU seconds aimed at; 1.0 for all others."""


def brick_masks(n: int, side: int = SIDE, seed: int = 0) -> Bool[np.ndarray, "n s s"]:
    """Draw the mortar of walls: rows of bricks, every other row shifted by half a brick."""
    generator = np.random.default_rng(seed)
    masks = []
    for _ in range(n):
        row, column = np.indices((side, side)).astype(float)
        shift = ndimage.gaussian_filter(generator.normal(size=(2, side, side)), (0, 20, 20))
        row, column = row + 60 * shift[0], column + 60 * shift[1]
        high, wide, line = (float(generator.uniform(*r)) for r in ((34, 50), (80, 120), (5, 9)))
        offset = np.where(np.floor(row / high) % 2 == 1, wide / 2, 0)
        masks.append((row % high < line) | ((column + offset) % wide < line))
    return np.stack(masks)


def brick_scores(masks: Bool[np.ndarray, "n h w"], seed: int = 0) -> Float[Tensor, "n 2 h w"]:
    """Return scores of a wrong prediction of masks: gaps, blobs and noise."""
    generator = np.random.default_rng(seed + 1)
    noise = generator.normal(size=masks.shape)
    rough = ndimage.gaussian_filter(noise, (0, 4, 4))
    signal = np.where(masks, 3.0, -3.0) + 4 * rough / rough.std() + 0.5 * noise
    half = torch.from_numpy((signal / 2).astype(np.float32))
    return torch.stack((-half, half), dim=1)


def make_batch(
    data: Path | None = None, side: int = SIDE, seed: int = 0
) -> tuple[Float[Tensor, "b 2 h w"], Int64[Tensor, "b h w"]]:
    """Return scores and labels, drawn or read from a TopoMortar folder.

    Raises:
        InputError: "bench.no_labels" if the folder lacks the labels of 001 and 002.
    """
    if data is None:
        masks = brick_masks(2, side, seed)
        return brick_scores(masks, seed), torch.from_numpy(masks).long()
    paths = [
        data / "train" / kind / f"{k:03}.png" for kind in ("accurate", "pseudo") for k in (1, 2)
    ]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise InputError(
            "bench.no_labels",
            f"{missing[0]} is not there.",
            "Give TopoMortar's dataset folder, the one that holds train, val and test.",
        )
    masks = np.stack([np.asarray(Image.open(path).convert("L")) == 255 for path in paths])
    noise = np.random.default_rng(seed).normal(size=masks[2:].shape)
    half = torch.from_numpy((np.where(masks[2:], 3.0, -3.0) + noise).astype(np.float32) / 2)
    return torch.stack((-half, half), dim=1), torch.from_numpy(masks[:2]).long()


def median_seconds(action: Callable[[], Any], repeats: int) -> float:
    """Return the median CPU seconds of an action on one thread, after a run that does not count."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return medians([timed(action)[1] for _ in range(repeats + 1)])[0]
    finally:
        torch.set_num_threads(threads)


_RUNS = itertools.count()


def run_loss(name: str, logits: Float[Tensor, "b c h w"], labels: Int64[Tensor, "b h w"]) -> float:
    """Run a loss forward and backward on labels it has not seen; return its value.

    Losses remember what they made of the last target by its content
    (`geo3d.topology.losses.inputs`).  A training step brings new labels, and the published code has
    no such memory, so each run moves the batch by another row: without it a repeated run would time
    the memory.
    """
    shift = next(_RUNS) % labels.shape[-2]
    scores = logits.detach().roll(shift, -2).requires_grad_()
    value = LOSSES[name].function(scores, labels.roll(shift, -2))
    value.backward()
    return float(value.detach())


def bench_losses(
    data: Path | None = None,
    repeats: int = 3,
    seed: int = 0,
    *,
    memory: bool = True,
    progress: ProgressCallback = ignore_progress,
) -> list[dict[str, Any]]:
    """Return a row per loss: seconds, ratio to CE+Dice, memory, and the published seconds."""
    logits, labels = make_batch(data, seed=seed)
    rows: list[dict[str, Any]] = []
    names = sorted(LOSSES, key=lambda name: name != "ce_dice")
    for k, name in enumerate(names):
        report(progress, f"timing {name}", k, len(names))
        seconds = median_seconds(lambda key=name: run_loss(key, logits, labels), repeats)
        base = rows[0]["cpu s"] if rows else seconds
        row = {"loss": name, "cpu s": seconds, "target s": TARGETS.get(name, 1.0)}
        row |= {"published s": PUBLISHED.get(name, ""), "x ce_dice": seconds / base}
        if memory:
            row["extra MB"] = peak_memory(name, data, seed)
        rows.append(row)
    return rows


def bench_betti(rounds: int = 20, seed: int = 0) -> list[dict[str, Any]]:
    """Return milliseconds of the Betti numbers of 512^2 masks and of a volume of 64^3 voxels."""
    generator = np.random.default_rng(seed)
    volume = ndimage.gaussian_filter(generator.normal(size=(64, 64, 64)), 2) > 0
    wall = brick_masks(1, seed=seed)[0]
    wrong = brick_scores(wall[None], seed)[0]
    masks = {
        "brick wall 512^2": wall,
        "wrong prediction 512^2": (wrong[1] > wrong[0]).numpy(),
        "noise 512^2": generator.random((SIDE, SIDE)) < 0.5,
        "blobs 64^3": volume,
    }
    rows = []
    for name, mask in masks.items():
        seconds = median_seconds(lambda m=mask: betti_numbers(m), rounds)
        rows.append({"mask": name, "Betti": str(betti_numbers(mask)), "cpu ms": 1000 * seconds})
    for name, milliseconds in PUBLISHED_BETTI_MS.items():
        rows.append({"mask": name, "Betti": "(2, 30)", "cpu ms": milliseconds})
    return rows


def peak_memory(name: str, data: Path | None = None, seed: int = 0) -> float:
    """Return the MB that one loss needs on top of its input, measured in a fresh process."""
    return apart(_measure_memory, name, data, seed)


def _measure_memory(name: str, data: Path | None, seed: int) -> float:
    torch.set_num_threads(1)
    logits, labels = make_batch(data, seed=seed)
    # Compiles, and loads what is loaded once.
    run_loss(name, logits[:, :, :64, :64], labels[:, :64, :64])
    before = forget_peak()
    run_loss(name, logits, labels)
    return max(peak_mib() - before, 0.0)
