"""Rays of a camera, for volume rendering.

Directions are not of unit length: their z component in the camera is 1, so the parameter t of
origin + t direction is the depth along the camera's z axis, the same number as in depth maps.
Pixel centres lie at + 0.5.  ``radii`` is the radius of a pixel's cone at t = 1.
Source: Urban Architect, released renderer; Barron et al. 2023 (Zip-NeRF) for the radius.

A pixel's cone instead of its line: six points per interval, and the contraction of space.

Notation: interval [t0, t1], tm its middle, td half its length; pixel radius r at t = 1.
Source: Barron et al. 2023 (Zip-NeRF), section 3 and appendix; contraction: mip-NeRF 360, eq. 10.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from geo3d.render.cameras import Camera

PIXEL_TO_RADIUS = 2 / math.sqrt(12)
"""A pixel's side to the radius of the disc with the same variance."""


@dataclass(frozen=True)
class Rays:
    """A list of rays and where matter may be along each."""

    origins: Float[Tensor, "r 3"]
    directions: Float[Tensor, "r 3"]
    """Not of unit length: depth per t is 1."""
    radii: Float[Tensor, " r"]
    near: Float[Tensor, " r"]
    """Smallest t of interest."""
    far: Float[Tensor, " r"]
    """Greatest t; a ray with far <= near crosses nothing."""
    segments: Float[Tensor, "r s 2"] | None = None
    """Entry and exit of what lies along the ray, sorted; padding has exit <= entry."""

    def __len__(self) -> int:
        return len(self.origins)

    def select(self, index: Tensor | slice) -> Rays:
        """Return some of the rays, in the given order."""
        segments = None if self.segments is None else self.segments[index]
        return Rays(
            self.origins[index],
            self.directions[index],
            self.radii[index],
            self.near[index],
            self.far[index],
            segments,
        )

    def between(self, near: float, far: float) -> Rays:
        """Return the rays with one interval for all and no segments."""
        whole = torch.ones_like(self.near)
        return replace(self, near=near * whole, far=far * whole, segments=None)


def camera_rays(
    camera: Camera, near: float = 0.5, far: float = 200.0, pixel_offset: float = 0.5
) -> Rays:
    """Return the rays of all pixels, row by row, float32.

    Args:
        near, far: interval given to every ray.
        pixel_offset: where in a pixel its ray goes through; 0.5 is the centre.
    """
    c2w = torch.from_numpy(camera.c2w.astype("float64"))
    x = (torch.arange(camera.width, dtype=torch.float64) + pixel_offset - camera.cx) / camera.fx
    # one row more, for the distance to the next row
    y = torch.arange(camera.height + 1, dtype=torch.float64)
    y = (y + pixel_offset - camera.cy) / camera.fy
    local = torch.stack(
        [x.expand(len(y), -1), y[:, None].expand(-1, len(x)), torch.ones(len(y), len(x))], dim=-1
    )
    directions = local @ c2w[:3, :3].T
    radii = (directions[1:] - directions[:-1]).norm(dim=-1) * PIXEL_TO_RADIUS
    directions = directions[:-1].reshape(-1, 3).float()
    whole = torch.ones(len(directions))
    return Rays(
        c2w[:3, 3].float().expand_as(directions).contiguous(),
        directions,
        radii.reshape(-1).float(),
        near * whole,
        far * whole,
    )


POINTS = 6
_ANGLES = (0.0, 2.0, 4.0, 3.0, 5.0, 1.0)


def cone_samples(
    origins: Float[Tensor, "r 3"],
    directions: Float[Tensor, "r 3"],
    radii: Float[Tensor, " r"],
    starts: Float[Tensor, "r n"],
    ends: Float[Tensor, "r n"],
    across: Float[Tensor, "r 3"],
    turns: Float[Tensor, "r n 2"] | None = None,
) -> tuple[Float[Tensor, "r n 6 3"], Float[Tensor, "r n 6"]]:
    """Return six points per interval whose moments match the cone's, and their spread in metres.

    Args:
        starts, ends: of the intervals, in t.
        across: any vectors not along the rays; they fix the turn of the hexagons.
        turns: uniform in [0, 1): a random turn and whether to mirror, per interval; None turns and
            mirrors every other interval.
    """
    t0, t1 = starts[..., None], ends[..., None]
    tm, td = (t0 + t1) / 2, (t1 - t0) / 2
    options = {"dtype": starts.dtype, "device": starts.device}
    steps = torch.arange(POINTS, **options) * (2 / 5) - 1
    spread = torch.sqrt((td**2 - tm**2) ** 2 + 4 * tm**4)
    t = t1**2 + 2 * tm**2 + 3 / math.sqrt(7) * steps * spread
    t = t0 + td / (td**2 + 3 * tm**2) * t
    angles = torch.tensor(_ANGLES, **options) * (math.pi / 3)
    mirrored = 5 * math.pi / 3 - angles
    if turns is None:
        odd = torch.arange(starts.shape[1], device=starts.device) % 2 == 1
        angles = torch.where(odd[:, None], mirrored - math.pi / 6, angles)
    else:
        turned = 2 * math.pi * turns[..., :1]
        angles = turned + torch.where(turns[..., 1:] > 0.5, angles, mirrored)
    reach = radii[:, None, None] * t / math.sqrt(2)
    side = torch.nn.functional.normalize(torch.linalg.cross(directions, across), dim=-1)
    up = torch.nn.functional.normalize(torch.linalg.cross(directions, side), dim=-1)
    points = (
        (reach * angles.cos())[..., None] * side[:, None, None]
        + (reach * angles.sin())[..., None] * up[:, None, None]
        + t[..., None] * directions[:, None, None]
    )
    return points + origins[:, None, None], reach / 2


def contract(
    points: Float[Tensor, "*n 3"], spread: Float[Tensor, "*n"] | None = None
) -> tuple[Float[Tensor, "*n 3"], Float[Tensor, "*n"] | None]:
    """Pull all space into the ball of radius 2, the unit ball unchanged; scale spreads along."""
    size = points.norm(dim=-1, keepdim=True)
    safe = size.clamp(min=1.0)
    inside = size <= 1
    pulled = torch.where(inside, points, (2 - 1 / safe) * points / safe)
    if spread is None:
        return pulled, None
    scale = ((2 * safe - 1) ** (1 / 3) / safe) ** 2
    return pulled, spread * torch.where(inside, torch.ones_like(scale), scale)[..., 0]


def uncontract(points: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n 3"]:
    """Undo `contract`."""
    size = points.norm(dim=-1, keepdim=True)
    safe = size.clamp(min=1.0)
    outside = points / safe / (2 - safe).clamp(min=torch.finfo(points.dtype).eps)
    return torch.where(size <= 1, points, outside)


def scale_weights(
    spread: Float[Tensor, "*n"], resolutions: Float[Tensor, " levels"]
) -> Float[Tensor, "*n levels"]:
    """Return erf(1 / sqrt(8 std^2 R^2)): how much of a level of R cells a spread point may see."""
    width = (8**0.5) * spread[..., None] * resolutions
    return torch.erf(1 / width.clamp(min=1e-12))
