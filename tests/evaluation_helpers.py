"""Tiny datasets on disk and importable stand-in methods for the tests of the evaluation."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from helpers import bumpy_sphere, permuted
from scipy.spatial import cKDTree

from geo3d.mesh.mesh import Mesh


@dataclass(frozen=True)
class FakeAnswer:
    """The part of a correspondence that the evaluation reads."""

    p2p_21: np.ndarray
    p2p_12: np.ndarray | None = None
    ambiguous: bool = False


def write_off(path: Path, mesh: Mesh) -> None:
    """Write a mesh as OFF, coordinates exact."""
    rows = [f"{x!r} {y!r} {z!r}" for x, y, z in mesh.vertices.astype(float).tolist()]
    rows += [f"3 {a} {b} {c}" for a, b, c in mesh.faces.tolist()]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"OFF\n{mesh.n_vertices} {mesh.n_faces} 0\n" + "\n".join(rows) + "\n")


def write_list(path: Path, numbers: np.ndarray) -> None:
    """Write integers, one per line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(map(str, np.asarray(numbers).tolist())) + "\n")


def write_npz(path: Path, mesh: Mesh, corr: np.ndarray, **more: np.ndarray) -> None:
    """Write a shape file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(
        path,
        verts=mesh.vertices.astype(np.float32),
        faces=mesh.faces.astype(np.int32),
        corr=np.asarray(corr, np.int32),
        **more,
    )


def make_spheres(root: Path, count: int, subdivisions: int = 1) -> Path:
    """Write ``count`` shuffled copies of one bumpy sphere as off/ and corres/."""
    base = bumpy_sphere(subdivisions)
    for i in range(count):
        copy, order = permuted(base, seed=i)
        where = np.empty_like(order)
        where[order] = np.arange(len(order))
        write_off(root / "off" / f"ball_{i}.off", copy)
        write_list(root / "corres" / f"ball_{i}.vts", where + 1)
    return root


def nearest(source: Mesh, target: Mesh, config: Any, *, progress: Any) -> FakeAnswer:
    """Match by the nearest vertex in space: right for shuffled copies."""
    p2p_21 = cKDTree(source.vertices).query(target.vertices)[1]
    p2p_12 = cKDTree(target.vertices).query(source.vertices)[1]
    return FakeAnswer(p2p_21, p2p_12)


def noisy(source: Mesh, target: Mesh, config: Any, *, progress: Any) -> FakeAnswer:
    """Match by the nearest vertex, a tenth of the vertices wrong, and take a little while."""
    time.sleep(0.05)
    p2p_21 = cKDTree(source.vertices).query(target.vertices)[1]
    seed = int(abs(source.vertices[0, 0]) * 1e6)
    p2p_21[::10] = np.random.default_rng(seed).integers(source.n_vertices, size=len(p2p_21[::10]))
    return FakeAnswer(p2p_21)


def troubled(source: Mesh, target: Mesh, config: Any, *, progress: Any) -> FakeAnswer:
    """Fail in a way that the target's name says, else match by the nearest vertex."""
    if target.name == "ball_1":
        raise KeyError("lost")
    if target.name == "ball_2":
        os.kill(os.getpid(), signal.SIGKILL)
    if target.name == "ball_3":
        time.sleep(60)
    if target.name == "ball_4":
        return FakeAnswer(np.zeros(3, np.int64))
    return nearest(source, target, config, progress=progress)
