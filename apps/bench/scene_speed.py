"""Frames per second of layout maps, beside Embree's first hits of the same rays.

Times are medians over frames spread along the drive; the first frame, which compiles, is left out.

Rays per second and memory of rendering and training streets of growing length.

A camera drives along the middle of the street; at every stop the layout's maps are cast, one
training step is made and the view is rendered.  Blocks that are left behind go to disk.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from apps.bench.measuring import apart, medians, timed
from geo3d.layout.layout import Layout
from geo3d.mesh.mesh import Mesh
from geo3d.progress import ProgressCallback, ignore_progress, tell_each
from geo3d.render.cameras import Camera
from geo3d.render.raycast import RayCaster, raycast
from geo3d.synth.streets.generate import generate_street
from geo3d.work.pool import resident_mib
from scenes.urban.conditions import RayScene, street_camera
from scenes.urban.config import FieldsConfig
from scenes.urban.imports.samples import import_sample
from scenes.urban.scene import Scene

SIZES = (512, 128)


def bench_conditions(
    data: Path | None = None,
    seed: int = 0,
    frames: int = 10,
    threads: int = 2,
    progress: ProgressCallback = ignore_progress,
) -> list[dict[str, Any]]:
    """Return a row per layout and image size.

    Args:
        data: a folder with the published samples (``sample_*.npy``), if it is here.
        frames: cameras timed per row.
        threads: that draw one image; Embree uses one.

    Raises:
        InputError, FileFormatError: a sample cannot be read.
    """
    layouts = [generate_street(100.0, seed, "straight"), generate_street(100.0, seed, "crossing")]
    layouts.append(generate_street(1000.0, seed, "curved"))
    layouts += [import_sample(path) for path in sorted((data or Path()).glob("sample_*.npy"))]
    rows = []
    for layout in tell_each(layouts, progress, "layout maps"):
        rows += [_row(layout, size, frames, threads) for size in SIZES]
    return rows


def _row(layout: Layout, size: int, frames: int, threads: int) -> dict[str, Any]:
    picks = np.linspace(0, len(layout.trajectory) - 1, frames + 1).astype(int)
    cameras = [street_camera(layout.trajectory[i], size) for i in picks]
    scene = RayScene(layout, threads)
    vertices, faces, _, _ = layout.triangles()
    caster = RayCaster(Mesh(vertices, faces))
    cpu, first = _seconds(lambda camera: scene.maps(camera, segments=False), cameras)
    _, whole = _seconds(scene.maps, cameras)
    _, embree = _seconds(lambda camera: raycast(caster, camera), cameras[:4])
    return {
        "layout": layout.name,
        "triangles": len(faces),
        "size": size,
        "threads": threads,
        "frames/s": round(1 / first, 1),
        "CPU ms": round(cpu * 1e3, 2),
        "frames/s with intervals": round(1 / whole, 1),
        "Embree frames/s": round(1 / embree, 1),
    }


def _seconds(draw: Callable[[Camera], Any], cameras: Sequence[Camera]) -> list[float]:
    """Return median processor and wall time per frame; the first frame is not counted."""
    return medians([timed(draw, camera)[1] for camera in cameras])


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
    threads = torch.get_num_threads()
    told = tell_each(lengths, progress, "streets")
    return [apart(_drive, length, size, seed, threads) for length in told]


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
        memory = max(memory, resident_mib(os.getpid()))
    rays = size * size
    return {
        "metres": length,
        "cells": len(scene.lattice.keys),
        "trained rays/s": round(rays / statistics.median(train)),
        "rendered rays/s": round(rays / statistics.median(render)),
        "s per step, mean": statistics.fmean(train),
        "blocks in memory, MB": round(blocks / 2**20),
        "process, MB": round(memory),
    }
