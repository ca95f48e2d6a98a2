"""Rays of a camera, for volume rendering.

Directions are not of unit length: their z component in the camera is 1, so the parameter t of
origin + t direction is the depth along the camera's z axis, the same number as in depth maps.
Pixel centres lie at + 0.5.  ``radii`` is the radius of a pixel's cone at t = 1.
Source: Urban Architect, released renderer; Barron et al. 2023 (Zip-NeRF) for the radius.
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
