"""What the small pipeline's autoencoders keep of an object, and how strongly to guide its teacher.

Held-out objects go through encoder and decoder, without any flow: what is lost there no sampler can
bring back.  The teacher then makes objects from their images with different guidance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.spatial import KDTree
from torch import Tensor

from apps.bench.objects import Grid
from apps.bench.objects_methods import ComparisonConfig
from apps.bench.objects_samples import (
    NUMBERS,
    Maker,
    Measured,
    compared,
    finite_mesh,
    make_meshes,
    measured,
    true_meshes,
)
from geo3d.errors import ConfigError
from geo3d.mesh.sampling import cell_overlap, compare_points
from geo3d.progress import ProgressCallback, ignore_progress, report, tell_each
from scenes.objects.models import load_model
from scenes.objects.small.autoencoders import cell_features, structure_latents, surface_points
from scenes.objects.small.cells import COARSE, CellObject, read_cells
from scenes.objects.small.train import PARTS, TEACHER_SAMPLER

_GRID_THRESHOLD = 1 / 64
_SCORES = ("structure: voxel IoU", "mesh: F-score at 1/64")
"""Quantities of which more is better; the others are errors."""
_CHUNK = 4
_SHOWN = ("f_score", "chamfer", "iou", "empty")
Row = dict[str, Any]


@dataclass(frozen=True)
class ReconstructionConfig:
    """What is measured, on what."""

    work: str = ""
    """Folder of the stages of `geo3d train objects`."""
    cells: str = ""
    """Folder of cells of objects that nothing was trained on."""
    objects: int = 40
    """The first ones of the cells."""
    guidance_scales: tuple[float, ...] = (1.0, 2.0, 3.0, 5.0)
    """Of the teacher; 1 is none."""
    threshold: float = 0.02
    """Of the F-score of what the teacher makes; the longest side of an object is 1."""
    points: int = 10_000
    """On each of its surfaces."""

    def __post_init__(self) -> None:
        if min(self.objects, self.points) < 1 or min(self.guidance_scales, default=1.0) < 1:
            raise ConfigError(
                "config.bad_value",
                "objects and points must be at least 1, guidance scales too.",
                "",
            )


@torch.no_grad()
def bench_reconstruction(
    config: ReconstructionConfig, progress: ProgressCallback = ignore_progress
) -> list[Row]:
    """Return a row per quantity: its mean, median and worst 5 % over the objects.

    Decoded meshes and Gaussians are compared with the surface's centroids in the fine cells (64^3).

    Raises:
        InputError: ``cells.none``.
        FileFormatError: ``cells.bad_file``.
        CheckpointError: those of reading the networks.
    """
    objects = read_cells(config.cells)[: config.objects]
    work = Path(config.work)
    decode = load_model(work / PARTS["sparse_structure_decoder"])
    latent = load_model(work / "latent" / "slat_encoder")
    to_mesh = load_model(work / PARTS["slat_decoder_mesh"])
    to_gaussians = load_model(work / PARTS["slat_decoder_gs"])
    found: dict[str, list[float]] = {}
    for item in tell_each(objects, progress, "reconstruction"):
        occupancy = item.occupancy()
        logits = decode(structure_latents(torch.from_numpy(occupancy)[None]))
        x = latent(cell_features([item]))
        numbers = {"structure: voxel IoU": cell_overlap(logits[0, 0].numpy() > 0, occupancy)}
        points, colors = _surface(item)
        numbers |= _of_mesh(to_mesh(x)[0], points, colors)
        plain = np.abs(colors.mean(0) - colors).mean()
        numbers["one mean colour: error of colours"] = float(plain)
        numbers |= _of_gaussians(to_gaussians(x)[0], points, colors)
        for name, value in numbers.items():
            found.setdefault(name, []).append(value)
    return [_row(name, values) for name, values in found.items()]


def bench_guidance(
    config: ReconstructionConfig, progress: ProgressCallback = ignore_progress
) -> list[Row]:
    """Return a row per guidance scale of the teacher, after that of the autoencoder.

    Raises:
        InputError: ``cells.none``.
        CheckpointError: those of reading the networks.
        ConfigError: errors of reading the recipes.
    """
    grid = Grid(ComparisonConfig(work=config.work, cells=config.cells, objects=config.objects))
    objects, stages = grid.objects, grid.stages
    true = measured(true_meshes(objects), stages.encoder, config.points)

    def row(name: str, made: Measured) -> Row:
        means = compared(made, true, config.threshold).numbers.mean(axis=0)
        numbers = dict(zip(NUMBERS, means.tolist(), strict=True))
        return {"made by": name, "objects": len(objects), **{key: numbers[key] for key in _SHOWN}}

    through = stages.decoded(objects)
    rows = [row("autoencoder", measured(through, stages.encoder, config.points))]
    for scale in config.guidance_scales:
        sampler = replace(TEACHER_SAMPLER, guidance_scale=scale)
        # a name of its own: the pipelines are kept by name and steps
        maker = Maker(f"guided {scale:g}", sampler.steps, {}, (sampler, sampler))
        meshes = []
        for start in range(0, len(objects), _CHUNK):
            report(progress, maker.name, start, len(objects))
            some = objects[start : start + _CHUNK]
            seeds = range(start, start + len(some))
            meshes += make_meshes(stages, maker, some, seeds)[0]
        report(progress, maker.name, len(objects), len(objects))
        rows.append(
            row(f"teacher, guidance {scale:g}", measured(meshes, stages.encoder, config.points))
        )
    return rows


def _of_mesh(made: Any, points: np.ndarray, colors: np.ndarray) -> dict[str, float]:
    mesh = finite_mesh(made)
    if mesh is None:
        return {"mesh: F-score at 1/64": 0.0}
    near = compare_points(mesh.vertices, points, _GRID_THRESHOLD)
    found = {"mesh: F-score at 1/64": near.f_score}
    if mesh.vertex_colors is not None:
        nearest = KDTree(mesh.vertices).query(points)[1]
        own = mesh.vertex_colors[nearest, :3] / 255
        found["mesh: error of colours"] = float(np.abs(own - colors).mean())
    return found


def _of_gaussians(made: Any, points: np.ndarray, colors: np.ndarray) -> dict[str, float]:
    distance, nearest = KDTree(made.unit_xyz.numpy() - 0.5).query(points)
    own = made.colors.reshape(-1, 3).numpy()[nearest]
    return {
        "Gaussians: distance of the surface": float(distance.mean()),
        "Gaussians: error of colours": float(np.abs(own - colors).mean()),
    }


def _surface(item: CellObject) -> tuple[Float[np.ndarray, "m 3"], Float[np.ndarray, "m 3"]]:
    """Return the centroid of the surface in every fine cell, in the box, and its colour."""
    filled: Tensor = torch.from_numpy(item.filled)
    points, colors = surface_points([item], filled)
    return points[filled].numpy() / COARSE - 0.5, colors[filled].numpy()


def _row(name: str, values: Sequence[float]) -> Row:
    is_error = name not in _SCORES
    worst: Mapping[str, float] = {
        "worst 5 %": float(np.percentile(values, 95 if is_error else 5)),
        "worst": max(values) if is_error else min(values),
    }
    mean, median = float(np.mean(values)), float(np.median(values))
    return {"what": name, "objects": len(values), "mean": mean, "median": median, **worst}
