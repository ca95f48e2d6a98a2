"""How well a scene keeps to its layout, to its teacher, and to itself.

* depth: |rendered depth - layout's| in metres where the layout has a surface; a ray that the scene
  lets through counts as going on to the scene's far end.
* classes: mean intersection over union of what the shipped segmenter sees with the layout.
* distance to the teacher's images of the same views: squared kernel distance (polynomial kernel
  of third degree) between features; the features are activations in the middle of the teacher's own
  UNet, averaged over the image.  It is no FID or KID: those need networks that are not shipped.
* consistency: difference of colours between a view and its neighbour, carried over by the depth.

Cameras lie between those the scene was built from.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from geo3d.device import item_generator
from geo3d.errors import InputError
from geo3d.layout.layout import Layout
from geo3d.progress import ProgressCallback, ignore_progress
from scenes.urban.conditions import RayScene
from scenes.urban.config import SceneConfig
from scenes.urban.guidance import Guidance
from scenes.urban.scene import Rendering, Scene
from scenes.urban.street_segmenter import agreement, shipped_segmenter
from scenes.urban.teachers.painter import Painter, Teacher
from scenes.urban.views import (
    View,
    as_bytes,
    conditions,
    held_out_poses,
    look,
    prompts_of,
    render_frames,
)

SIZE = 48
"""Side of the measured images without a teacher, pixels."""
_AGREES = 0.1
"""Relative difference of depths up to which a point is the same in two views."""
_LEVEL = 0.1
"""Share of the teacher's steps at which its features are taken."""
_STEP = 1.0
"""Metres between the two views of a pair."""


def measure(
    scene: Scene,
    config: SceneConfig,
    guidance: Teacher | None,
    progress: ProgressCallback = ignore_progress,
    drawn: tuple[Tensor, Tensor] | None = None,
) -> dict[str, Any]:
    """Return the numbers of a scene at held-out cameras.

    What cannot be measured is left out: classes without the shipped segmenter, the distance to the
    teacher's images without a teacher.

    Args:
        drawn: two sets of the teacher's images of these views; None draws them.
    """
    poses = held_out_poses(scene.layout, config.views, config.outputs.measured)
    size = guidance.image_size if guidance is not None else SIZE
    rays = RayScene(scene.layout)
    found = list(render_frames(scene, poses, size, progress, rays))
    views, seen = [one[0] for one in found], [one[1] for one in found]
    painted = None
    if isinstance(guidance, Painter):
        # its bodies are finer than the primitives: the depth to compare with is theirs
        cameras = [view.camera for view in views]
        painted = guidance.paint(scene.layout, cameras, config.prompt, scene.config.far)
        depths = painted.depth.numpy()
        views = [
            replace(view, maps=replace(view.maps, depth=depth))
            for view, depth in zip(views, depths, strict=True)
        ]
    near = list(zip(views, seen, strict=True))
    numbers: dict[str, Any] = {"measured_views": len(views), **depth_numbers(near, scene)}
    images = np.stack([as_bytes(one) for one in seen])
    labels = np.stack([near_labels(view, scene.config.far) for view, _ in found])
    numbers["miou"] = _miou(images, labels)
    numbers["consistency"] = consistency(scene, found, rays)
    if painted is not None:
        numbers["psnr_to_teacher"] = mean_psnr(painted.images, seen)
    elif isinstance(guidance, Guidance) and not guidance.is_latent:
        drawn = drawn or teacher_images(scene.layout, config, guidance, poses)
        numbers |= teacher_numbers(guidance, drawn, seen)
        numbers["miou_of_samples"] = _miou(_bytes(drawn[0]), labels)
    return numbers


def mean_psnr(wanted: Float[Tensor, "n 3 h w"], seen: list[Rendering]) -> float:
    """Return the mean PSNR, in dB, of renderings to images of the same views."""
    own = torch.stack([one.image().permute(2, 0, 1) for one in seen]).clamp(0, 1)
    errors = (own - wanted).square().mean(dim=(1, 2, 3)).clamp(min=1e-10)
    return float(-10 * errors.log10().mean())


def depth_numbers(found: list[tuple[View, Rendering]], scene: Scene) -> dict[str, float]:
    """Return depth errors in metres, and the shares of rays that pass or are stopped wrongly."""
    far = scene.config.far
    depth = np.concatenate([view.maps.depth.ravel() for view, _ in found])
    acc = np.concatenate([seen.acc.numpy() for _, seen in found])
    made = np.concatenate([seen.depth.numpy() for _, seen in found])
    hit, empty = (depth > 0) & (depth < far), depth < 0
    made = acc * made + (1 - acc) * far
    error = np.abs(made - depth)[hit]
    return {
        "depth_error_m": float(error.mean()) if len(error) else 0.0,
        "depth_error_median_m": float(np.median(error)) if len(error) else 0.0,
        "see_through": float((1 - acc[hit]).mean()) if hit.any() else 0.0,
        "floaters": float(acc[empty].mean()) if empty.any() else 0.0,
    }


