"""Fit fields to points on the surfaces that views see, beside rays through the volume.

A ray of an image asks the fields once per sample, although an opaque scene shows one point of it.
Where the depth of every pixel is known, the field's colour at that point is fitted directly, its
density raised, and the density on the way there, inside primitives that bodies do not fill, taken
away: a dozen times as many pixels for the same work.  Notation: p points, r rays of a bundle.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from geo3d.render.rays import Rays
from scenes.urban.constraints import LayoutRays
from scenes.urban.scene import Scene

_SOLID = 60.0
"""Density per metre from which matter counts as solid: 7 cm hide 99 % of what is behind."""
_INWARD = 0.04
"""Metres behind the surface within which points are asked."""
_BEFORE = 0.08
"""Metres before it that are left alone."""
_FREE_SHARE = 4
"""One in so many points has a partner in the free space before it."""
_MISSED_SHARE = 8
"""So many points in the primitives along rays that hit nothing there, as a share of all."""
_WEIGHT = 0.05
"""Of both losses of density; that of colours has 1."""


class Seen(Protocol):
    """Rays with the layout along them, such as `scenes.urban.sample_then_fit.Bundle`."""

    @property
    def rays(self) -> Rays:
        """Return the rays."""
        ...

    @property
    def layout(self) -> LayoutRays:
        """Return what is along them."""
        ...


def surface_losses(
    scene: Scene,
    bundle: Seen,
    colours: Float[Tensor, "r 3"],
    count: int,
    generator: torch.Generator,
) -> Mapping[str, Tensor]:
    """Return the losses of ``count`` random surface points; none where no ray hits anything."""
    rays, depth = bundle.rays, bundle.layout.depth
    is_hit = depth > 0
    hit = torch.nonzero(is_hit & (rays.far > rays.near))[:, 0]
    if not len(hit):
        return {}
    chosen = hit[torch.randint(len(hit), (count,), generator=generator)]
    at, origins, directions = depth[chosen], rays.origins[chosen], rays.directions[chosen]
    inward = _INWARD * torch.rand(count, generator=generator)
    found = scene.query(origins + (at + inward)[:, None] * directions, train=True)
    losses = {"surface colour": (found.rgb - colours[chosen]).abs().mean()}
    hollow = math.log(_SOLID) - found.density.clamp(min=1e-6).log()
    losses["surface density"] = _WEIGHT * hollow.clamp(min=0).mean()
    few = chosen[: count // _FREE_SHARE]
    missed = torch.nonzero(~is_hit & (rays.far > rays.near))[:, 0]
    if len(missed):
        some = torch.randint(len(missed), (count // _MISSED_SHARE,), generator=generator)
        few = torch.cat([few, missed[some]])
    before = torch.where(is_hit[few], depth[few] - _BEFORE, rays.far[few])
    free = inside_before(bundle.layout.segments[few], before, generator)
    is_free = free > 0
    if bool(is_free.any()):
        rows = few[is_free]
        points = rays.origins[rows] + free[is_free, None] * rays.directions[rows]
        density = scene.query(points, train=True).density
        losses["free space"] = _WEIGHT * density.clamp(max=_SOLID).mean()
    return losses


def inside_before(
    segments: Float[Tensor, "p s 2"], end: Float[Tensor, " p"], generator: torch.Generator
) -> Float[Tensor, " p"]:
    """Return a random depth of each ray inside its segments before ``end``; 0 where none is."""
    enter = segments[..., 0].clamp(min=0)
    length = (torch.minimum(segments[..., 1], end[:, None]) - enter).clamp(min=0)
    along = length.cumsum(1)
    wanted = torch.rand(len(segments), 1, generator=generator) * along[:, -1:]
    # segments that are used up before the wanted length are passed
    number = (along <= wanted).sum(1, keepdim=True).clamp(max=segments.shape[1] - 1)
    start = (along - length).gather(1, number)
    at = enter.gather(1, number) + wanted - start
    return torch.where(along[:, -1] > 0, at[:, 0], 0.0)
