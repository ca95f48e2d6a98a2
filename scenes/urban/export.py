"""A scene as a mesh, as points and as Gaussians.

Files are in metres with y up and z towards the viewer: (x, y, z) -> (x, -y, -z); Gaussians keep the
layout's axes (y down), which is what their viewers expect.

The mesh is made tile by tile: density on a grid, kept to the inside of primitives, marching cubes,
colours of the fields at the vertices.  Columns of a tile are rays of a camera so far above that
they are vertical to a centimetre.  Points and Gaussians are what frames along the drive see.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from skimage.measure import marching_cubes

from geo3d.mesh.io import save_mesh
from geo3d.mesh.mesh import Mesh
from geo3d.progress import ProgressCallback, ignore_progress, report
from geo3d.render.cameras import Camera
from scenes.objects.gaussian_files import save_table
from scenes.urban.conditions import RayScene
from scenes.urban.config import OutputConfig
from scenes.urban.scene import Scene
from scenes.urban.views import View, look, render_frames, stations, turned_aside

_ABOVE = 20_000.0
"""Metres of the camera above a tile."""
_SOLID = 0.5
"""Metres of matter that must stop half of the light for a surface to be there."""
_LOOK_EVERY, _LOOKS = 5.0, (0.0, 35.0, -35.0)
"""Metres and degrees of the views that decide what of the mesh is kept."""
_BEHIND = 0.8
"""Metres behind what such a view sees that are kept."""
_CHUNK = 1 << 18
"""Points asked for at once; a few hundred megabytes."""
_SHADE = 0.28209479177387814
"""The constant spherical harmonic, sqrt(1 / (4 pi)): how the files of Gaussians scale colours."""


def export_all(
    scene: Scene,
    config: OutputConfig,
    folder: Path,
    progress: ProgressCallback = ignore_progress,
) -> tuple[dict[str, Any], tuple[Float[np.ndarray, "p 3"], UInt8[np.ndarray, "p 3"]]]:
    """Write the mesh, points and Gaussians as far as asked for.

    Returns:
        Their sizes, and the points in the layout's frame with their colours.
    """
    made: dict[str, Any] = {}
    cloud = np.zeros((0, 3)), np.zeros((0, 3), np.uint8)
    folder.mkdir(parents=True, exist_ok=True)
    if config.voxel > 0:
        mesh = scene_mesh(scene, config.voxel, config.reach, progress)
        if mesh is not None:
            save_mesh(mesh, folder / "mesh.glb")
            save_mesh(mesh, folder / "mesh.usdz")
            made |= {"mesh_vertices": mesh.n_vertices, "mesh_faces": mesh.n_faces}
    if config.points > 0:
        points, colours, sizes = seen_points(scene, config, progress)
        if len(points):
            cloud = points, colours
            seen = Mesh(y_up(points), np.zeros((0, 3), np.int64), colours, name="points")
            save_mesh(seen, folder / "points.ply")
            save_gaussians(folder / "gaussians.ply", points, colours, sizes)
        made["points"] = len(points)
    return made, cloud


def scene_mesh(
    scene: Scene, voxel: float, reach: float, progress: ProgressCallback = ignore_progress
) -> Mesh | None:
    """Return the surfaces seen from the drive with their colours; None where there are none."""
    tiles = list(_tiles(scene, reach))
    rays, parts = RayScene(scene.layout), []
    poses = stations(scene.layout, _LOOK_EVERY).repeat(len(_LOOKS), axis=0)
    views = [look(rays, pose, 64, segments=False) for pose in turned_aside(poses, _LOOKS)]
    for i, (x0, z0) in enumerate(tiles):
        part = _tile_mesh(scene, rays, (x0, z0), voxel)
        part = None if part is None else _seen_part(part, views, scene.config.far)
        if part is not None:
            parts.append(part)
        report(progress, "cutting out the mesh", i + 1, len(tiles))
    if not parts:
        return None
    starts = np.cumsum([0, *(len(part[0]) for part in parts[:-1])])
    faces = [part[1] + start for part, start in zip(parts, starts, strict=True)]
    vertices = y_up(np.concatenate([part[0] for part in parts]))
    colours = np.concatenate([part[2] for part in parts])
    return Mesh(vertices, np.concatenate(faces), colours, name=scene.layout.name)


def seen_points(
    scene: Scene, config: OutputConfig, progress: ProgressCallback = ignore_progress
) -> tuple[Float[np.ndarray, "p 3"], UInt8[np.ndarray, "p 3"], Float[np.ndarray, " p"]]:
    """Return points of the world that frames along the drive see, colours, and pixel sizes."""
    size = max(config.frame_size, 16)
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for view, seen in render_frames(scene, stations(scene.layout, 4.0), size, progress):
        depth = seen.depth.numpy()
        kept = (seen.acc.numpy() > 0.8) & (depth > 0) & (depth < config.reach)
        origins, directions = view.camera.rays()
        forward = directions @ view.camera.c2w[:3, 2]
        points = origins[kept] + directions[kept] * (depth / forward)[kept, None]
        colours = (seen.rgb.clamp(0, 1).numpy()[kept] * 255).round().astype(np.uint8)
        found.append((points, colours, depth[kept] / view.camera.fx))
    points, colours, sizes = (np.concatenate([part[i] for part in found]) for i in range(3))
    # near views first: they see the finest
    order = np.argsort(sizes, kind="stable")
    # one point per 5 cm: finer than a pixel of the frames from 20 m on
    cells = np.floor(points[order] / 0.05).astype(np.int64)
    _, first = np.unique(cells, axis=0, return_index=True)
    kept = order[np.sort(first)][: config.points]
    return points[kept], colours[kept], sizes[kept]


def save_gaussians(
    path: Path,
    points: Float[np.ndarray, "p 3"],
    colours: UInt8[np.ndarray, "p 3"],
    sizes: Float[np.ndarray, " p"],
) -> Path:
    """Write round Gaussians, one per point, in the columns that viewers of Gaussians read.

    They stay in the layout's frame: viewers expect y down, as captures by COLMAP have it.
    """
    table = np.zeros((len(points), 17), np.float32)
    table[:, :3] = points
    table[:, 6:9] = (colours / 255.0 - 0.5) / _SHADE
    # nearly opaque, and as wide as leaves no gap between neighbours a pixel apart
    table[:, 9] = math.log(0.95 / 0.05)
    table[:, 10:13] = np.log(np.maximum(0.6 * sizes, 1e-3))[:, None]
    table[:, 13] = 1.0
    return save_table(path, table)


def y_up(points: Float[np.ndarray, "p 3"]) -> Float[np.ndarray, "p 3"]:
    """Turn points of the street (y down) into those of the files (y up)."""
    return points * np.array([1.0, -1.0, -1.0])


def _tiles(scene: Scene, reach: float) -> Iterator[tuple[float, float]]:
    """Yield the corners (x, z) of square tiles of a cell's size near the drive."""
    side = scene.config.cell
    places = scene.layout.trajectory[:, :3, 3][:, [0, 2]]
    low, high = scene.layout.bounds()[:, [0, 2]]
    first, last = np.floor(low / side).astype(int), np.floor(high / side).astype(int)
    for i in range(first[0], last[0] + 1):
        for j in range(first[1], last[1] + 1):
            corner = np.array([i, j]) * side
            away = np.maximum(np.maximum(corner - places, places - corner - side), 0)
            if np.hypot(*away.T).min() <= reach:
                yield float(corner[0]), float(corner[1])


