"""The cameras a scene is built from and looked at, along the drive, and the frames they give.

Notation: v views, h w their size; rays of all views follow each other, row by row.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from geo3d.files import atomic_path
from geo3d.layout.layout import Layout, turn
from geo3d.progress import ProgressCallback, ignore_progress, report
from geo3d.render.cameras import Camera
from geo3d.render.previews import save_png
from geo3d.render.rays import Rays
from scenes.urban.conditions import LayoutMaps, RayScene, condition_image, street_camera
from scenes.urban.config import FieldsConfig, SceneConfig, ViewConfig
from scenes.urban.constraints import LayoutRays
from scenes.urban.guidance import Guidance
from scenes.urban.lgvsd import Views
from scenes.urban.sampling import layout_rays
from scenes.urban.scene import Rendering, Scene
from scenes.urban.styles import Styles
from scenes.urban.tracker import camera_numbers

_AHEAD = 15.0
"""Metres before the camera at which a region's prompt is looked up."""


@dataclass(frozen=True, eq=False)
class View:
    """One camera and the layout it sees."""

    camera: Camera
    maps: LayoutMaps


def stations(layout: Layout, spacing: float) -> Float[np.ndarray, "v 4 4"]:
    """Return poses of the drive about every ``spacing`` metres, the first and last among them."""
    places = layout.trajectory[:, :3, 3]
    along = np.concatenate([[0], np.linalg.norm(np.diff(places, axis=0), axis=1).cumsum()])
    count = max(2, math.ceil(along[-1] / spacing) + 1)
    chosen = np.searchsorted(along, np.linspace(0, along[-1], count) - 1e-9)
    return layout.trajectory[np.unique(np.minimum(chosen, len(along) - 1))]


def turned_aside(
    poses: Float[np.ndarray, "v 4 4"], turns_deg: tuple[float, ...]
) -> Float[np.ndarray, "v 4 4"]:
    """Return poses turned about their own vertical axis by the given angles in turn."""
    turned = poses.copy()
    for i, pose in enumerate(turned):
        pose[:3, :3] = pose[:3, :3] @ turn(math.radians(turns_deg[i % len(turns_deg)]))
    return turned


def training_poses(layout: Layout, config: ViewConfig) -> Float[np.ndarray, "v 4 4"]:
    """Return the cameras a scene is built from, in the order of the drive."""
    return turned_aside(stations(layout, config.spacing), config.turns_deg)


def held_out_poses(layout: Layout, config: ViewConfig, count: int) -> Float[np.ndarray, "v 4 4"]:
    """Return cameras between those of `training_poses`, turned less."""
    n = len(stations(layout, config.spacing))
    between = np.linspace(0, len(layout.trajectory) - 1, 2 * n - 1).round().astype(int)[1::2]
    chosen = between[np.linspace(0, len(between) - 1, min(count, len(between))).round().astype(int)]
    return turned_aside(layout.trajectory[chosen], (8.0, -8.0))


def look(rays: RayScene, pose: Float[np.ndarray, "4 4"], size: int, segments: bool = True) -> View:
    """Return a view of the layout."""
    camera = street_camera(pose, size)
    return View(camera, rays.maps(camera, segments))


def view_rays(views: list[View], config: FieldsConfig) -> Rays:
    """Return the rays of all views."""
    parts = [layout_rays(view.camera, view.maps, config) for view in views]
    inside = [part.segments for part in parts if part.segments is not None]
    segments = None
    if inside:
        most = max(part.shape[1] for part in inside)
        segments = torch.cat([_padded(part, most) for part in inside])
    return Rays(
        torch.cat([part.origins for part in parts]),
        torch.cat([part.directions for part in parts]),
        torch.cat([part.radii for part in parts]),
        torch.cat([part.near for part in parts]),
        torch.cat([part.far for part in parts]),
        segments,
    )


def layout_along(views: list[View], far: float) -> LayoutRays:
    """Return what the layout says of every ray; what lies beyond ``far`` is not there."""
    depth = np.concatenate([view.maps.depth.ravel() for view in views]).astype(np.float32)
    label = np.concatenate([view.maps.label.ravel() for view in views]).astype(np.int64)
    beyond = depth >= far
    depth, label = np.where(beyond, -1, depth), np.where(beyond, -1, label)
    parts = [torch.from_numpy(np.asarray(v.maps.segments, np.float32)) for v in views]
    most = max(part.shape[2] for part in parts)
    segments = torch.cat([_padded(part.flatten(0, 1), most) for part in parts])
    return LayoutRays(torch.from_numpy(depth), torch.from_numpy(label), segments)


