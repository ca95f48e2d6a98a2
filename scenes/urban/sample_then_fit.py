"""Sample, then fit: the teacher draws every view of a window, the scene is fitted to them.

All views start from the same noise, which keeps their look alike.  In further rounds the scene's
renderings are noised part of the way and drawn again (SDEdit), which brings them together: what
one view made up, the others have seen by then.

Source: the specification, 14.6; Meng et al. 2022 (SDEdit), Haque et al. 2023 for the rounds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from geo3d.device import item_generator
from geo3d.progress import ProgressCallback, ignore_progress
from scenes.urban.conditions import RayScene
from scenes.urban.config import SceneConfig
from scenes.urban.fitting import Bundle, FitSettings, fit_pictures
from scenes.urban.guidance import Guidance
from scenes.urban.lgvsd import Views
from scenes.urban.resample import ResampleConfig, resample
from scenes.urban.scene import Scene
from scenes.urban.views import View, conditions, layout_along, look, prompts_of, view_rays


@dataclass(frozen=True, eq=False)
class Window:
    """Views worked on together, made ready for teacher and scene."""

    number: int
    views: list[View]
    known: Views
    """What the teacher is told."""
    bundle: Bundle
    size: int


def make_window(
    scene: Scene,
    guidance: Guidance,
    config: SceneConfig,
    poses: Any,
    number: int,
    rays: RayScene | None = None,
) -> Window:
    """Cast the layout for the views at ``poses`` (v, 4, 4).

    Args:
        rays: of the scene's layout, if there is one already.
    """
    size = config.views.size or guidance.image_size
    if config.method == "sample_then_fit":
        size *= config.fit.oversample
    rays = rays or RayScene(scene.layout)
    views = [look(rays, pose, size) for pose in poses]
    given = views
    if guidance.condition_size != size:
        given = [look(rays, pose, guidance.condition_size, segments=False) for pose in poses]
    known = prompts_of(guidance, scene.layout, config, views)
    if guidance.controlnet is not None and config.distil.use_layout:
        seen = conditions(given, guidance.condition_size).to(guidance.device)
        known = known._replace(condition=seen)
    fields = scene.config
    bundle = Bundle(view_rays(views, fields), layout_along(views, fields.far))
    return Window(number, views, known, bundle, size)


def draw_pictures(
    guidance: Guidance,
    window: Window,
    config: SceneConfig,
    progress: ProgressCallback = ignore_progress,
) -> Float[Tensor, "v 3 h w"]:
    """Return the teacher's pictures of a window's views; all windows share one noise."""
    return guidance.sample(
        window.known.condition,
        window.known.tokens,
        config.sampling,
        generator=item_generator(config.seed, "noise of pictures"),
        progress=progress,
    ).cpu()


def redraw_pictures(
    scene: Scene,
    guidance: Guidance,
    window: Window,
    config: SceneConfig,
    progress: ProgressCallback = ignore_progress,
) -> Float[Tensor, "v 3 h w"]:
    """Return the scene's renderings of the views, refined by the teacher."""
    known = window.known
    return resample(
        guidance,
        render_views(scene, window).to(guidance.device),
        (known.condition, known.tokens, known.null),
        ResampleConfig(config.sampling, config.fit.strength),
        generator=item_generator(config.seed, "noise of pictures"),
        progress=progress,
    ).cpu()


@torch.no_grad()
def render_views(scene: Scene, window: Window) -> Float[Tensor, "v 3 h w"]:
    """Return renderings of a window's views in [0, 1]."""
    seen = scene.render(window.bundle.rays).rgb.clamp(0, 1)
    size = window.size
    return seen.view(-1, size, size, 3).permute(0, 3, 1, 2).contiguous()


def colours_of(pictures: Float[Tensor, "v 3 h w"], size: int) -> Float[Tensor, "r 3"]:
    """Return the colours of all rays, pictures resized to ``size`` where needed."""
    if pictures.shape[-1] != size:
        pictures = torch.nn.functional.interpolate(
            pictures, (size, size), mode="bilinear", antialias=True
        )
    return pictures.permute(0, 2, 3, 1).reshape(-1, 3)


def fit_window(
    scene: Scene,
    guidance: Guidance,
    window: Window,
    config: SceneConfig,
    rounds: range,
    progress: ProgressCallback = ignore_progress,
) -> tuple[Tensor, float]:
    """Do rounds of drawing and fitting; return the last pictures and the last error.

    Args:
        rounds: round 0 draws from noise, later ones refine.
    """
    pictures, error = torch.zeros(0), 0.0
    for number in rounds:
        if number == 0:
            pictures = draw_pictures(guidance, window, config, progress)
        else:
            pictures = redraw_pictures(scene, guidance, window, config, progress)
        fit = config.fit
        settings = FitSettings(
            steps=fit.steps_per_view * len(window.views),
            rays=fit.rays,
            learning_rate=fit.learning_rate / (1 + number),
            distortion=fit.distortion,
            seed=config.seed,
            name=f"fit/{window.number}/{number}",
        )
        colours = colours_of(pictures, window.size)
        error = fit_pictures(scene, window.bundle, colours, config.constraints, settings, progress)
    return pictures, error
