"""Rays per second and memory of rendering and training streets of growing length.

A camera drives along the middle of the street; at every stop the layout's maps are cast, one
training step is made and the view is rendered.  Blocks that are left behind go to disk.
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from geo3d.progress import ProgressCallback, ignore_progress, report
from geo3d.synth.streets.generate import generate_street
from scenes.urban.conditions import RayScene, street_camera
from scenes.urban.config import FieldsConfig
from scenes.urban.scene import Scene

LENGTHS = (100.0, 1000.0, 5000.0)
STOPS, STEP = 40, 10.0
"""Where a camera stops: how often, and every how many metres."""


def bench_render(
    lengths: Sequence[float] = LENGTHS,
    size: int = 64,
    seed: int = 0,
    progress: ProgressCallback = ignore_progress,
) -> list[dict[str, Any]]:
    """Return a row per length.

    Args:
        lengths: metres.
        size: width and height of the views.
    """
    rows = []
    for number, length in enumerate(lengths):
        report(progress, "streets", number, len(lengths))
        # a process of its own, so that the memory measured is its own
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            rows.append(pool.submit(_drive, length, size, seed, torch.get_num_threads()).result())
    report(progress, "streets", len(lengths), len(lengths))
    return rows


def _drive(length: float, size: int, seed: int, threads: int) -> dict[str, Any]:
    torch.set_num_threads(threads)
    layout = generate_street(length, seed)
    maps_of = RayScene(layout)
    scene = Scene(FieldsConfig(), layout)
    scene.learn(3e-3)
    generator = torch.Generator().manual_seed(seed)
    # as many stops as all but the shortest street has, in the middle of the street
    along = np.linalg.norm(np.diff(layout.trajectory[:, :3, 3], axis=0), axis=1).cumsum()
    middle = along[-1] / 2 + STEP * (np.arange(STOPS) - STOPS / 2)
    picks = np.unique(np.searchsorted(along, middle.clip(0, along[-1])))
    train, render, blocks, memory = [], [], 0, 0
    for index in picks:
        camera = street_camera(layout.trajectory[index], size)
        maps = maps_of.maps(camera)
        start = time.perf_counter()
        seen = scene.render(camera, maps, generator=generator, train=True)
        (seen.rgb - 0.3).abs().mean().backward()
        scene.step()
        middle = time.perf_counter()
        scene.render(camera, maps)
        train.append(middle - start)
        render.append(time.perf_counter() - middle)
        blocks = max(blocks, scene.blocks.resident_bytes())
        memory = max(memory, _resident_set())
    rays = size * size
    return {
        "metres": length,
        "cells": len(scene.lattice.keys),
        "trained rays/s": round(rays / statistics.median(train)),
        "rendered rays/s": round(rays / statistics.median(render)),
        "s per step, mean": statistics.fmean(train),
        "blocks in memory, MB": round(blocks / 2**20),
        "process, MB": round(memory / 2**20),
    }


def _resident_set() -> int:
    """Return the bytes of memory of this process; 0 where the system does not tell."""
    status = Path("/proc/self/statm")
    if not status.is_file():
        return 0
    return int(status.read_text().split()[1]) * 4096
