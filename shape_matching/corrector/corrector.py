"""The corrector: a learned posterior of the functional map, given the shapes and a map nearby.

A search without learning ends near the right map, often with one part exchanged for another that
looks alike.  The corrector is a denoiser for such errors: a DiffusionNet sees both shapes in both
poses, as far as the present map can tell, beside curvature and wave kernel signatures; its features
and the present map itself give the new map by least squares,

    C = argmin  |C A_1 - A_2|^2 + sum_j b_j^2 |C e_j - C_0 e_j|^2,

so that it changes nothing where features say nothing.  It is trained on generated creatures and on
the search's own errors there (`shape_matching.corrector.training`); like the spectral prior it
knows no category and sees no rotation.

Notation as in `geo3d.spectral.fmap`; p samples, k size of the maps, both directions stacked (2, k,
k), 12 before 21; A (k, c) spectral coefficients of the features, C_0 the present map, b trust in it
per eigenfunction.

Source: ours.  Conditioning a denoiser on the observation follows conditional diffusion models; the
layer of least squares is that of deep functional maps (Litany et al. 2017, Donati et al. 2020).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from geo3d.config import require, require_at_least
from geo3d.errors import MeshError
from geo3d.spectral.fmap import nearest, solve_fmap
from shape_matching.networks import Network, NetworkKind
from shape_matching.prior.feature_network import (
    N_CURVATURES,
    DiffusionNet,
    Surface,
    canonical,
    descriptors,
    stack_surfaces,
    surface,
)
from shape_matching.search.prepare import Prepared

COORDINATE_SCALE = 3.0
"""Brings positions on shapes of unit area to values around 1."""


@dataclass(frozen=True)
class CorrectorConfig:
    """The shape of a corrector."""

    map_size: int = 40
    """Rows and columns of the maps."""
    points: int = 1000
    """Samples per shape on which features are computed."""
    eigenpairs: int = 96
    """Eigenpairs used for diffusion and for the wave kernel signatures."""
    signatures: int = 16
    """Wave kernel signatures per point."""
    width: int = 64
    """Channels inside the network."""
    blocks: int = 4
    """Blocks of the network."""
    features: int = 128
    """Features per point."""

    def __post_init__(self) -> None:
        require_at_least(self, 1, "map_size signatures width blocks features")
        require(self.eigenpairs >= self.map_size, "eigenpairs", "at least map_size")
        require(self.points >= 2 * self.eigenpairs, "points", "at least twice the eigenpairs")


@dataclass(frozen=True, eq=False)
class View:
    """What the corrector knows of one shape."""

    surface: Surface
    descriptors: Float[Tensor, "p d"]
    """Curvatures and wave kernel signatures."""
    positions: Float[Tensor, "k 3"]
    """Spectral coefficients of the positions."""


class Corrector(Network):
    """Turns maps into better ones; see the module."""

    config: CorrectorConfig

    def __init__(
        self,
        config: CorrectorConfig,
        generator: torch.Generator | None = None,
        info: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(config, info)
        channels = 6 + N_CURVATURES + config.signatures
        self.network = DiffusionNet(
            channels, config.features, config.width, config.blocks, generator=generator
        )
        self.log_trust = nn.Parameter(torch.zeros(config.map_size))

    def forward(
        self,
        fmaps: Float[Tensor, "2 k k"],
        one: View,
        two: View,
        turn: Float[Tensor, "3 3"] | None = None,
    ) -> Float[Tensor, "2 k k"]:
        """Return the corrected maps of both directions.

        Args:
            turn: an orthogonal matrix applied to all positions, to learn that it does not matter.
        """
        both = stack_surfaces([one.surface, two.surface])
        values = self._inputs(fmaps, one, two, both.evecs, turn)
        features = self.network(values, both)
        wide = torch.float32 if features.device.type == "mps" else torch.float64
        coefficients = (both.pull[:, : self.config.map_size] @ features).to(wide)
        trust = torch.diag_embed(self.log_trust.exp().to(wide))
        source = torch.cat([coefficients, trust.expand(2, -1, -1)], dim=2)
        target = torch.cat([coefficients.flip(0), fmaps.to(wide) @ trust], dim=2)
        return solve_fmap(source, target).float()

    def _inputs(
        self,
        fmaps: Float[Tensor, "2 k k"],
        one: View,
        two: View,
        evecs: Float[Tensor, "2 p e"],
        turn: Float[Tensor, "3 3"] | None,
    ) -> Float[Tensor, "2 p c"]:
        first = canonical(one.positions)
        carried = fmaps[0] @ first
        second = two.positions @ _rotation(two.positions, carried)
        both = torch.stack(
            [torch.cat([first, fmaps[1] @ second], 1), torch.cat([carried, second], 1)]
        )
        coordinates = evecs[:, :, : both.shape[1]] @ both
        if turn is not None:
            coordinates = (coordinates.unflatten(2, (2, 3)) @ turn).flatten(2)
        seen = torch.stack([one.descriptors, two.descriptors])
        return torch.cat([COORDINATE_SCALE * coordinates, seen], dim=2)


def view(shape: Prepared, config: CorrectorConfig) -> View:
    """Return what a corrector of this configuration sees of ``shape``.

    Raises:
        MeshError: ``corrector.too_small`` with too few vertices, ``corrector.no_surface`` for
            point clouds, of which it saw none when it was trained.
    """
    if shape.mesh.is_point_cloud:
        raise MeshError(
            "corrector.no_surface",
            f"{shape.mesh.name} is a point cloud; the corrector needs a surface.",
            "Maps of point clouds are refined without it.",
        )
    if len(shape.samples) < config.points or shape.basis.k < config.eigenpairs:
        raise MeshError(
            "corrector.too_small",
            f"{shape.mesh.name} has {len(shape.samples)} samples and {shape.basis.k} eigenpairs; "
            f"the corrector needs {config.points} and {config.eigenpairs}.",
            "Subdivide the mesh.",
        )
    return View(
        surface(shape, config.eigenpairs, config.points),
        descriptors(shape, config.eigenpairs, config.signatures, config.points),
        shape.positions[: config.map_size],
    )


@torch.no_grad()
def corrected(
    fmap_12: Float[Tensor, "m m"], one: Prepared, two: Prepared, corrector: Corrector
) -> Float[Tensor, "k k"]:
    """Return the corrector's map for a pair whose present map is ``fmap_12``.

    Raises:
        MeshError: ``corrector.too_small``, ``corrector.no_surface``.
    """
    k = corrector.config.map_size
    views = view(one, corrector.config), view(two, corrector.config)
    fmaps = torch.stack([fmap_12[:k, :k], reverse(fmap_12, one, two)[:k, :k]])
    return corrector(fmaps, *views)[0]


def reverse(
    fmap_12: Float[Tensor, "k2 k1"], one: Prepared, two: Prepared
) -> Float[Tensor, "k1 k2"]:
    """Return the functional map of the other direction, by the vertex map that 12 implies."""
    k2, k1 = fmap_12.shape
    p2p_12 = nearest(one.basis.evecs[:, :k1] @ fmap_12.T, two.basis.evecs[:, :k2])
    return one.basis.project(two.basis.evecs[p2p_12, :k2])[:k1]


def _rotation(
    positions: Float[Tensor, "k 3"], wanted: Float[Tensor, "k 3"]
) -> Float[Tensor, "3 3"]:
    """Return R orthogonal, maybe a reflection, with positions R closest to ``wanted``."""
    u, _, vt = torch.linalg.svd((positions[1:].T @ wanted[1:]).double())
    return (u @ vt).to(positions)


CORRECTOR = NetworkKind("corrector", "corrector.not_a_corrector", CorrectorConfig, Corrector)
