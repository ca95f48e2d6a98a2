"""A network that tells where on an animal's body each point of a shape lies.

Shapes of different kinds have few distances in common, and no search by distances finds the map
between a bird and a dog.  What they have in common is a body plan.  A DiffusionNet sees curvature
and wave kernel signatures of one shape, in no pose and no rotation, and says for each point its
place on one fixed creature: coordinates on its surface at rest.  Left and right are told apart by
the side of the surface that faces outwards, which DiffusionNet's gradients see.  Two shapes whose
places are known are matched by nearest places.

It is trained on generated bipeds, quadrupeds and birds (`shape_matching.anatomy.training`).

Notation: p points, k eigenpairs, d descriptors.

Source: ours.  Canonical coordinates as a common ground of shapes: Taylor et al. 2012 (the Vitruvian
manifold); the network: Sharp et al. 2022 (DiffusionNet).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from geo3d.config import require, require_at_least
from shape_matching.networks import Network, NetworkKind
from shape_matching.prior.feature_network import (
    N_CURVATURES,
    DiffusionNet,
    Surface,
    descriptors,
    surface,
)
from shape_matching.search.prepare import Prepared


@dataclass(frozen=True)
class AnatomyConfig:
    """The shape of a network."""

    points: int = 500
    """Samples per shape on which it is trained."""
    eigenpairs: int = 64
    """Eigenpairs used for diffusion and for the wave kernel signatures."""
    signatures: int = 16
    """Wave kernel signatures per point."""
    width: int = 64
    """Channels inside the network."""
    blocks: int = 4
    """Blocks of the network."""

    def __post_init__(self) -> None:
        require_at_least(self, 1, "signatures width blocks eigenpairs")
        require(self.points >= 2 * self.eigenpairs, "points", "at least twice the eigenpairs")


@dataclass(frozen=True, eq=False)
class View:
    """What the network sees of one shape."""

    surface: Surface
    descriptors: Float[Tensor, "p d"]
    """Curvatures and wave kernel signatures."""


class Anatomy(Network):
    """Places of points; see the module."""

    config: AnatomyConfig

    def __init__(
        self,
        config: AnatomyConfig,
        generator: torch.Generator | None = None,
        info: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(config, info)
        channels = N_CURVATURES + config.signatures
        self.network = DiffusionNet(channels, 3, config.width, config.blocks, generator=generator)

    def forward(
        self, descriptors: Float[Tensor, "*b p d"], surface: Surface
    ) -> Float[Tensor, "*b p 3"]:
        """Return places, in units of the root of the fixed creature's area."""
        return self.network(descriptors, surface)


def can_see(shape: Prepared, config: AnatomyConfig) -> bool:
    """Return whether a shape has enough eigenfunctions for the network."""
    return shape.basis.k >= config.eigenpairs


def view(shape: Prepared, config: AnatomyConfig, n_points: int | None) -> View:
    """Return what a network of this configuration sees of a shape that it `can_see`.

    Args:
        n_points: leading samples; None means all vertices.
    """
    seen = descriptors(shape, config.eigenpairs, config.signatures, n_points)
    return View(surface(shape, config.eigenpairs, n_points), seen)


@torch.no_grad()
def places(shape: Prepared, anatomy: Anatomy) -> Float[Tensor, "v 3"]:
    """Return the places of all vertices of a shape that the network `can_see`."""
    seen = view(shape, anatomy.config, None)
    return anatomy(seen.descriptors, seen.surface)


ANATOMY = NetworkKind("anatomy", "anatomy.not_a_network", AnatomyConfig, Anatomy)
