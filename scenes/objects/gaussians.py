"""Gaussians as decoded from voxels: their activations and covariances.

Notation: n voxels, k Gaussians per voxel, g Gaussians of an item; rotations are quaternions
(w, x, y, z); positions are in the cube [-0.5, 0.5]^3, z up.

Source: Kerbl et al., "3D Gaussian Splatting" (2023); Yu et al., "Mip-Splatting" (2024) for the
filter; the parametrisation is that of TRELLIS (2024).

Images of Gaussians on the CPU: each is drawn as the ellipse it projects to, front to back.

    C = sum_i T_i a_i c_i,   T_i = prod_{j<i} (1 - a_j),   a_i = o_i exp(-d^T S_i^-1 d / 2)

with S the projected covariance plus `SMOOTHING` square pixels, o scaled by sqrt(det S_before /
det S) so that small Gaussians do not grow brighter.  For previews; nothing is differentiable.

Notation: g Gaussians, h x w pixels; z up.

Source: Kerbl et al., "3D Gaussian Splatting" (2023); Yu et al., "Mip-Splatting" (2024).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, no_type_check

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from numba import njit
from torch import Tensor

from geo3d.config import require
from geo3d.mesh.mesh import Mesh
from geo3d.render.cameras import Camera, orbit, radical_inverse
from scenes.objects.sparse import SparseTensor

SH_C0 = 0.28209479177387814
"""The constant spherical harmonic."""
_PARTS = {"xyz": 3, "features_dc": 3, "scaling": 3, "rotation": 4, "opacity": 1}


@dataclass(frozen=True)
class GaussianConfig:
    """How features become Gaussians; the defaults are the published ones."""

    num_gaussians: int = 32
    """Gaussians per voxel."""
    voxel_size: float = 1.5
    """Edge, in voxels, of the cube around a voxel's centre that its Gaussians stay in."""
    perturb_offset: bool = True
    """Start from well spread positions instead of the centre."""
    filter_size: float = 9e-4
    """Least standard deviation of a Gaussian."""
    scaling_bias: float = 4e-3
    """Standard deviation where the feature is zero."""
    opacity_bias: float = 0.1
    """Opacity where the feature is zero."""
    scaling_activation: Literal["exp", "softplus"] = "softplus"
    """From features to standard deviations."""
    rates: tuple[float, float, float, float, float] = (1.0, 1.0, 1.0, 0.1, 1.0)
    """Factors of the features of position, colour, scale, rotation and opacity."""

    @classmethod
    def from_published(cls, settings: Mapping[str, Any]) -> GaussianConfig:
        """Read the ``representation_config`` of a published model file; {} gives the defaults."""
        names = {"3d_filter_kernel_size": "filter_size"}
        same = {
            "num_gaussians",
            "voxel_size",
            "perturb_offset",
            "scaling_bias",
            "opacity_bias",
            "scaling_activation",
        }
        values = {names.get(k, k): v for k, v in settings.items() if k in same or k in names}
        if "lr" in settings:
            values["rates"] = tuple(float(settings["lr"][f"_{part}"]) for part in _PARTS)
        return cls(**values)

    def __post_init__(self) -> None:
        known = self.scaling_activation in ("exp", "softplus")
        require(known, "scaling_activation", "exp or softplus")

    @property
    def channels(self) -> int:
        """Features per voxel."""
        return self.num_gaussians * sum(_PARTS.values())


@dataclass(frozen=True)
class Gaussians:
    """Features of the Gaussians of one item, and what they mean."""

    unit_xyz: Float[Tensor, "g 3"]
    """Centres in [0, 1]^3."""
    features_dc: Float[Tensor, "g 1 3"]
    """Colour as the coefficient of the constant spherical harmonic."""
    raw_scaling: Float[Tensor, "g 3"]
    raw_rotation: Float[Tensor, "g 4"]
    raw_opacity: Float[Tensor, "g 1"]
    config: GaussianConfig

    @property
    def xyz(self) -> Float[Tensor, "g 3"]:
        """Centres in [-0.5, 0.5]^3."""
        return self.unit_xyz - 0.5

    @property
    def scaling(self) -> Float[Tensor, "g 3"]:
        """Standard deviations along the Gaussian's axes."""
        bias = self.config.scaling_bias
        if self.config.scaling_activation == "exp":
            plain = torch.exp(self.raw_scaling + math.log(bias))
        else:
            plain = F.softplus(self.raw_scaling + math.log(math.expm1(bias)))
        return torch.sqrt(plain**2 + self.config.filter_size**2)

    @property
    def rotation(self) -> Float[Tensor, "g 4"]:
        """Unit quaternions (w, x, y, z)."""
        return F.normalize(self.raw_rotation + self.raw_rotation.new_tensor([1, 0, 0, 0]))

    @property
    def opacity(self) -> Float[Tensor, "g 1"]:
        """Opacities in (0, 1)."""
        return torch.sigmoid(self.opacity_logit)

    @property
    def opacity_logit(self) -> Float[Tensor, "g 1"]:
        """Logits of the opacities."""
        bias = self.config.opacity_bias
        return self.raw_opacity + math.log(bias / (1 - bias))

    @property
    def colors(self) -> Float[Tensor, "g 3"]:
        """Colours, mostly in [0, 1]."""
        return 0.5 + SH_C0 * self.features_dc[:, 0]

    def covariance(self) -> Float[Tensor, "g 6"]:
        """Return the entries xx, xy, xz, yy, yz, zz of the covariance matrices."""
        axes = rotation_matrices(self.rotation) * self.scaling[:, None, :]
        full = axes @ axes.transpose(1, 2)
        return full.flatten(1)[:, [0, 1, 2, 4, 5, 8]]


