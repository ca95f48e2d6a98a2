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
from functools import lru_cache
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from geo3d import checkpoints
from geo3d.config import config_from_dict, config_to_dict, require, require_at_least
from geo3d.errors import CheckpointError, ConfigError
from geo3d.files import asset
from geo3d.spectral.descriptors import unit_norm, wks
from shape_matching.prior.feature_network import DiffusionNet, Surface, surface
from shape_matching.search.prepare import Prepared

SHIPPED = "priors/anatomy.safetensors"
"""The network that comes with the package."""
N_CURVATURES = 3
CURVATURE_SCALE = 3.0
"""Brings curvatures of unit norm to values around 1."""


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


class Anatomy(nn.Module):
    """Places of points; see the module."""

    def __init__(
        self,
        config: AnatomyConfig,
        generator: torch.Generator | None = None,
        info: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.info = dict(info or {})
        """Where it comes from: training settings, data."""
        channels = N_CURVATURES + config.signatures
        self.network = DiffusionNet(channels, 3, config.width, config.blocks, generator=generator)

    def forward(
        self, descriptors: Float[Tensor, "*b p d"], surface: Surface
    ) -> Float[Tensor, "*b p 3"]:
        """Return places, in units of the root of the fixed creature's area."""
        return self.network(descriptors, surface)


def can_see(shape: Prepared, config: AnatomyConfig) -> bool:
    """Return whether a shape has what the network looks at: a surface and enough of it."""
    has_surface = shape.curvature is not None and shape.slopes is not None
    return has_surface and shape.basis.k >= config.eigenpairs


def view(shape: Prepared, config: AnatomyConfig, n_points: int | None) -> View:
    """Return what a network of this configuration sees of a shape that it `can_see`.

    Args:
        n_points: leading samples; None means all vertices.
    """
    assert shape.curvature is not None
    chosen = slice(None) if n_points is None else shape.samples[:n_points]
    basis = shape.basis.truncate(config.eigenpairs)
    signatures = unit_norm(wks(basis, config.signatures), basis.mass)[chosen]
    descriptors = torch.cat([CURVATURE_SCALE * shape.curvature[chosen], signatures], dim=1)
    return View(surface(shape, config.eigenpairs, n_points), descriptors)


@torch.no_grad()
def places(shape: Prepared, anatomy: Anatomy) -> Float[Tensor, "v 3"]:
    """Return the places of all vertices of a shape that the network `can_see`."""
    seen = view(shape, anatomy.config, None)
    return anatomy(seen.descriptors, seen.surface)


def load_anatomy(path: str | PathLike[str] | None = None, device: str = "cpu") -> Anatomy:
    """Read a network; None means the shipped one.  The last few are remembered.

    Raises:
        CheckpointError: ``checkpoint.missing``, ``checkpoint.damaged``, ``anatomy.not_a_network``.
        InputError: ``asset.missing`` when the shipped one is not there.
    """
    file = asset(SHIPPED) if path is None else Path(path)
    written = file.stat().st_mtime_ns if file.is_file() else 0
    return _load(str(file), str(device), written)


def save_anatomy(
    path: str | PathLike[str],
    anatomy: Anatomy,
    dtype: Literal["float32", "float16"] = "float32",
) -> str:
    """Write ``anatomy`` to a ``.safetensors`` file and return its digest."""
    weights = {n: t.to(getattr(torch, dtype)) for n, t in anatomy.state_dict().items()}
    own = {"network": config_to_dict(anatomy.config), "info": anatomy.info}
    return checkpoints.save(path, weights, {"anatomy": own})


@lru_cache(maxsize=4)
def _load(path: str, device: str, written: int) -> Anatomy:
    checkpoint = checkpoints.load(path)
    own = checkpoint.config.get("anatomy")
    try:
        if not isinstance(own, Mapping):
            raise TypeError("no settings of such a network inside")
        config = config_from_dict(AnatomyConfig, own["network"])
        found = Anatomy(config, info={**own.get("info", {}), "sha256": checkpoint.sha256})
        found.load_state_dict({n: t.float() for n, t in checkpoint.tensors.items()})
    except (ConfigError, KeyError, RuntimeError, TypeError) as error:
        raise CheckpointError(
            "anatomy.not_a_network",
            f"{path} is no network of places: {error}",
            "Give a file written by `geo3d train anatomy`.",
        ) from error
    return found.requires_grad_(False).eval().to(device)
