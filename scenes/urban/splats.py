"""A scene as Gaussians: flat discs that lie on the surfaces which frames along the drive see.

No optimisation: every pixel that a frame sees becomes a disc in the plane of its neighbours, as
long as the pixel's footprint on that plane, thin across it, of the pixel's colour.  Of discs in
one cube of `CUBE` metres the one seen from nearest is kept, and none is smaller than the cube, or
there would be holes.  Layout frame: metres, y down.

Notation: p discs; h w pixels; n normals towards the camera; rotations are quaternions (w, x, y, z)
that turn the axes of a disc, the last one its normal, into the world's.

Source: Kerbl et al., "3D Gaussian Splatting" (2023) for the files; Huang et al., "2D Gaussian
Splatting" (2024) for discs as surfaces.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from scipy.spatial.transform import Rotation

from geo3d.progress import ProgressCallback, ignore_progress
from geo3d.render.cameras import Camera
from scenes.objects.gaussians import paint_ellipses
from scenes.urban.config import OutputConfig
from scenes.urban.scene import Rendering, Scene
from scenes.urban.views import render_frames, stations, turned_aside

CUBE = 0.04
"""Metres: finer than a pixel of the frames from 15 m on."""
_EVERY, _TURNS_DEG = 3.0, (0.0, 45.0, 0.0, -45.0)
"""Metres between the frames, and how they are turned aside."""
_SPREAD = 0.6
"""Deviation of a disc over the distance of its neighbours: no gaps, little blur."""
_THIN = 0.1
"""Thickness of a disc over its width."""
_LONGEST = 2.0
"""Most that the footprint of a pixel is stretched where it looks along a surface."""
_EDGE = 0.1
"""Relative difference of depths from which neighbours are no one surface."""
_SOLID = 0.8
"""Opacity of a pixel from which it shows a surface."""
_NEAR = 0.3
"""Metres before a camera within which nothing is drawn."""
OPACITY = 0.95
_SHADE = 0.28209479177387814
"""The constant spherical harmonic, sqrt(1 / (4 pi)): how the files of Gaussians scale colours."""


@dataclass(frozen=True, eq=False)
class Discs:
    """Gaussians of a street."""

    points: Float[np.ndarray, "p 3"]
    colours: UInt8[np.ndarray, "p 3"]
    scales: Float[np.ndarray, "p 3"]
    """Deviations along their axes, metres; the last one across."""
    turns: Float[np.ndarray, "p 4"]

    def table(self) -> Float[np.ndarray, "p 17"]:
        """Return the columns of `scenes.objects.gaussian_files.save_table`."""
        table = np.zeros((len(self.points), 17), np.float32)
        table[:, :3] = self.points
        table[:, 6:9] = (self.colours / 255.0 - 0.5) / _SHADE
        table[:, 9] = math.log(OPACITY / (1 - OPACITY))
        table[:, 10:13] = np.log(self.scales)
        table[:, 13:] = self.turns
        return table


def scene_discs(
    scene: Scene, config: OutputConfig, progress: ProgressCallback = ignore_progress
) -> Discs:
    """Return at most ``config.points`` discs that frames along the drive see."""
    size = max(config.frame_size, 16)
    poses = turned_aside(stations(scene.layout, _EVERY), _TURNS_DEG)
    frames = render_frames(scene, poses, size, progress)
    parts = [_of_frame(view.camera, seen, config.reach) for view, seen in frames]
    points, colours, normals, sizes = (
        np.concatenate(column) for column in zip(*parts, strict=True)
    )
    # near views first: they see the finest
    order = np.argsort(sizes[:, 0], kind="stable")
    cubes = np.floor(points[order] / CUBE).astype(np.int64)
    _, first = np.unique(cubes, axis=0, return_index=True)
    kept = order[np.sort(first)][: config.points]
    widths = _SPREAD * np.maximum(sizes[kept], CUBE)
    scales = np.column_stack([widths, _THIN * widths[:, 0]])
    return Discs(points[kept], colours[kept], scales, normals[kept])


def _of_frame(
    camera: Camera, seen: Rendering, reach: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return places, colours, turns, and lengths of the footprints of a frame's pixels."""
    height, width = camera.height, camera.width
    depth = seen.depth.numpy().reshape(height, width).astype(np.float64)
    solid = (seen.acc.numpy().reshape(depth.shape) > _SOLID) & (depth > 0)
    origins, directions = (part.reshape(height, width, 3) for part in camera.rays())
    places = origins + directions * (depth / (directions @ camera.c2w[:3, 2]))[..., None]
    normals = surface_normals(places, np.where(solid, depth, np.inf), directions)
    kept = solid & (depth < reach)
    way, normals = directions[kept], normals[kept]
    along = way - (way * normals).sum(axis=1, keepdims=True) * normals
    # seen head on, any direction in the plane will do
    some = np.eye(3)[np.abs(normals).argmin(axis=1)]
    along = np.where(
        np.linalg.norm(along, axis=1, keepdims=True) > 1e-3, along, np.cross(normals, some)
    )
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    axes = np.stack([np.cross(along, normals), along, normals], axis=2)
    turns = Rotation.from_matrix(axes).as_quat(scalar_first=True)
    across = depth[kept] / camera.fx
    slant = np.maximum(np.abs((way * normals).sum(axis=1)), 1 / _LONGEST)
    colours = (seen.rgb.clamp(0, 1).numpy().reshape(height, width, 3)[kept] * 255).round()
    sizes = np.stack([across, across / slant], axis=1)
    return places[kept], colours.astype(np.uint8), turns, sizes