def _tile_mesh(
    scene: Scene, rays: RayScene, corner: tuple[float, float], voxel: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    n = math.ceil(scene.config.cell / voxel) + 1
    step = scene.config.cell / (n - 1)
    segments = _columns(rays, corner, n, step, float(np.median(scene.layout.trajectory[:, 1, 3])))
    limits = _within(scene, corner, n, step)
    segments = segments.clip(limits[..., :1], np.maximum(limits[..., 1:], limits[..., :1]))
    real = np.isfinite(segments).all(axis=3) & (segments[..., 1] > segments[..., 0])
    if not real.any():
        return None
    segments = np.where(real[..., None], segments, 0.0)
    low = math.floor(segments[..., 0][real].min() / step) - 1
    high = math.ceil(segments[..., 1][real].max() / step) + 1
    heights = np.arange(low, high + 1) * step
    # how far inside, downwards, in voxels; halfway at the surface
    inside = np.full((n, n, len(heights)), -np.inf, np.float32)
    for k in range(segments.shape[2]):
        enter, leave = segments[:, :, k, :1], segments[:, :, k, 1:]
        here = np.minimum(heights - enter, leave - heights)
        inside = np.maximum(inside, np.where(leave > enter, here, -np.inf))
    volume = np.clip(inside / step + 0.5, 0, 1)
    at = np.argwhere(volume > 0)
    points = np.stack(
        [corner[0] + at[:, 0] * step, heights[at[:, 2]], corner[1] + at[:, 1] * step], axis=1
    )
    density = _asked(scene, points)[0]
    where = tuple(at.T)
    volume[where] = np.minimum(volume[where], 1 - np.exp(-density * _SOLID))
    if volume.max() <= 0.5:
        return None
    vertices, faces, _, _ = marching_cubes(volume, 0.5)
    world = np.stack(
        [
            corner[0] + vertices[:, 0] * step,
            heights[0] + vertices[:, 2] * step,
            corner[1] + vertices[:, 1] * step,
        ],
        axis=1,
    )
    colours = (_asked(scene, world)[1] * 255).round().astype(np.uint8)
    return world, faces.astype(np.int64), colours


def _seen_part(
    part: tuple[np.ndarray, np.ndarray, np.ndarray], views: list[View], far: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Keep the faces that a view sees: what lies behind them nobody has given a colour."""
    vertices, faces, colours = part
    seen = np.zeros(len(vertices), bool)
    for view in views:
        pixels, depth = view.camera.project(vertices)
        maps, size = view.maps.depth, view.camera.width
        here = (depth > 0) & (depth < far) & (pixels >= 0).all(axis=1) & (pixels < size).all(axis=1)
        column, row = pixels[here].astype(int).T
        first = maps[row, column]
        seen[here] |= (first > 0) & (depth[here] < first * 1.05 + _BEHIND)
    faces = faces[seen[faces].any(axis=1)]
    if not len(faces):
        return None
    used, numbers = np.unique(faces, return_inverse=True)
    return vertices[used], numbers.reshape(-1, 3), colours[used]


def _within(scene: Scene, corner: tuple[float, float], n: int, step: float) -> np.ndarray:
    """Return the heights (n, n, 1, 2) between which columns [x, z] may be inside primitives.

    A wall that a vertical ray grazes has no well-defined depth.
    """
    limits = np.stack([np.full((n, n), np.inf), np.full((n, n), -np.inf)], axis=2)
    for low, high in scene.layout.primitive_bounds():
        i, j = (np.floor((low[[0, 2]] - corner) / step).astype(int)).clip(0)
        k, m = (np.ceil((high[[0, 2]] - corner) / step).astype(int) + 1).clip(0)
        part = limits[i:k, j:m]
        np.minimum(part[..., 0], low[1], out=part[..., 0])
        np.maximum(part[..., 1], high[1], out=part[..., 1])
    return limits[:, :, None]


def _columns(
    rays: RayScene, corner: tuple[float, float], n: int, step: float, ground: float
) -> Float[np.ndarray, "n n s 2"]:
    """Return the heights y (down) between which columns [x, z] are inside primitives."""
    pose = np.eye(4)
    pose[:3, :3] = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
    middle = (n - 1) / 2 * step
    pose[:3, 3] = corner[0] + middle, ground - _ABOVE, corner[1] + middle
    focal = _ABOVE / step
    camera = Camera(pose, focal, focal, n / 2, n / 2, n, n)
    found = rays.maps(camera, segments=True).segments
    if found is None:
        return np.zeros((n, n, 1, 2))
    # a ray through a crack between triangles seems to begin inside, at the camera
    real = (found[..., 1:] > found[..., :1]) & (found[..., :1] > _ABOVE / 2)
    heights = np.where(real, found.astype(np.float64) + ground - _ABOVE, 0.0)
    # rows of the image run towards smaller z
    return heights[::-1].transpose(1, 0, 2, 3)


def _asked(scene: Scene, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    density, colours = [np.zeros(0)], [np.zeros((0, 3))]
    with torch.no_grad():
        for start in range(0, len(points), _CHUNK):
            part = torch.from_numpy(points[start : start + _CHUNK]).float()
            found = scene.query(part)
            density.append(found.density.numpy())
            colours.append(found.rgb.clamp(0, 1).numpy())
            scene.blocks.trim()
    return np.concatenate(density), np.concatenate(colours)
