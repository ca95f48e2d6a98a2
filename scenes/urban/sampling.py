"""Where a scene is sampled along its rays: inside the layout, from its first to its last surface,
or everywhere.

Intervals of a ray cover its matter only: with segments, the free space between two primitives is
never sampled, and what lies deep behind a surface is sampled more thinly.
Source: Urban Architect (arXiv 2404.06780), section 3.3; segments follow its text, "hull" its code.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from geo3d.errors import InputError
from geo3d.render.cameras import Camera
from geo3d.render.intervals import Samples, s_to_t, segment_samples, uniform_intervals
from geo3d.render.rays import Rays, camera_rays, cone_samples
from scenes.urban.conditions import LayoutMaps
from scenes.urban.config import FieldsConfig


@dataclass(frozen=True)
class Spots:
    """Points along rays at which the scene's fields are asked."""

    samples: Samples
    s: Float[Tensor, "r n1"]
    """Fenceposts normalised to [0, 1], for losses on weights."""
    points: Float[Tensor, "r n 3"]
    """The point that decides which cell answers."""
    cone: Float[Tensor, "r n 6 3"] | None = None
    spread: Float[Tensor, "r n 6"] | None = None
    """Of the points of the cone, metres."""


def layout_rays(camera: Camera, maps: LayoutMaps | None, config: FieldsConfig) -> Rays:
    """Return a camera's rays with the stretch of each in which the layout has matter.

    Raises:
        InputError: ``scene.no_segments``, ``scene.map_size``.
    """
    rays = camera_rays(camera, config.near, config.far, 0.0 if config.compat else 0.5)
    if config.constrain == "none":
        return rays
    needed = "segments" if config.constrain == "segments" else "near"
    found = None if maps is None else getattr(maps, needed)
    if maps is None or found is None:
        raise InputError(
            "scene.no_segments",
            f"Rays constrained by {config.constrain!r} need the layout's maps with {needed}.",
            'Make them with RayScene.maps(camera, segments=True), or set constrain: "none".',
        )
    if found.shape[:2] != (camera.height, camera.width):
        raise InputError(
            "scene.map_size",
            f"The maps have {found.shape[1]} x {found.shape[0]} pixels, the camera "
            f"{camera.width} x {camera.height}.",
            "Cast the maps with the same camera.",
        )
    if config.constrain == "hull":
        far = found if maps.far is None else maps.far
        return replace(rays, near=_flat(found), far=_flat(far))
    segments = torch.from_numpy(np.asarray(found, np.float32)).flatten(0, 1)
    return segment_rays(rays, segments)


def segment_rays(rays: Rays, segments: Float[Tensor, "r s 2"]) -> Rays:
    """Return rays that meet matter inside the given segments only, up to their far ends."""
    segments = segments.clamp(min=rays.near[:, None, None], max=rays.far[:, None, None])
    real = segments[..., 1] > segments[..., 0]
    first = torch.where(real, segments[..., 0], torch.inf).amin(1)
    last = torch.where(real, segments[..., 1], -torch.inf).amax(1)
    empty = ~real.any(1)
    near = torch.where(empty, rays.far, first)
    return replace(rays, near=near, far=torch.where(empty, rays.far, last), segments=segments)


def with_matter(rays: Rays, config: FieldsConfig) -> Tensor:
    """Return which rays are to be sampled; the others see the sky."""
    if rays.segments is not None:
        return rays.far > rays.near
    if config.constrain == "hull" and config.empty_background:
        return rays.far < config.far
    return torch.ones(len(rays), dtype=torch.bool)


def place_samples(
    rays: Rays,
    config: FieldsConfig,
    generator: torch.Generator | None,
    across: Float[Tensor, "r 3"] | None = None,
) -> Spots:
    """Return where to sample rays.

    Args:
        generator: shifts samples at random, for training; None is deterministic.
        across: vectors that fix the turn of cones; drawn, or world axes, if None.
    """
    count = len(rays)
    jitter = None if generator is None else torch.rand(count, 1, generator=generator)
    if rays.segments is not None:
        samples = segment_samples(rays.segments, config.samples, jitter, config.falloff)
        covered = samples.lengths.cumsum(1) / samples.lengths.sum(1, keepdim=True)
        s = torch.cat([torch.zeros(count, 1), covered], dim=1)
        half = samples.lengths / 2
        starts, ends = samples.middles - half, samples.middles + half
    else:
        s = uniform_intervals(count, config.samples, jitter)
        edges = _warped(s, rays, config)
        starts, ends = edges[:, :-1], edges[:, 1:]
        samples = Samples((starts + ends) / 2, ends - starts, edges)
    if not config.multisample:
        points = rays.origins[:, None] + samples.middles[..., None] * rays.directions[:, None]
        return Spots(samples, s, points)
    turns = None
    if generator is not None:
        turns = torch.rand(count, config.samples, 2, generator=generator)
    if across is None:
        across = _across(rays.directions, generator)
    cone, spread = cone_samples(
        rays.origins, rays.directions, rays.radii, starts, ends, across, turns
    )
    return Spots(samples, s, cone.mean(dim=2), cone, spread)


def _warped(s: Tensor, rays: Rays, config: FieldsConfig) -> Tensor:
    near, far = rays.near[:, None], rays.far[:, None]
    if config.compat:
        return s_to_t(s, near, far, "power", compat=True)
    # in float32 this warp is centimetres off at 200 m
    return s_to_t(s.double(), near.double(), far.double(), "power").float()


def _across(directions: Tensor, generator: torch.Generator | None) -> Tensor:
    if generator is not None:
        return torch.randn(directions.shape, generator=generator)
    # the axis least along the ray is never parallel to it
    return torch.nn.functional.one_hot(directions.abs().argmin(1), 3).to(directions)


def _flat(image: np.ndarray) -> Tensor:
    return torch.from_numpy(np.asarray(image, np.float32)).flatten()