def surface_normals(
    places: Float[np.ndarray, "h w 3"],
    depth: Float[np.ndarray, "h w"],
    directions: Float[np.ndarray, "h w 3"],
) -> Float[np.ndarray, "h w 3"]:
    """Return unit normals towards the camera, of the plane through a pixel and its neighbours.

    Where neighbours lie on another surface, the normal looks at the camera.

    Args:
        places: of what pixels see.
        depth: of the same, metres; infinite where there is nothing.
        directions: of the rays, unit vectors.
    """
    steps = [_nearest_step(places, depth, axis) for axis in (0, 1)]
    normals = np.cross(steps[0], steps[1])
    length = np.linalg.norm(normals, axis=2, keepdims=True)
    normals = np.where(length > 0, normals / np.where(length > 0, length, 1), -directions)
    away = (normals * directions).sum(axis=2, keepdims=True) > 0
    return np.where(away, -normals, normals)


def _nearest_step(places: np.ndarray, depth: np.ndarray, axis: int) -> np.ndarray:
    """Return the difference to the neighbour along an axis whose depth is nearer; 0 for none."""
    places, depth = np.moveaxis(places, axis, 0), np.moveaxis(depth, axis, 0)
    with np.errstate(invalid="ignore"):
        jump = np.abs(np.diff(depth, axis=0)) / np.minimum(depth[1:], depth[:-1])
    jump = np.where(np.isfinite(jump) & (jump < _EDGE), jump, np.inf)
    step = np.diff(places, axis=0)
    none = np.full((1, *jump.shape[1:]), np.inf)
    after, before = np.concatenate([jump, none]), np.concatenate([none, jump])
    zero = np.zeros((1, *step.shape[1:]))
    ahead, behind = np.concatenate([step, zero]), np.concatenate([zero, step])
    found = np.where((after <= before)[..., None], ahead, behind)
    found = np.where(np.isfinite(np.minimum(after, before))[..., None], found, 0.0)
    return np.moveaxis(found, 0, axis)


def paint_discs(
    discs: Discs, camera: Camera, background: Float[np.ndarray, "h w 3"]
) -> Float[np.ndarray, "h w 3"]:
    """Return discs as a camera sees them, before a background in [0, 1]."""
    ahead = camera.project(discs.points)[1] > _NEAR
    turns, scales = discs.turns[ahead], discs.scales[ahead]
    axes = Rotation.from_quat(turns, scalar_first=True).as_matrix() * scales[:, None]
    shape = discs.points[ahead], axes @ axes.transpose(0, 2, 1)
    colours = discs.colours[ahead] / 255.0
    return paint_ellipses(*shape, np.full(len(turns), OPACITY), colours, camera, background)
