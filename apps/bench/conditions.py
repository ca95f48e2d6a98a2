"""Frames per second of layout maps, beside Embree's first hits of the same rays.

Times are medians over frames spread along the drive; the first frame, which compiles, is left out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from geo3d.layout.layout import Layout
from geo3d.mesh.mesh import Mesh
from geo3d.progress import ProgressCallback, ignore_progress, report
from geo3d.render.cameras import Camera
from geo3d.render.raycast import RayCaster, raycast
from geo3d.synth.streets.generate import generate_street
from scenes.urban.conditions import RayScene, street_camera
from scenes.urban.importers import import_sample

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
    for number, layout in enumerate(layouts):
        report(progress, "layout maps", number, len(layouts))
        rows += [_row(layout, size, frames, threads) for size in SIZES]
    report(progress, "layout maps", len(layouts), len(layouts))
    return rows


def _row(layout: Layout, size: int, frames: int, threads: int) -> dict[str, Any]:
    picks = np.linspace(0, len(layout.trajectory) - 1, frames + 1).astype(int)
    cameras = [street_camera(layout.trajectory[i], size) for i in picks]
    scene = RayScene(layout, threads)
    vertices, faces, _, _ = layout.triangles()
    caster = RayCaster(Mesh(vertices, faces))
    first, cpu = _seconds(lambda camera: scene.maps(camera, segments=False), cameras)
    whole, _ = _seconds(scene.maps, cameras)
    embree, _ = _seconds(lambda camera: raycast(caster, camera), cameras[:4])
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


def _seconds(draw: Callable[[Camera], Any], cameras: Sequence[Camera]) -> tuple[float, float]:
    """Return median wall and processor time per frame; the first frame is not counted."""
    walls, processors = [], []
    for camera in cameras:
        wall, processor = time.perf_counter(), time.process_time()
        draw(camera)
        walls.append(time.perf_counter() - wall)
        processors.append(time.process_time() - processor)
    return float(np.median(walls[1:])), float(np.median(processors[1:]))