def conditions(views: list[View], size: int) -> Float[Tensor, "v 4 h w"]:
    """Return the teacher's input for views of its size."""
    return torch.from_numpy(np.stack([condition_image(view.maps, size) for view in views]))


def prompts_of(guidance: Guidance, layout: Layout, config: SceneConfig, views: list[View]) -> Views:
    """Return all that teacher and tracker are told of views, without the condition.

    Inside of a layout's regions their prompts hold, elsewhere that of the settings, or else the
    layout's.  A teacher that knows styles only hears the settings' where a layout's prompt names
    none.
    """
    texts = []
    for view in views:
        ahead = view.camera.position + _AHEAD * view.camera.c2w[:3, 2]
        text = layout.prompt_at(float(ahead[0]), float(ahead[2]), config.prompt)
        if text != config.prompt and isinstance(guidance.prompts, Styles):
            text = text if guidance.prompts.named_in(text) else config.prompt
        texts.append(text)
    tokens = guidance.tokens(texts)
    null = guidance.tokens("").expand_as(tokens)
    places = layout.trajectory[:, :3, 3]
    middle = (places.min(axis=0) + places.max(axis=0)) / 2
    half = max(1.0, float(np.linalg.norm(places.max(axis=0) - places.min(axis=0))) / 2)
    c2w = torch.from_numpy(np.stack([view.camera.c2w for view in views]))
    camera = camera_numbers(c2w, torch.from_numpy(middle), half)
    return Views(None, tokens, null, camera.to(tokens.device))


def _padded(segments: Tensor, most: int) -> Tensor:
    extra = most - segments.shape[1]
    return torch.cat([segments, segments.new_zeros(len(segments), extra, 2)], dim=1)


def render_frames(
    scene: Scene,
    poses: Float[np.ndarray, "n 4 4"],
    size: int,
    progress: ProgressCallback = ignore_progress,
    rays: RayScene | None = None,
) -> Iterator[tuple[View, Rendering]]:
    """Yield what cameras see, one after another.

    Args:
        rays: of the scene's layout, if there is one already.
    """
    rays = rays or RayScene(scene.layout)
    for i, pose in enumerate(poses):
        view = look(rays, pose, size)
        yield view, scene.render(view.camera, view.maps)
        report(progress, "rendering frames", i + 1, len(poses))


@torch.no_grad()
def as_bytes(seen: Rendering, finer: int = 1) -> UInt8[np.ndarray, "h w 3"]:
    """Return a rendering as an image; every pixel is the mean of ``finer``^2 rays."""
    image = seen.image().clamp(0, 1)
    if finer > 1:
        height, width = image.shape[0] // finer, image.shape[1] // finer
        image = image.view(height, finer, width, finer, 3).mean(dim=(1, 3))
    return (image * 255).round().to(torch.uint8).numpy()


def save_frames(frames: Sequence[UInt8[np.ndarray, "h w 3"]], folder: Path) -> list[Path]:
    """Write 0000.png, 0001.png, ... and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    return [save_png(frame, folder / f"{i:04d}.png") for i, frame in enumerate(frames)]


def save_film(
    frames: Sequence[UInt8[np.ndarray, "h w 3"]],
    path: str | os.PathLike[str],
    frame_rate: int = 12,
) -> Path:
    """Write an animated GIF, of twice the size, that goes on for ever."""
    target = Path(path)
    images = [Image.fromarray(frame) for frame in frames]
    size = (frames[0].shape[1] * 2, frames[0].shape[0] * 2)
    # one palette for all, or colours flicker from frame to frame
    strip = Image.fromarray(np.concatenate(frames[:: max(1, len(frames) // 8)]))
    palette = strip.quantize(256)
    shown = [p.resize(size, Image.Resampling.BICUBIC).quantize(palette=palette) for p in images]
    with atomic_path(target) as temporary:
        shown[0].save(
            temporary,
            format="GIF",
            save_all=True,
            append_images=shown[1:],
            duration=round(1000 / frame_rate),
            loop=0,
        )
    return target
