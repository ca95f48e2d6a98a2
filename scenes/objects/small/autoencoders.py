"""The autoencoders of the small pipeline, of its structures and of its latents, as training tasks.

Notation: b objects, n cells of all of them, c channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from scenes.objects.decoders import SLatTrunk
from scenes.objects.slat_encoder import SLatEncoder
from scenes.objects.small.cells import CHILDREN, CellObject
from scenes.objects.small.settings import (
    LATENT_ENCODER,
    PROBE,
    STRUCTURE_DECODER,
    STRUCTURE_ENCODER,
)
from scenes.objects.sparse import SparseTensor
from scenes.objects.ss_vae import SparseStructureDecoder, SparseStructureEncoder

_CORNERS = (CHILDREN + 1) ** 3
_MEANS = 9


class StructureTask:
    """Occupancy grids to latents and back."""

    def __init__(self, objects: Sequence[CellObject], divergence_weight: float) -> None:
        self.names = [item.name for item in objects]
        self.grids = torch.from_numpy(np.stack([item.occupancy() for item in objects]))
        self.weight = divergence_weight
        self.encoder = SparseStructureEncoder(STRUCTURE_ENCODER)
        self.decoder = SparseStructureDecoder(STRUCTURE_DECODER)
        self.network = nn.ModuleDict({"encoder": self.encoder, "decoder": self.decoder})

    def loss(self, items: list[int], generator: torch.Generator) -> dict[str, Tensor]:
        """Return cross entropy, the Dice loss, and the divergence."""
        truth = self.grids[items][:, None].float()
        posterior = self.encoder(truth)
        logits = self.decoder(posterior.sample(generator))
        return {
            "entropy": F.binary_cross_entropy_with_logits(logits, truth),
            "dice": dice_loss(logits, truth),
            "divergence": self.weight * divergence(posterior.mean, posterior.logvar),
        }


class LatentTask:
    """Features of cells to latents, from which a probe reads shape and looks."""

    def __init__(self, objects: Sequence[CellObject], divergence_weight: float) -> None:
        self.objects = list(objects)
        self.names = [item.name for item in objects]
        self.weight = divergence_weight
        self.encoder = SLatEncoder(LATENT_ENCODER)
        self.probe = Probe()
        self.network = nn.ModuleDict({"encoder": self.encoder, "probe": self.probe})

    def loss(self, items: list[int], generator: torch.Generator) -> dict[str, Tensor]:
        """Return the errors of distances, colours and other means, and the divergence."""
        objects = [self.objects[i] for i in items]
        x = cell_features(objects)
        mean, logvar = self.encoder.distribution(x)
        noise = torch.randn(mean.shape, generator=generator)
        read = self.probe(x.replace(mean + torch.exp(0.5 * logvar) * noise)).feats
        truth = corner_distances(objects)
        # what decides where the surface is lies near it
        near = 1.0 + 3.0 * (truth.abs() < 0.5)
        return {
            "distance": (near * (read[:, :_CORNERS] - truth).abs()).mean(),
            "color": 2 * F.l1_loss(read[:, _CORNERS:][:, :3], x.feats[:, :3]),
            "means": F.mse_loss(read[:, _CORNERS + 3 :], x.feats[:, 3:_MEANS]),
            "divergence": self.weight * divergence(mean, logvar),
        }


class Probe(SLatTrunk):
    """Latents to the signed distances at the corners within a cell, and its mean features."""

    def __init__(self) -> None:
        super().__init__(PROBE)
        self.out_layer = nn.Linear(PROBE.model_channels, _CORNERS + _MEANS)

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Read every cell."""
        h = self.trunk(x).feats
        return x.replace(self.out_layer(F.layer_norm(h, h.shape[-1:])))


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


def divergence(mean: Tensor, logvar: Tensor) -> Float[Tensor, ""]:
    """Return the Kullback-Leibler divergence from unit normals, per channel."""
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