def offset_perturbation(config: GaussianConfig) -> Float[Tensor, "k 3"]:
    """Return the features of positions that spread a voxel's Gaussians evenly over its cube."""
    if not config.perturb_offset:
        return torch.zeros(config.num_gaussians, 3)
    points = [hammersley(i, config.num_gaussians) for i in range(config.num_gaussians)]
    return torch.atanh((2 * torch.tensor(points) - 1) / config.voxel_size)


def hammersley(index: int, count: int) -> tuple[float, float, float]:
    """Return point ``index`` of the ``count`` points of the 3D Hammersley set."""
    return index / count, radical_inverse(index, 2), radical_inverse(index, 3)


def split_gaussians(
    raw: SparseTensor, config: GaussianConfig, spread: Float[Tensor, "k 3"], resolution: int
) -> list[Gaussians]:
    """Return the Gaussians of each item from the features of its voxels."""
    count = config.num_gaussians
    widths = [count * width for width in _PARTS.values()]
    features = [
        part.unflatten(1, (count, -1)) * rate
        for part, rate in zip(raw.feats.split(widths, dim=1), config.rates, strict=True)
    ]
    centres = (raw.coords[:, 1:].to(raw.dtype) + 0.5) / resolution
    reach = 0.5 * config.voxel_size / resolution
    xyz = centres[:, None] + torch.tanh(features[0] + spread) * reach
    return [
        Gaussians(
            unit_xyz=xyz[rows].flatten(0, 1),
            features_dc=features[1][rows].flatten(0, 1)[:, None],
            raw_scaling=features[2][rows].flatten(0, 1),
            raw_rotation=features[3][rows].flatten(0, 1),
            raw_opacity=features[4][rows].flatten(0, 1),
            config=config,
        )
        for rows in raw.layout
    ]


def rotation_matrices(quaternions: Float[Tensor, "g 4"]) -> Float[Tensor, "g 3 3"]:
    """Return the matrices of unit quaternions (w, x, y, z)."""
    w, x, y, z = quaternions.unbind(1)
    rows = [
        1 - 2 * (y * y + z * z),
        2 * (x * y - w * z),
        2 * (x * z + w * y),
        2 * (x * y + w * z),
        1 - 2 * (x * x + z * z),
        2 * (y * z - w * x),
        2 * (x * z - w * y),
        2 * (y * z + w * x),
        1 - 2 * (x * x + y * y),
    ]
    return torch.stack(rows, dim=1).unflatten(1, (3, 3))


SMOOTHING = 0.1
"""Added to the variances in the image, in square pixels."""
NEAR = 1e-3
"""Gaussians nearer to the camera are left out."""
_MARGIN = 0.15
"""Share of the image around it in which Gaussians are still projected from their own place."""
_CORNERS = np.array([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)])


def cube_camera(azimuth: float, *, size: int = 256) -> Camera:
    """Return a camera that frames the cube of objects, z up; azimuth 0 sees the front, from -y."""
    cube = Mesh(_CORNERS, np.zeros((0, 3), np.int64), name="cube")
    return orbit(cube, azimuth, 0.3, up="z", size=size)


def render_gaussians(
    gaussians: Gaussians, camera: Camera, background: tuple[float, float, float] = (1.0, 1.0, 1.0)
) -> UInt8[np.ndarray, "h w 3"]:
    """Return the Gaussians of an object as ``camera`` sees them, in its cube, z up."""
    xyz, entries, opacity, colors = (
        part.detach().double().cpu().numpy()
        for part in (gaussians.xyz, gaussians.covariance(), gaussians.opacity, gaussians.colors)
    )
    behind = np.tile(np.array(background, np.float64), (camera.height, camera.width, 1))
    full = entries[:, [0, 1, 2, 1, 3, 4, 2, 4, 5]].reshape(-1, 3, 3)
    image = paint_ellipses(xyz, full, opacity[:, 0], colors.clip(0.0, 1.0), camera, behind)
    return np.rint(255 * image.clip(0.0, 1.0)).astype(np.uint8)


