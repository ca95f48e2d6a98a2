"""From images of held-out objects to objects: the guess alone, the teacher, and its students.

The guess is what a network trained by regression says of an image, decoded without any flow: a
teacher that is not better than it is not worth its steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from scipy.spatial import KDTree
from torch import Tensor

from apps.bench.objects_samples import finite_mesh, true_meshes, visible_surface
from geo3d.config import require, require_at_least
from geo3d.errors import ConfigError
from geo3d.files import asset
from geo3d.mesh.mesh import Mesh
from geo3d.mesh.sampling import cell_overlap, compare_points
from geo3d.progress import ProgressCallback, ignore_progress, tell_each
from scenes.objects.lifting import LiftingEncoder
from scenes.objects.models import load_model
from scenes.objects.pipeline import GenerateConfig, Pipeline, load_pipeline
from scenes.objects.pipeline_folder import encoder_path, is_own_encoder, read_pipeline
from scenes.objects.samplers import SamplerConfig
from scenes.objects.small.autoencoders import structure_latents, surface_points
from scenes.objects.small.cells import COARSE, CellObject, read_cells
from scenes.objects.sparse import SparseTensor
from scenes.objects.whole import closed_shell

Row = dict[str, Any]
Made = tuple[Mesh | None, np.ndarray]
"""A mesh, z up, and the cells (n, 3) it was decoded from."""


_GUESSES = ("guess", "guess true camera", "guess true cells", "guess true both")


@dataclass(frozen=True)
class ImagesConfig:
    """What is made of what."""

    model: str = ""
    """Pipeline folder; the shipped one by default."""
    cells: str = ""
    """Folder of cells of objects that nothing was trained on; the first view of each is taken."""
    objects: int = 200
    """The first ones."""
    makers: tuple[str, ...] = ("teacher", "few 1", "few 2", "student 1", "student 2")
    """teacher, or teacher with a guidance scale; few (the teacher) and student with a number of
    steps; guess, where the pipeline's image encoder makes one, and with "true camera", "true cells"
    or "true both" in their place."""
    threshold: float = 0.02
    """Of the F-score; the longest side of an object is 1."""
    points: int = 10_000
    """On each surface."""

    def __post_init__(self) -> None:
        require_at_least(self, 1, "objects points")
        guesses = {name for name in self.makers if name.startswith("guess")}
        require(guesses <= set(_GUESSES), "makers", f"of guesses: {', '.join(_GUESSES)}")


def bench_images(config: ImagesConfig, progress: ProgressCallback = ignore_progress) -> list[Row]:
    """Return a row per maker.

    Raises:
        InputError: ``cells.none``.
        FileFormatError: ``cells.bad_file``.
        CheckpointError: as `load_pipeline`.
        ConfigError: ``images.no_guess``.
    """
    objects = read_cells(config.cells)[: config.objects]
    truth = [visible_surface(mesh, config.points)[0] for mesh in true_meshes(objects)]
    rows = []
    for name in config.makers:
        make = _maker(config.model or asset("objects/pipeline"), name)
        numbers = []
        for i, item in enumerate(tell_each(objects, progress, name)):
            numbers.append(_measured(make(item, i), item, truth[i], config))
        rows.append({"made by": name, "objects": len(objects), **_summary(numbers)})
    return rows


def _maker(folder: str | Path, name: str) -> Callable[[CellObject, int], Made]:
    kind, _, number = name.partition(" ")
    if kind == "guess":
        pipeline = load_pipeline(folder)
        path = encoder_path(folder, read_pipeline(folder))
        encoder = load_model(path) if is_own_encoder(path) else None
        if not isinstance(encoder, LiftingEncoder):
            raise ConfigError(
                "images.no_guess",
                f"The image encoder of {folder} makes no guess of the object.",
                "Leave the guess out of makers.",
            )
        told = number.removeprefix("true ")
        true = told in ("camera", "both"), told in ("cells", "both")
        return lambda item, seed: guessed(pipeline, encoder, item, *true)
    pipeline = load_pipeline(folder, variant="student" if kind == "student" else "pipeline")
    structure, latent = pipeline.samplers
    if number:
        how = {"guidance_scale": float(number)} if kind == "teacher" else _few(int(number))
        structure, latent = replace(structure, **how), replace(latent, **how)
    return lambda item, seed: _generated(pipeline, (structure, latent), item, seed)


def _few(steps: int) -> dict[str, Any]:
    return {"steps": steps, "rescale_t": 1.0}


@torch.no_grad()
def guessed(
    pipeline: Pipeline,
    encoder: LiftingEncoder,
    item: CellObject,
    true_camera: bool = False,
    true_cells: bool = False,
) -> Made:
    """Return the encoder's guess, decoded as the pipeline decodes what it samples, with the camera
    it sees by and its cells replaced by the truth where asked."""
    camera = torch.from_numpy(item.cameras[:1])
    guess = encoder.guess(_pixels(item), camera, torch.full((1,), float(true_camera)))
    cells = item.coords.astype(np.int64)
    if not true_cells:
        with pipeline.network("sparse_structure_decoder") as decoder:
            logits = decoder(structure_latents(guess.occupancy.sigmoid()))[0, 0]
        cells = closed_shell(np.argwhere(logits.numpy() > 0), COARSE)
    if not len(cells):
        return None, cells
    x, y, z = torch.from_numpy(cells).long().T
    feats = guess.latents[0, :, x, y, z].T * pipeline.std + pipeline.mean
    latent = SparseTensor(feats, F.pad(torch.from_numpy(cells).int(), (1, 0)))
    with pipeline.network("slat_decoder_mesh") as decoder:
        return finite_mesh(cast(Any, decoder)(latent, whole=True)[0]), cells


def _generated(
    pipeline: Pipeline, samplers: tuple[SamplerConfig, SamplerConfig], item: CellObject, seed: int
) -> Made:
    how = GenerateConfig(*samplers, outputs=("mesh",), on_empty="keep")
    picture = Image.fromarray(item.views[0])
    (made,) = pipeline.generate([picture], [seed], how, prepared=True).objects
    cells = np.zeros((0, 3), int) if made.latent is None else made.latent.coords[:, 1:].numpy()
    return finite_mesh(made.mesh), cells


def _pixels(item: CellObject) -> Float[Tensor, "1 3 p p"]:
    return torch.from_numpy(item.views[:1]).float().movedim(-1, 1) / 255


def _measured(
    made: Made, item: CellObject, truth: Float[np.ndarray, "p 3"], config: ImagesConfig
) -> tuple[float, float, float]:
    """Return the F-score, the overlap of cells, and the error of colours."""
    mesh, cells = made
    grid = np.zeros((COARSE,) * 3, bool)
    grid[tuple(cells.T)] = True
    overlap = cell_overlap(grid, item.occupancy())
    own = visible_surface(mesh, config.points)[0]
    f_score = compare_points(own, truth, config.threshold).f_score
    filled: Tensor = torch.from_numpy(item.filled)
    points, colors = (values[filled].numpy() for values in surface_points([item], filled))
    if mesh is None or mesh.vertex_colors is None:
        return f_score, overlap, float(colors.mean())
    nearest = KDTree(mesh.vertices).query(points / COARSE - 0.5)[1]
    return f_score, overlap, float(np.abs(mesh.vertex_colors[nearest, :3] / 255 - colors).mean())


def _summary(numbers: Sequence[tuple[float, float, float]]) -> Row:
    f_score, overlap, colors = np.array(numbers).T
    error = 1.96 * f_score.std() / len(f_score) ** 0.5
    return {
        "F-score": float(f_score.mean()),
        "+-": float(error),
        "median": float(np.median(f_score)),
        "IoU 16^3": float(overlap.mean()),
        "error of colours": float(colors.mean()),
    }
