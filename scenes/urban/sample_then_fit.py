"""Sample, then fit: the teacher draws every view of a window, the scene is fitted to the images.

All views start from the same noise, which keeps their look alike.  In further rounds the scene's
renderings are noised part of the way and drawn again (SDEdit), which brings them together: what
one view made up, the others have seen by then.

Source: the specification, 14.6; Meng et al. 2022 (SDEdit), Haque et al. 2023 for the rounds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from geo3d.device import item_generator
from geo3d.distill.score import require_finite
from geo3d.progress import ProgressCallback, ignore_progress, report
from geo3d.render.rays import Rays
from geo3d.render.volume import distortion
from scenes.urban.conditions import RayScene
from scenes.urban.config import SceneConfig
from scenes.urban.constraints import (
    ConstraintConfig,
    LayoutRays,
    RenderedRays,
    constraint_losses,
)
from scenes.urban.guidance import Guidance
from scenes.urban.lgvsd import Views
from scenes.urban.resample import ResampleConfig, resample
from scenes.urban.scene import Rendering, Scene
from scenes.urban.surface_fit import surface_losses
from scenes.urban.teachers.choice import require_network
from scenes.urban.teachers.painter import Painter, Teacher
from scenes.urban.views import View, conditions, layout_along, look, prompts_of, view_rays
from scenes.urban.within import Saver, no_saver


class Bundle(NamedTuple):
    """Rays of several views and the layout along them."""

    rays: Rays
    layout: LayoutRays

    def select(self, index: Tensor) -> Bundle:
        """Return some of the rays."""
        known = self.layout
        part = LayoutRays(known.depth[index], known.label[index], known.segments[index])
        return Bundle(self.rays.select(index), part)


@dataclass(frozen=True)
class FitSettings:
    """How `fit_images` goes about it."""

    steps: int
    rays: int
    learning_rate: float
    distortion: float
    seed: int
    name: str
    """Of this fit, for its random numbers."""
    surface: int = 0
    """Points on surfaces per step."""
    final_rate: float = 1.0
    """Share of the learning rate at the last step; it falls over the second half."""

    def rate_at(self, share: float) -> float:
        """Return the learning rate after this share of the steps."""
        return self.learning_rate * self.final_rate ** max(0.0, 2 * share - 1)


def layout_losses(
    seen: Rendering, layout: LayoutRays, config: ConstraintConfig, weight: float
) -> dict[str, Tensor]:
    """Return the losses of a rendering that do not depend on its colours: those of the layout's
    constraints, and the distortion.

    Args:
        seen: made with training on.
        layout: along all its rays.
        weight: of the distortion.
    """
    if not bool(seen.sampled.any()):
        return {}
    at = seen.sampled
    logits = seen.classes[at] if seen.classes.shape[1] else None
    rendered = RenderedRays(seen.depth[at], seen.weights, seen.middles, logits)
    known = LayoutRays(layout.depth[at], layout.label[at], layout.segments[at])
    losses = constraint_losses(rendered, known, config)
    if weight > 0:
        losses["distortion"] = weight * distortion(seen.s, seen.weights).mean()
    return losses


def fit_images(
    scene: Scene,
    bundle: Bundle,
    colours: Float[Tensor, "r 3"] | None,
    constraints: ConstraintConfig,
    settings: FitSettings,
    progress: ProgressCallback = ignore_progress,
    saver: Saver | None = None,
) -> float:
    """Fit the scene to the colours of rays; return the last mean absolute error.

    Args:
        saver: saves the state now and then, and knows where a saved one was.
        colours: of all rays; None minimises the constraint losses alone, and returns 0.

    Raises:
        NumericalError: ``distill.not_finite``.
        Cancelled: from ``progress``.
    """
    error = 0.0
    saver = saver or no_saver()
    first = saver.start(settings.name)
    for step in range(settings.steps if first is None else first, settings.steps):
        scene.learn(settings.rate_at(step / settings.steps))
        generator = item_generator(settings.seed, f"{settings.name}/{step}")
        index = torch.randint(len(bundle.rays), (settings.rays,), generator=generator)
        part = bundle.select(index)
        seen = scene.render(part.rays, generator=generator, train=True)
        wanted = seen.rgb if colours is None else colours[index]
        far_off = (seen.rgb - wanted).abs().mean()
        losses = layout_losses(seen, part.layout, constraints, settings.distortion)
        if settings.surface and colours is not None:
            losses |= surface_losses(scene, bundle, colours, settings.surface, generator)
        loss = torch.stack([far_off, *losses.values()]).sum()
        require_finite(loss.detach(), "The loss of fitting")
        loss.backward()
        scene.step()
        error = float(far_off.detach())
        saver.after(
            settings.name, step + 1, lambda: {} if colours is None else {"colours": colours}
        )
        report(progress, "fitting the scene", step + 1, settings.steps, error=error)
    return error


@dataclass(frozen=True, eq=False)
class Window:
    """Views worked on together, made ready for teacher and scene."""

    number: int
    views: list[View]
    known: Views | None
    """What a network is told."""
    bundle: Bundle
    size: int
    painted: Float[Tensor, "v 3 h w"] | None = None
    """The painter's images, if that is the teacher."""


def make_window(
    scene: Scene,
    guidance: Teacher,
    config: SceneConfig,
    poses: Any,
    number: int,
    rays: RayScene | None = None,
) -> Window:
    """Cast the layout for the views at ``poses`` (v, 4, 4).

    Args:
        rays: of the scene's layout, if there is one already.
    """
    if isinstance(guidance, Painter):
        return _painted_window(scene, guidance, config, poses, number, rays)
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


