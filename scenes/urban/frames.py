"""Frames of a drive through a scene, and films of them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image

from geo3d.files import atomic_path
from geo3d.progress import ProgressCallback, ignore_progress, report
from geo3d.render.previews import save_png
from scenes.urban.conditions import RayScene
from scenes.urban.scene import Rendering, Scene
from scenes.urban.views import View, look


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
def as_bytes(seen: Rendering) -> UInt8[np.ndarray, "h w 3"]:
    """Return a rendering as an image."""
    return (seen.image().clamp(0, 1) * 255).round().to(torch.uint8).numpy()


def save_frames(frames: Sequence[UInt8[np.ndarray, "h w 3"]], folder: Path) -> list[Path]:
    """Write 0000.png, 0001.png, ... and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    return [save_png(frame, folder / f"{i:04d}.png") for i, frame in enumerate(frames)]


def save_film(
    frames: Sequence[UInt8[np.ndarray, "h w 3"]],
    path: str | os.PathLike[str],
    frame_rate: int = 12,
    scale: int = 2,
) -> Path:
    """Write an animated GIF, enlarged by ``scale``, that goes on for ever."""
    target = Path(path)
    pictures = [Image.fromarray(frame) for frame in frames]
    size = (frames[0].shape[1] * scale, frames[0].shape[0] * scale)
    # one palette for all, or colours flicker from frame to frame
    strip = Image.fromarray(np.concatenate(frames[:: max(1, len(frames) // 8)]))
    palette = strip.quantize(256)
    shown = [p.resize(size, Image.Resampling.BICUBIC).quantize(palette=palette) for p in pictures]
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