def consistency(scene: Scene, found: list[tuple[View, Rendering]], rays: RayScene) -> float:
    """Return the mean absolute difference of colours of points seen from two places."""
    poses = np.stack([view.camera.c2w for view, _ in found])
    poses[:, :3, 3] += _STEP * poses[:, :3, 2]
    size = found[0][0].camera.width
    ahead = render_frames(scene, poses, size, rays=rays)
    errors = [_carried(a, b) for a, b in zip(found, ahead, strict=True)]
    differences = np.concatenate(errors)
    return float(differences.mean()) if len(differences) else 0.0


def teacher_images(
    layout: Layout,
    config: SceneConfig,
    guidance: Guidance,
    poses: Float[np.ndarray, "n 4 4"],
) -> tuple[Tensor, Tensor]:
    """Draw two sets of images (n, 3, h, w) of views with the teacher, from different noises."""
    rays, size = RayScene(layout), guidance.condition_size
    views = [look(rays, pose, size, segments=False) for pose in poses]
    known = prompts_of(guidance, layout, config, views)
    condition = None
    if guidance.controlnet is not None:
        condition = conditions(views, size).to(guidance.device)

    def draw(name: str) -> Tensor:
        generator = item_generator(config.seed, f"measured {name}")
        return guidance.sample(condition, known.tokens, config.sampling, generator=generator)

    return draw("one"), draw("two")


def teacher_numbers(
    guidance: Guidance, drawn: tuple[Tensor, Tensor], seen: list[Rendering]
) -> dict[str, float]:
    """Return the distance to the teacher's own images, and that of two sets of them."""
    own = torch.stack([one.image().permute(2, 0, 1) for one in seen]).clamp(0, 1)
    features = [image_features(guidance, part.to(guidance.device)) for part in (own, *drawn)]
    return {
        "feature_distance": kernel_distance(features[0], features[1]),
        "feature_distance_of_samples": kernel_distance(features[1], features[2]),
    }


@torch.no_grad()
def image_features(guidance: Guidance, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c"]:
    """Return activations in the middle of the teacher's UNet, averaged over each image."""
    kept: list[Tensor] = []
    hook = guidance.unet.mid_block.register_forward_hook(
        lambda _module, _inputs, output: kept.append(output)
    )
    try:
        z = guidance.encode(images)
        t = torch.full((len(z),), int(_LEVEL * guidance.schedule.steps), device=z.device)
        abar = guidance.schedule.abar.to(z.device)[t][:, None, None, None]
        null = guidance.tokens("").expand(len(z), -1, -1)
        # without noise, scaled as a noisy image would be: the features do not depend on a draw
        guidance.output(abar.sqrt() * z, t, null)
    finally:
        hook.remove()
    features = kept[0].float().mean(dim=(2, 3))
    return torch.nn.functional.normalize(features, dim=1).cpu()


def kernel_distance(a: Float[Tensor, "n c"], b: Float[Tensor, "m c"]) -> float:
    """Return 1000 times the squared distance of two sets in the kernel (1 + x . y)^3."""

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (1 + x @ y.T) ** 3

    return float(1000 * (kernel(a, a).mean() + kernel(b, b).mean() - 2 * kernel(a, b).mean()))


def near_labels(view: View, far: float) -> np.ndarray:
    """Return a view's classes, int8, as far as the scene goes; -1 behind."""
    return np.where(view.maps.depth < far, view.maps.label, -1).astype(np.int8)


def _carried(a: tuple[View, Rendering], b: tuple[View, Rendering]) -> np.ndarray:
    """Return the differences of the points of a that b sees too."""
    (view, seen), (other, again) = a, b
    depth, solid = seen.depth.numpy(), seen.acc.numpy() > 0.5
    origins, directions = view.camera.rays()
    forward = directions @ view.camera.c2w[:3, 2]
    points = origins + directions * (depth / forward)[:, None]
    pixels, away = other.camera.project(points[solid])
    width, height = other.camera.width, other.camera.height
    low, high = (pixels >= 0.5).all(axis=1), (pixels < (width - 0.5, height - 0.5)).all(axis=1)
    inside = (away > 0.1) & low & high
    row, column = pixels[inside, 1].astype(int), pixels[inside, 0].astype(int)
    at = row * width + column
    same = np.abs(again.depth.numpy()[at] - away[inside]) < _AGREES * away[inside]
    ours = seen.rgb.numpy()[solid][inside][same]
    return np.abs(ours - again.rgb.numpy()[at][same]).mean(axis=1)


def _miou(images: np.ndarray, labels: np.ndarray) -> float | None:
    try:
        return agreement(shipped_segmenter().labels(images), labels)["miou"]
    except InputError:
        return None


def _bytes(images: Tensor) -> np.ndarray:
    return (images.cpu() * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
