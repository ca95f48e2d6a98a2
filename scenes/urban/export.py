"""A scene as a mesh, as points and as Gaussians.

Files are in metres with y up and z towards the viewer: (x, y, z) -> (x, -y, -z); Gaussians keep the
layout's axes (y down), which is what their viewers expect.

The mesh is made tile by tile: density on a grid, kept to the inside of primitives, marching cubes,
colours of the fields at the vertices, and as a texture.  Columns of a tile are rays of a camera so
far above that they are vertical to a centimetre.  Points and Gaussians: `scenes.urban.splats`.
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
from scenes.objects.splat_formats import save_splats
from scenes.objects.texture import (
    SMALLEST_SQUARE,
    Textured,
    bake_colours,
    save_textured_glb,
    squares_of,
)
from scenes.urban.conditions import RayScene
from scenes.urban.config import OutputConfig
from scenes.urban.scene import Scene
from scenes.urban.splats import scene_discs
from scenes.urban.views import View, look, stations, turned_aside

_ABOVE = 20_000.0
"""Metres of the camera above a tile."""
_SOLID = 0.5
"""Metres of matter that must stop half of the light for a surface to be there."""
_LOOK_EVERY, _LOOKS = 5.0, (0.0, 35.0, -35.0)
"""Metres and degrees of the views that decide what of the mesh is kept."""
_BEHIND = 0.8
"""Metres behind what such a view sees that are kept."""
LARGEST_TEXTURE = 4096
"""Texels along an edge; a longer street has colours at the corners of its mesh only."""
_OUTSIDE, _INSIDE, _STEPS = 0.06, 0.42, 8
"""Metres before and behind the mesh between which a texel looks for matter, and looks on the way.
Outside of primitives nobody has taught the fields that there is nothing."""
_CHUNK = 1 << 18
"""Points asked for at once; a few hundred megabytes."""


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
            size = texture_size(mesh.n_faces, config.texture)
            if size:
                save_textured_glb(textured(scene, mesh, size), folder / "mesh_textured.glb")
            made |= {"mesh_vertices": mesh.n_vertices, "mesh_faces": mesh.n_faces}
    if config.points > 0:
        discs = scene_discs(scene, config, progress)
        if len(discs.points):
            cloud = discs.points, discs.colours
            seen = Mesh(y_up(cloud[0]), np.zeros((0, 3), np.int64), cloud[1], name="points")
            save_mesh(seen, folder / "points.ply")
            save_table(folder / "gaussians.ply", discs.table())
            save_splats(folder, discs.table())
        made["points"] = len(discs.points)
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


def texture_size(faces: int, wanted: int) -> int:
    """Return the texels along an edge of a texture: as wanted, or as many as faces need; 0 where
    that is more than `LARGEST_TEXTURE`, or none is wanted."""
    needed = max(wanted, squares_of(faces) * SMALLEST_SQUARE)
    return needed if wanted and needed <= LARGEST_TEXTURE else 0


def textured(scene: Scene, mesh: Mesh, size: int) -> Textured:
    """Return a scene's mesh with a texture baked from the scene.

    Cubes are coarser than what was painted, so a texel takes the first matter on its way through
    the surface, as a ray would.
    """

    def ask(points: np.ndarray, normals: np.ndarray) -> np.ndarray:
        found = [np.zeros((0, 3), np.uint8)]
        for start in range(0, len(points), _CHUNK):
            part = slice(start, start + _CHUNK)
            found.append(_first_matter(scene, y_up(points[part]), y_up(normals[part])))
        return np.concatenate(found)

    return bake_colours(mesh, size, ask)


def _first_matter(
    scene: Scene, points: Float[np.ndarray, "p 3"], normals: Float[np.ndarray, "p 3"]
) -> UInt8[np.ndarray, "p 3"]:
    """Return the colours that rays against the normals see near points, in the layout's frame."""
    left, colours = np.ones(len(points)), np.zeros((len(points), 3))
    step = (_OUTSIDE + _INSIDE) / _STEPS
    for i in range(_STEPS):
        at = points + (_OUTSIDE - (i + 0.5) * step) * normals
        density, rgb = _asked(scene, at)
        # what is left over at the end takes the colour deepest inside
        is_last = i == _STEPS - 1
        weight = left if is_last else left * (1 - np.exp(-density * step))
        colours += weight[:, None] * rgb
        left = left - weight
    return (colours.clip(0, 1) * 255).round().astype(np.uint8)


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
