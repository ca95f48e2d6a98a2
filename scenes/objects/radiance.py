"""Radiance fields as decoded from voxels: products of small vectors along the three axes.

Notation: n voxels, r components (rank), d samples along an axis.

Source: Gao et al., "Strivec: Sparse Tri-Vector Radiance Fields" (2023), as used by TRELLIS (2024).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from scenes.objects.sparse import SparseTensor


@dataclass(frozen=True)
class RadianceConfig:
    """Size of a voxel's field; the defaults are the published ones."""

    rank: int = 16
    """Components."""
    dim: int = 8
    """Samples along an axis of the voxel."""

    @classmethod
    def from_published(cls, settings: Mapping[str, Any]) -> RadianceConfig:
        """Read the ``representation_config`` of a published model file; {} gives the defaults."""
        return cls(**{key: settings[key] for key in ("rank", "dim") if key in settings})

    @property
    def channels(self) -> int:
        """Features per voxel."""
        return self.rank * (3 * self.dim + 1 + 3)


@dataclass(frozen=True)
class RadianceField:
    """The fields of one item's voxels."""

    position: Float[Tensor, "n 3"]
    """Centres of the voxels in [0, 1]^3."""
    depth: UInt8[Tensor, "n 1"]
    """Level of the voxels in an octree over the cube."""
    trivec: Float[Tensor, "n r 3 d"]
    """Samples of each component's three vectors."""
    density: Float[Tensor, "n r"]
    """Weight of each component in the density."""
    features_dc: Float[Tensor, "n r 1 3"]
    """Weight of each component in the colour's constant spherical harmonic."""


def split_radiance(
    raw: SparseTensor, config: RadianceConfig, resolution: int
) -> list[RadianceField]:
    """Return the field of each item from the features of its voxels."""
    rank, dim = config.rank, config.dim
    trivec, density, color = raw.feats.split([rank * 3 * dim, rank, rank * 3], dim=1)
    centres = (raw.coords[:, 1:].to(raw.dtype) + 0.5) / resolution
    level = torch.full((len(raw), 1), round(math.log2(resolution)), dtype=torch.uint8)
    return [
        RadianceField(
            position=centres[rows],
            depth=level[rows].to(raw.device),
            trivec=trivec[rows].unflatten(1, (rank, 3, dim)) + 1,
            density=density[rows],
            features_dc=color[rows].unflatten(1, (rank, 1, 3)),
        )
        for rows in raw.layout
    ]
