"""Objects made by teacher and students from images nobody was trained on, and their measures.

A *maker* is a way to make objects: the teacher, the teacher in few steps, a student.  All makers
start from the same noise for the same object and seed.  Samples are kept in files of a few objects,
so that an interrupted comparison goes on.

Points are taken on what is seen from outside, on truth and samples alike: from the surface in cells
of a 64^3 grid next to open air.  An object that did not come out is measured as one point in the
middle of the box, without cells, and its features are those of a black image.

Notation: k objects, p points, d features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import cast

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from geo3d.errors import CheckpointError, MeshError
from geo3d.files import atomic_path, sha256_file
from geo3d.mesh.mesh import Mesh
from geo3d.mesh.sampling import cell_overlap, compare_points, largest_piece, uniform_samples
from geo3d.npz import read_npz
from geo3d.render.cameras import orbit
from geo3d.synth.objects.generate import generate_object
from scenes.objects.condition import SmallImageEncoder
from scenes.objects.data.views import draw_views
from scenes.objects.data.voxels import RESOLUTION, coarser, visible_shell, voxelize
from scenes.objects.lifting import LiftingEncoder
from scenes.objects.models import load_model, read_description
from scenes.objects.pipeline import GenerateConfig, Pipeline
from scenes.objects.samplers import SamplerConfig
from scenes.objects.slat_mesh import ExtractedMesh
from scenes.objects.small.autoencoders import cell_features
from scenes.objects.small.cells import CellObject
from scenes.objects.small.train import PARTS

OwnEncoder = SmallImageEncoder | LiftingEncoder
AZIMUTHS = (0.6, 3.7)
"""Of the images whose features are compared, in radians."""
_TRIES = 4
_MOST_BYTES = 1 << 30
_NEEDED = (
    "sparse_structure_flow_model",
    "sparse_structure_decoder",
    "slat_flow_model",
    "slat_decoder_mesh",
)


@dataclass(frozen=True, eq=False)
class Measured:
    """Objects as they are compared."""

    points: Float[np.ndarray, "k p 3"]
    cells: Bool[np.ndarray, "k 32 32 32"]
    """Cells of a coarser grid that the visible surface touches."""
    features: Float[np.ndarray, "k d"]
    """Of `image_features`."""
    seconds: Float[np.ndarray, " k"]
    """To sample and decode, per object of a batch; 0 where nothing was made."""
    numbers: Float[np.ndarray, "k m"]
    """`NUMBERS` of each beside the truth; no columns before `compared`."""

    @property
    def is_empty(self) -> Bool[np.ndarray, " k"]:
        """Whether nothing came out."""
        return np.asarray(~self.cells.reshape(len(self.cells), -1).any(axis=1))


NUMBERS = ("empty", "largest_piece", "chamfer", "precision", "recall", "f_score", "iou", "seconds")
_ARRAYS = tuple(field.name for field in fields(Measured))


@dataclass(frozen=True)
class Maker:
    """A way to make objects."""

    name: str
    steps: int
    flows: Mapping[str, Path]
    """Model files of the networks that take the place of the teacher's."""
    samplers: tuple[SamplerConfig, ...]
    """Of the structure and of the latents."""

    @property
    def evaluations(self) -> int:
        """Network evaluations of both stages."""
        return sum(sampler.evaluations() for sampler in self.samplers)


class Stages:
    """The trained parts of the small pipeline in the folder of its stages."""

    def __init__(self, work: str | Path, normalization: tuple[Sequence[float], Sequence[float]]):
        self.work, self.normalization = Path(work), normalization
        self._pipelines: dict[tuple[str, int], Pipeline] = {}

    @cached_property
    def networks(self) -> dict[str, nn.Module]:
        """The teacher's flows and the decoders."""
        return {key: load_model(self.work / PARTS[key]) for key in _NEEDED}

    @cached_property
    def encoder(self) -> OwnEncoder:
        """The network that reads images."""
        return cast(OwnEncoder, load_model(self.work / "picture" / "image_encoder"))

    def digests(self) -> dict[str, str]:
        """Return the hashes of the teacher's networks.

        Raises:
            CheckpointError: ``object_model.missing``.
        """
        for key in _NEEDED:
            read_description(self.work / PARTS[key])
        return {key: sha256_file(f"{self.work / PARTS[key]}.safetensors") for key in _NEEDED}

    @torch.no_grad()
    def tokens(self, objects: Sequence[CellObject]) -> Float[Tensor, "k l c"]:
        """Return the condition: the first image of each object."""
        views = np.stack([item.views[0] for item in objects])
        return self.encoder(torch.from_numpy(views).float().movedim(-1, 1) / 255)

    @torch.no_grad()
    def decoded(self, objects: Sequence[CellObject]) -> list[Mesh | None]:
        """Return the objects through encoder and decoder: the best that latents can tell."""
        encoder = load_model(self.work / "latent" / "slat_encoder")
        decoder = self.networks["slat_decoder_mesh"]
        return [finite_mesh(decoder(encoder(cell_features([item])))[0]) for item in objects]

    def pipeline(self, maker: Maker) -> Pipeline:
        """Return the pipeline of a maker; those of all makers share what they can."""
        key = (maker.name, maker.steps)
        if key not in self._pipelines:
            structure, latent = maker.samplers
            flows = {name: load_model(path) for name, path in maker.flows.items()}
            networks = {**self.networks, **flows}
            self._pipelines[key] = Pipeline(
                networks,
                self.encoder,
                (structure, latent),
                self.normalization,
                torso=torch.float32,
            )
        return self._pipelines[key]


