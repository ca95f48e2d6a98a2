"""Radiance fields as decoded from voxels: products of small vectors along the three axes.

Notation: n voxels, r components (rank), d samples along an axis.

Source: Gao et al., "Strivec: Sparse Tri-Vector Radiance Fields" (2023), as used by TRELLIS (2024).

Images of decoded radiance fields: emission and absorption along rays, in plain torch.

In a voxel, with p in [0, 1]^3 its own coordinates and x_r(p) the samples of a vector interpolated
at p (sample j at (j + 1/2) / d, continued linearly to the faces):
    m_r = x_r(p_x) y_r(p_y) z_r(p_z),   density = softplus(sum_r a_r m_r) per length of the cube,
    colour = sigmoid(C0 sum_r c_r m_r),   share of a step = 1 - exp(-density step)
as the published rasteriser computes them, at the same distances from the camera on every ray.

Notation: n voxels, r components, d samples along an axis, m points, p rays; z up.

Source: Gao et al., "Strivec" (2023); Xiang et al., "Structured 3D Latents" (TRELLIS, 2024).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from geo3d.render.cameras import Camera
from scenes.objects.gaussians import SH_C0
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


STEPS_PER_VOXEL = 4
"""Of a preview; published images take two per sample of the vectors."""
_RAYS = 4096


class RenderedRays(NamedTuple):
    """What rays see."""

    color: Float[Tensor, "p 3"]
    """Without background: multiplied by the opacity."""
    opacity: Float[Tensor, " p"]
    depth: Float[Tensor, " p"]
    """Mean distance of what is seen, times the opacity."""


@torch.no_grad()
def render_radiance(field: RadianceField, camera: Camera) -> UInt8[np.ndarray, "h w 3"]:
    """Return the field on white as ``camera`` sees it; in the cube of objects, z up."""
    origins, directions = (
        torch.as_tensor(np.array(part)).to(field.position) for part in camera.rays()
    )
    seen = [
        march(field, origins[start : start + _RAYS], directions[start : start + _RAYS])
        for start in range(0, len(origins), _RAYS)
    ]
    color = torch.cat([part.color for part in seen])
    left = 1 - torch.cat([part.opacity for part in seen])
    image = color + left[:, None]
    flat = (255 * image.clamp(0, 1)).round().byte().cpu().numpy()
    return flat.reshape(camera.height, camera.width, 3)


def march(
    field: RadianceField,
    origins: Float[Tensor, "p 3"],
    directions: Float[Tensor, "p 3"],
    steps: int = STEPS_PER_VOXEL,
) -> RenderedRays:
    """Return what rays see of the field, differentiable in the field.

    Args:
        field: in the cube [-0.5, 0.5]^3.
        origins: of the rays.
        directions: of unit length.
        steps: per edge of a voxel.
    """
    rays = len(origins)
    nothing = origins.new_zeros(rays)
    if len(field.position) == 0:
        return RenderedRays(origins.new_zeros(rays, 3), nothing, nothing)
    resolution = 2 ** int(field.depth[0, 0])
    step = 1 / (steps * resolution)
    enter, leave = _cube(origins, directions)
    first = (enter.clamp(min=0) / step).ceil()
    count = int(((leave / step).floor() - first + 1).clamp(min=0).max())
    z = (first[:, None] + torch.arange(count, device=origins.device)) * step
    points = origins[:, None] + z[..., None] * directions[:, None] + 0.5
    voxel = _voxels(field, points.flatten(0, 1), resolution)
    hit = (voxel >= 0) & (z <= leave[:, None]).flatten()
    density, color = sample_field(field, points.flatten(0, 1)[hit], voxel[hit], resolution)
    where = hit.nonzero()[:, 0]
    depths = density.new_zeros(rays * count).index_copy(0, where, density * step)
    depths = depths.unflatten(0, (rays, count))
    before = depths.cumsum(1) - depths
    weight = torch.exp(-before) * -torch.expm1(-depths)
    colors = color * weight.flatten()[where, None]
    total = color.new_zeros(rays, 3).index_add(0, where // max(count, 1), colors)
    return RenderedRays(total, weight.sum(1), (weight * z).sum(1))


def sample_field(
    field: RadianceField,
    points: Float[Tensor, "m 3"],
    voxel: Int[Tensor, " m"],
    resolution: int,
) -> tuple[Float[Tensor, " m"], Float[Tensor, "m 3"]]:
    """Return density and colour at points of [0, 1]^3, each inside the voxel that is named."""
    dim = field.trivec.shape[-1]
    inside = (points - field.position[voxel]) * resolution + 0.5
    place = inside * dim - 0.5
    low = place.detach().floor().long().clamp(0, max(dim - 2, 0))
    share = (place - low) if dim > 1 else torch.zeros_like(place)
    high = low + (dim > 1)
    product = field.density.new_ones(len(points), field.density.shape[1])
    for axis in range(3):
        vectors = field.trivec[:, :, axis]
        below = vectors[voxel, :, low[:, axis]]
        above = vectors[voxel, :, high[:, axis]]
        product = product * torch.lerp(below, above, share[:, axis, None])
    density = F.softplus((field.density[voxel] * product).sum(1))
    color = torch.einsum("mr,mrc->mc", product, field.features_dc[voxel, :, 0])
    return density, torch.sigmoid(SH_C0 * color)


def _cube(origins: Tensor, directions: Tensor) -> tuple[Float[Tensor, " p"], Float[Tensor, " p"]]:
    """Return the distances at which rays enter and leave the cube; leaving first means a miss."""
    tiny = directions.abs().clamp(min=1e-12).copysign(directions)
    ends = torch.stack([(-0.5 - origins) / tiny, (0.5 - origins) / tiny])
    return ends.amin(0).amax(1), ends.amax(0).amin(1)


def _voxels(
    field: RadianceField, points: Float[Tensor, "m 3"], resolution: int
) -> Int[Tensor, " m"]:
    """Return the voxel around each point, or -1."""
    strides = torch.tensor([resolution**2, resolution, 1], device=points.device)
    table = torch.full((resolution**3,), -1, dtype=torch.long, device=points.device)
    own = ((field.position * resolution).long() * strides).sum(1)
    table[own] = torch.arange(len(own), device=points.device)
    cells = (points * resolution).long().clamp(0, resolution - 1)
    inside = ((points >= 0) & (points <= 1)).all(1)
    return torch.where(inside, table[(cells * strides).sum(1)], -1)