def paint_ellipses(
    xyz: Float[np.ndarray, "g 3"],
    covariances: Float[np.ndarray, "g 3 3"],
    opacity: Float[np.ndarray, " g"],
    colors: Float[np.ndarray, "g 3"],
    camera: Camera,
    background: Float[np.ndarray, "h w 3"],
) -> Float[np.ndarray, "h w 3"]:
    """Return Gaussians of the world as ``camera`` sees them, before a background."""
    pixels, depth = camera.project(xyz)
    seen = depth > NEAR
    near_first = np.flatnonzero(seen)[np.argsort(depth[seen], kind="stable")]
    before = _projected(covariances[near_first], xyz[near_first], camera)
    spread = before + SMOOTHING * np.array([1.0, 0.0, 1.0])
    areas = [part[:, 0] * part[:, 2] - part[:, 1] ** 2 for part in (before, spread)]
    share = np.sqrt(np.clip(areas[0] / areas[1], 0.0, 1.0))
    return _paint(
        pixels[near_first], spread, opacity[near_first] * share, colors[near_first], background
    )


def _projected(
    full: Float[np.ndarray, "g 3 3"], xyz: Float[np.ndarray, "g 3"], camera: Camera
) -> Float[np.ndarray, "g 3"]:
    """Return xx, xy, yy of the covariances in the image, to first order in the distance.

    Far outside the image that order is no good: it is taken a little beside it, as published.
    """
    rotation = np.asarray(camera.c2w)[:3, :3]
    x, y, z = ((xyz - camera.position) @ rotation).T
    width, height = _MARGIN * camera.width / camera.fx, _MARGIN * camera.height / camera.fy
    x = z * np.clip(
        x / z, -camera.cx / camera.fx - width, width + (camera.width - camera.cx) / camera.fx
    )
    y = z * np.clip(
        y / z, -camera.cy / camera.fy - height, height + (camera.height - camera.cy) / camera.fy
    )
    slopes = np.zeros((len(xyz), 2, 3))
    slopes[:, 0, 0], slopes[:, 0, 2] = camera.fx / z, -camera.fx * x / z**2
    slopes[:, 1, 1], slopes[:, 1, 2] = camera.fy / z, -camera.fy * y / z**2
    axes = slopes @ rotation.T
    flat = axes @ full @ axes.transpose(0, 2, 1)
    return np.stack([flat[:, 0, 0], flat[:, 0, 1], flat[:, 1, 1]], axis=1)


@njit(cache=True)
@no_type_check
def _paint(
    pixels: np.ndarray,
    spread: np.ndarray,
    opacity: np.ndarray,
    colors: np.ndarray,
    background: np.ndarray,
) -> np.ndarray:
    height, width = background.shape[:2]
    image = np.zeros((height, width, 3))
    left = np.ones((height, width))
    for i in range(len(pixels)):
        xx, xy, yy = spread[i]
        area = xx * yy - xy * xy
        if area <= 0.0 or opacity[i] < 1.0 / 255.0:
            continue
        # Beyond this many deviations less than 1/255 is left.
        reach = np.sqrt(2.0 * np.log(255.0 * opacity[i]))
        u, v = pixels[i]
        top = max(0, int(np.ceil(v - reach * np.sqrt(yy) - 0.5)))
        bottom = min(height - 1, int(np.floor(v + reach * np.sqrt(yy) - 0.5)))
        first = max(0, int(np.ceil(u - reach * np.sqrt(xx) - 0.5)))
        last = min(width - 1, int(np.floor(u + reach * np.sqrt(xx) - 0.5)))
        for row in range(top, bottom + 1):
            for column in range(first, last + 1):
                dx, dy = column + 0.5 - u, row + 0.5 - v
                power = (yy * dx * dx - 2.0 * xy * dx * dy + xx * dy * dy) / (2.0 * area)
                alpha = min(0.999, opacity[i] * np.exp(-power))
                if alpha < 1.0 / 255.0 or left[row, column] < 1e-4:
                    continue
                weight = left[row, column] * alpha
                for channel in range(3):
                    image[row, column, channel] += weight * colors[i, channel]
                left[row, column] -= weight
    for channel in range(3):
        image[:, :, channel] += left * background[:, :, channel]
    return image