def make_meshes(
    stages: Stages, maker: Maker, objects: Sequence[CellObject], noise_seeds: Sequence[int]
) -> tuple[list[Mesh | None], float]:
    """Return an object per image, None where none came out, and the seconds of one."""
    settings = GenerateConfig(outputs=("mesh",), on_empty="keep", batch=len(objects))
    tokens = stages.tokens(objects)
    made = stages.pipeline(maker).generate_from_tokens(tokens, noise_seeds, settings)
    meshes = [finite_mesh(item.mesh) for item in made.objects]
    seconds = sum(value for name, value in made.seconds.items() if name != "loading")
    return meshes, seconds / len(objects)


def finite_mesh(mesh: ExtractedMesh | None) -> Mesh | None:
    """Return the mesh; a student that went astray may leave none, or no numbers."""
    if mesh is None or not len(mesh.faces) or not bool(mesh.vertices.isfinite().all()):
        return None
    return mesh.to_mesh(y_up=False)


def measured(
    meshes: Sequence[Mesh | None],
    encoder: OwnEncoder,
    points: int,
    seconds: float = 0.0,
    choice: int = 0,
) -> Measured:
    """Return what is compared of objects; ``choice`` is the seed of the points."""
    surfaces = [visible_surface(mesh, points, choice) for mesh in meshes]
    return Measured(
        np.stack([found for found, _ in surfaces]),
        np.stack([cells for _, cells in surfaces]),
        np.stack([image_features(mesh, encoder) for mesh in meshes]),
        np.full(len(meshes), seconds, np.float32),
        np.zeros((len(meshes), 0)),
    )


def true_meshes(objects: Sequence[CellObject]) -> list[Mesh | None]:
    """Return the objects themselves, made again from kind and seed."""
    names = (item.name.rpartition("-") for item in objects)
    return [generate_object(kind, int(seed)).mesh for kind, _, seed in names]


def visible_surface(
    mesh: Mesh | None, count: int, seed: int = 0
) -> tuple[Float[np.ndarray, "p 3"], Bool[np.ndarray, "32 32 32"]]:
    """Return points on what is seen from outside, uniform by area, and the cells it touches."""
    nothing = np.zeros((count, 3), np.float32), np.zeros((RESOLUTION // 2,) * 3, bool)
    if mesh is None:
        return nothing
    inside = replace(mesh, vertices=np.clip(mesh.vertices, -0.5, 0.5))
    fine = visible_shell(voxelize(inside)).occupancy()
    if not fine.any():
        return nothing
    generator = np.random.default_rng(seed)
    try:
        tried = uniform_samples(inside, _TRIES * count, generator).points
    except MeshError:
        return nothing
    cell = np.clip(np.floor((tried + 0.5) * RESOLUTION).astype(int), 0, RESOLUTION - 1)
    seen = tried[fine[tuple(cell.T)]]
    if not len(seen):
        return nothing
    return np.resize(seen, (count, 3)).astype(np.float32), coarser(fine)


@torch.no_grad()
def image_features(mesh: Mesh | None, encoder: OwnEncoder) -> Float[np.ndarray, " d"]:
    """Return the mean token of each of two images by the small encoder, one after the other."""
    size = encoder.config.size
    pictures = np.zeros((len(AZIMUTHS), size, size, 4), np.uint8)
    if mesh is not None:
        pictures = draw_views(mesh, [orbit(mesh, a, up="z", size=size) for a in AZIMUTHS])
    values = pictures.astype(np.float32) / 255
    on_black = torch.from_numpy(values[..., :3] * values[..., 3:]).movedim(-1, 1)
    count = getattr(encoder.config, "picture_tokens", None)
    return encoder(on_black)[:, :count].mean(1).flatten().numpy()


def compared(made: Measured, true: Measured, threshold: float) -> Measured:
    """Return the objects with their numbers beside the truth."""
    rows = []
    for i, is_empty in enumerate(made.is_empty):
        near = compare_points(made.points[i], true.points[i], threshold)
        numbers = {
            "empty": float(is_empty),
            "largest_piece": largest_piece(made.cells[i]),
            "chamfer": near.chamfer,
            "precision": near.precision,
            "recall": near.recall,
            "f_score": near.f_score,
            "iou": cell_overlap(made.cells[i], true.cells[i]),
            "seconds": float(made.seconds[i]),
        }
        rows.append([numbers[name] for name in NUMBERS])
    return replace(made, numbers=np.array(rows))


def write_measured(path: Path, found: Measured) -> Path:
    """Write a file of `read_measured`, whole or not at all."""
    arrays = {name: getattr(found, name) for name in _ARRAYS}
    packed = np.packbits(found.cells.reshape(len(found.cells), -1), axis=1)
    arrays |= {"points": found.points.astype(np.float16), "cells": packed}
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        np.savez_compressed(stream, **arrays)
    return path


def read_measured(path: Path) -> Measured:
    """Read a file of `write_measured`.

    Raises:
        CheckpointError: ``comparison.bad_file``.
    """
    try:
        arrays = read_npz(path, _ARRAYS, _MOST_BYTES)
        side = RESOLUTION // 2
        cells = np.unpackbits(arrays["cells"], axis=1, count=side**3)
        return Measured(
            arrays["points"].astype(np.float32),
            cells.reshape(-1, side, side, side).astype(bool),
            arrays["features"],
            arrays["seconds"],
            arrays["numbers"],
        )
    except (OSError, ValueError, IndexError) as error:
        raise CheckpointError(
            "comparison.bad_file",
            f"{path} cannot be used: {error}.",
            "Delete it and give the command again; it is made anew.",
        ) from error