def _painted_window(
    scene: Scene,
    painter: Painter,
    config: SceneConfig,
    poses: Any,
    number: int,
    rays: RayScene | None,
) -> Window:
    """Let the painter paint the views at once: it knows how far its bodies are, which are finer
    than the layout's primitives."""
    size, fields = config.views.size or painter.image_size, scene.config
    rays = rays or RayScene(scene.layout)
    views = [look(rays, pose, size) for pose in poses]
    cameras = [view.camera for view in views]
    painted = painter.paint(scene.layout, cameras, config.prompt, fields.far)
    along = layout_along(views, fields.far)
    depth, label = painted.depth.flatten(), painted.label.flatten()
    beyond = depth >= fields.far
    along = LayoutRays(depth.masked_fill(beyond, -1), label.masked_fill(beyond, -1), along.segments)
    bundle = Bundle(view_rays(views, fields), along)
    return Window(number, views, None, bundle, size, painted.images)


def network_of(teacher: Teacher, window: Window) -> tuple[Guidance, Views]:
    """Return a teacher that is a network, and what it is told of a window.

    Raises:
        ConfigError: ``teacher.no_score`` for the painter.
    """
    network = require_network(teacher)
    if window.known is None:
        raise ValueError("a window of the painter's was given with a network")
    return network, window.known


def draw_images(
    guidance: Teacher,
    window: Window,
    config: SceneConfig,
    progress: ProgressCallback = ignore_progress,
) -> Float[Tensor, "v 3 h w"]:
    """Return the teacher's images of a window's views; all windows share one noise."""
    if window.painted is not None:
        return window.painted
    network, known = network_of(guidance, window)
    return network.sample(
        known.condition,
        known.tokens,
        config.sampling,
        generator=item_generator(config.seed, "noise of pictures"),
        progress=progress,
    ).cpu()


def redraw_images(
    scene: Scene,
    guidance: Teacher,
    window: Window,
    config: SceneConfig,
    progress: ProgressCallback = ignore_progress,
) -> Float[Tensor, "v 3 h w"]:
    """Return the scene's renderings of the views, refined by the teacher."""
    network, known = network_of(guidance, window)
    return resample(
        network,
        render_views(scene, window).to(network.device),
        (known.condition, known.tokens, known.null),
        ResampleConfig(config.sampling, config.fit.strength, config.fit.repeats),
        generator=item_generator(config.seed, "noise of pictures"),
        progress=progress,
    ).cpu()


@torch.no_grad()
def render_views(scene: Scene, window: Window) -> Float[Tensor, "v 3 h w"]:
    """Return renderings of a window's views in [0, 1]."""
    seen = scene.render(window.bundle.rays).rgb.clamp(0, 1)
    size = window.size
    return seen.view(-1, size, size, 3).permute(0, 3, 1, 2).contiguous()


def colours_of(images: Float[Tensor, "v 3 h w"], size: int) -> Float[Tensor, "r 3"]:
    """Return the colours of all rays, images resized to ``size`` where needed."""
    if images.shape[-1] != size:
        images = torch.nn.functional.interpolate(
            images, (size, size), mode="bilinear", antialias=True
        )
    return images.permute(0, 2, 3, 1).reshape(-1, 3)


def prepare_round(
    scene: Scene,
    guidance: Teacher,
    window: Window,
    config: SceneConfig,
    number: int,
    progress: ProgressCallback = ignore_progress,
) -> tuple[Float[Tensor, "v 3 h w"], FitSettings]:
    """Return the images of a round, and how to fit to them; round 0 draws from noise."""
    if isinstance(guidance, Painter) or number == 0:
        images = draw_images(guidance, window, config, progress)
    else:
        images = redraw_images(scene, guidance, window, config, progress)
    return images, round_settings(window, config, number)


def fit_window(
    scene: Scene,
    guidance: Teacher,
    window: Window,
    config: SceneConfig,
    rounds: range,
    progress: ProgressCallback = ignore_progress,
    saver: Saver | None = None,
) -> tuple[Tensor, float]:
    """Do rounds of drawing and fitting; return the last images and the last error.

    Args:
        saver: see `fit_images`; rounds that a saved state had behind it are left out.
        rounds: round 0 draws from noise, later ones refine.
    """
    images, error = torch.zeros(0), 0.0
    saver = saver or no_saver()
    for number in rounds:
        settings = round_settings(window, config, number)
        if saver.is_over(settings.name):
            continue
        if (kept := saver.holds(settings.name)) is not None:
            colours = kept["colours"]
            images = colours.view(-1, window.size, window.size, 3).permute(0, 3, 1, 2)
        else:
            images, _ = prepare_round(scene, guidance, window, config, number, progress)
            colours = colours_of(images, window.size)
        known = config.constraints
        error = fit_images(scene, window.bundle, colours, known, settings, progress, saver)
    return images, error


def round_settings(window: Window, config: SceneConfig, number: int) -> FitSettings:
    """Return how to fit in a round; the rate falls from one to the next."""
    fit, name = config.fit, f"fit/{window.number}/{number}"
    steps, rate = fit.steps_per_view * len(window.views), fit.learning_rate / (1 + number)
    settings = FitSettings(steps, fit.rays, rate, fit.distortion, config.seed, name)
    return replace(settings, surface=fit.surface, final_rate=fit.final_rate)
