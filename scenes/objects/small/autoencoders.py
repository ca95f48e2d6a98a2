"""The decoders of the small pipeline as training tasks, against what is known exactly.

Latents need no training: those of structures are the occupancy, those of cells a linear code
(`scenes.objects.linear_code`).
No rendering and no extraction: the mesh decoder is told the signed distance at every corner, and
colour and normal of every fine cell that the surface passes; displacements and weights of the
extraction stay 0, as the output layer begins.  Gaussians are told where the fine cells' surface is.

Notation: b objects, n cells of all of them, f = 64 n fine cubes (cell after cell, in the order of
the decoder's rows), m fine cells with surface, k Gaussians per cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from scenes.objects.decoders import SLatGaussianDecoder, SLatMeshDecoder
from scenes.objects.embeddings import patchify
from scenes.objects.flexicubes_tables import CORNERS
from scenes.objects.lifting import Guess, LiftingEncoder
from scenes.objects.linear_code import LinearSLatEncoder
from scenes.objects.small.cells import CHILDREN, COARSE, CellObject
from scenes.objects.small.settings import (
    GAUSSIAN_DECODER,
    MESH_DECODER,
    STRUCTURE_DECODER,
    STRUCTURE_EDGE,
)
from scenes.objects.sparse import SparseTensor
from scenes.objects.ss_vae import SparseStructureDecoder


class StructureTask:
    """The decoder of structures, whose latents are the occupancy itself, 2^3 cells a latent.

    It learns to read latents that are not clean, as samples are not, and with an image encoder that
    has not learned the objects, the probabilities that it guesses.
    """

    def __init__(self, objects: Sequence[CellObject], image: LiftingEncoder | None = None) -> None:
        self.names = [item.name for item in objects]
        self.objects, self.image = objects, image
        self.grids = torch.from_numpy(np.stack([item.occupancy() for item in objects]))
        self.decoder = SparseStructureDecoder(STRUCTURE_DECODER)
        self.network = nn.ModuleDict({"decoder": self.decoder})

    def loss(self, items: list[int], generator: torch.Generator) -> dict[str, Tensor]:
        """Return cross entropy and the Dice loss."""
        truth = self.grids[items][:, None].float()
        told = truth[:, 0].clone()
        if self.image is not None:
            for row in (torch.rand(len(items), generator=generator) < _GUESSED).nonzero():
                item = self.objects[items[int(row)]]
                view = int(torch.randint(len(item.views), (1,), generator=generator))
                told[row] = _guess(self.image, item, view).occupancy.sigmoid()
        clean = structure_latents(told)
        spread = _LARGEST_NOISE * torch.rand((len(items), 1, 1, 1, 1), generator=generator)
        logits = self.decoder(clean + spread * torch.randn(clean.shape, generator=generator))
        missed = torch.tensor(_MISSED)
        return {
            "entropy": F.binary_cross_entropy_with_logits(logits, truth, pos_weight=missed),
            "dice": dice_loss(logits, truth),
        }


def structure_latents(occupancy: Tensor) -> Float[Tensor, "b 8 r r r"]:
    """Return occupancy, or its probability, (b, 2r, 2r, 2r) as latents: in [-1, 1], the cells of
    2^3 as channels."""
    return patchify(2 * occupancy[:, None].float() - 1, COARSE // STRUCTURE_EDGE)


def cell_features(objects: Sequence[CellObject]) -> SparseTensor:
    """Return what the latent encoder sees, as a batch."""
    feats = torch.from_numpy(np.concatenate([item.features() for item in objects]))
    return SparseTensor(feats, cell_coords([item.coords for item in objects]), len(objects))


def cell_coords(coords: Sequence[np.ndarray]) -> Tensor:
    """Return (item, x, y, z) of the cells of several objects."""
    rows = [
        np.concatenate([np.full((len(own), 1), i), own], axis=1) for i, own in enumerate(coords)
    ]
    return torch.from_numpy(np.concatenate(rows).astype(np.int32))


def corner_distances(objects: Sequence[CellObject]) -> Float[Tensor, "n 125"]:
    """Return the signed distances at the fine corners, 1 being where they are cut off."""
    values = np.concatenate([item.distances for item in objects])
    return torch.from_numpy(values).float() / 127


def dice_loss(logits: Tensor, truth: Tensor) -> Float[Tensor, ""]:
    """Return 1 - 2 |A B| / (|A| + |B|) of probabilities, the mean over items."""
    share = logits.sigmoid().flatten(1)
    truth = truth.flatten(1)
    overlap = 2 * (share * truth).sum(1) + 1
    return (1 - overlap / (share.sum(1) + truth.sum(1) + 1)).mean()


_LARGEST_NOISE = 0.6
"""Of structure latents, which are -1 or 1."""
_GUESSED = 0.75
"""Share of the structures that are read as guesses, where there is an image encoder."""
_MISSED = 2.0
"""Weight of a cell that is missed, over one too many: gaps tear the surface, while of a wall of two
cells the mesh decoder finds the surface."""
_LATENT_NOISE = 0.1
"""Of latents of cells, which have mean square 1."""
_OPACITY = 0.95
_NEAR = 0.5
"""Corners nearer than this share of the reach weigh more."""


@torch.no_grad()
def _guess(image: LiftingEncoder, item: CellObject, view: int) -> Guess:
    """Return what is guessed from a view by its true camera: what is seen is then in place."""
    pixels = torch.from_numpy(item.views[view])[None].float().movedim(-1, 1) / 255
    camera = torch.from_numpy(item.cameras[view])[None]
    return image.guess(pixels, camera, torch.ones(1))


class Encoded:
    """The latents of objects, each computed once, and blurred a little when they are used."""

    def __init__(self, objects: Sequence[CellObject], encoder: LinearSLatEncoder) -> None:
        self.objects, self.encoder = list(objects), encoder
        self._kept: dict[int, Tensor] = {}

    @torch.no_grad()
    def latents(self, items: Sequence[int], generator: torch.Generator) -> SparseTensor:
        """Return latents with some noise, as decoders meet them."""
        feats = []
        for i in items:
            if i not in self._kept:
                self._kept[i] = self.encoder(cell_features([self.objects[i]])).feats
            noise = torch.randn(self._kept[i].shape, generator=generator)
            feats.append(self._kept[i] + _LATENT_NOISE * noise)
        coords = cell_coords([self.objects[i].coords for i in items])
        return SparseTensor(torch.cat(feats), coords, len(items))


class MeshTask:
    """Latents to signed distances, colours and normals at the corners of fine cubes."""

    def __init__(self, objects: Sequence[CellObject], encoder: LinearSLatEncoder) -> None:
        self.encoded = Encoded(objects, encoder)
        self.names = [item.name for item in objects]
        self.decoder = SLatMeshDecoder(MESH_DECODER)
        self.network = nn.ModuleDict({"decoder": self.decoder})

    def loss(self, items: list[int], generator: torch.Generator) -> dict[str, Tensor]:
        """Return the errors of distances, of colours and of normals."""
        objects = [self.encoded.objects[i] for i in items]
        raw = self.decoder.raw(self.encoded.latents(items, generator)).feats
        # extraction takes 1 / resolution off
        shift = 1 / self.decoder.mesh_resolution
        truth = corner_distances(objects)[:, fine_corners()].flatten(0, 1)
        near = 1.0 + 3.0 * (truth.abs() < _NEAR)
        filled = torch.from_numpy(np.concatenate([item.filled for item in objects]))[
            :, fine_order()
        ].flatten()
        looks = raw[filled][:, -48:].sigmoid().unflatten(1, (8, 6)).mean(1)
        target = _looks(objects)
        return {
            "distance": (near * (raw[:, :8] - shift - truth).abs()).mean(),
            "color": 2 * F.l1_loss(looks[:, :3], target[:, :3]),
            "normal": 0.3 * F.l1_loss(looks[:, 3:], target[:, 3:]),
        }


class GaussianTask:
    """Latents to Gaussians on the surface."""

    def __init__(self, objects: Sequence[CellObject], encoder: LinearSLatEncoder) -> None:
        self.encoded = Encoded(objects, encoder)
        self.names = [item.name for item in objects]
        self.decoder = SLatGaussianDecoder(GAUSSIAN_DECODER)
        self.network = nn.ModuleDict({"decoder": self.decoder})

    def loss(self, items: list[int], generator: torch.Generator) -> dict[str, Tensor]:
        """Return distances both ways within each cell, and errors of colour, size and opacity."""
        objects = [self.encoded.objects[i] for i in items]
        count = self.decoder.shape.num_gaussians
        made = self.decoder(self.encoded.latents(items, generator))
        centres = torch.cat([g.unit_xyz for g in made]).unflatten(0, (-1, count)) * COARSE
        colors = torch.cat([g.colors for g in made]).unflatten(0, (-1, count))
        filled = torch.from_numpy(np.concatenate([item.filled for item in objects]))
        points, truth = surface_points(objects, filled)
        square = (centres[:, :, None] - points[:, None]).square().sum(3)
        far = square.masked_fill(~filled[:, None], 1e3)
        to_surface, nearest = far.min(2)
        to_gaussian = square.min(1).values[filled]
        meant = truth.gather(1, nearest[..., None].expand(-1, -1, 3))
        scaling = torch.cat([g.scaling for g in made])
        opacity = torch.cat([g.opacity for g in made])
        # a cell's Gaussians cover its share of surface
        width = (filled.sum(1) / count).clamp(min=0.25).sqrt() * 0.6 / (COARSE * CHILDREN)
        spread = scaling.unflatten(0, (-1, count)) / width[:, None, None]
        return {
            "to_surface": 10 * to_surface.mean(),
            "to_gaussian": 10 * to_gaussian.mean(),
            "color": (colors - meant).abs().mean(),
            "size": 0.05 * spread.log().abs().mean(),
            "opacity": 0.05 * (opacity - _OPACITY).abs().mean(),
        }


@lru_cache(maxsize=1)
def fine_order() -> Int[Tensor, " 64"]:
    """Return the child (C order in 4^3) of each of a cell's rows after two subdivisions."""
    return torch.from_numpy(np.ravel_multi_index(tuple(_places().T), (CHILDREN,) * 3))


@lru_cache(maxsize=1)
def fine_corners() -> Int[Tensor, "64 8"]:
    """Return the corner (C order in 5^3) at each corner of the cubes of those rows."""
    corners = _places()[:, None] + np.array(CORNERS)
    numbers = np.ravel_multi_index(tuple(np.moveaxis(corners, 2, 0)), (CHILDREN + 1,) * 3)
    return torch.from_numpy(numbers)


def surface_points(
    objects: Sequence[CellObject], filled: Tensor
) -> tuple[Float[Tensor, "n 64 3"], Float[Tensor, "n 64 3"]]:
    """Return the surface's centroid in every fine cell, in cells, and its colour."""
    cell, child = filled.nonzero(as_tuple=True)
    offsets = torch.from_numpy(np.concatenate([item.offsets for item in objects])).float() / 254
    coords = torch.from_numpy(np.concatenate([item.coords for item in objects])).float()
    place = torch.stack([child // 16, child // 4 % 4, child % 4], dim=1)
    points = filled.new_zeros((*filled.shape, 3), dtype=torch.float32)
    points[cell, child] = coords[cell] + (place + 0.5 + offsets) / CHILDREN
    colors = torch.zeros_like(points)
    own = torch.from_numpy(np.concatenate([item.colors for item in objects])).float()
    colors[cell, child] = own / 255
    return points, colors


def _looks(objects: Sequence[CellObject]) -> Float[Tensor, "m 6"]:
    """Return colour and normal of the filled fine cells in the decoder's order, in [0, 1]."""
    parts = []
    for item in objects:
        values = np.zeros((*item.filled.shape, 6), np.float32)
        own = np.concatenate([item.colors / 255, item.normals / 254 + 0.5], axis=1)
        values[item.filled] = own
        order = fine_order().numpy()
        parts.append(values[:, order][item.filled[:, order]])
    return torch.from_numpy(np.concatenate(parts))


def _places() -> np.ndarray:
    """Return (x, y, z) in 4^3 of each row: children of children, each in C order."""
    steps = np.stack(np.meshgrid(*[np.arange(2)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    return (2 * steps[:, None] + steps).reshape(-1, 3)
