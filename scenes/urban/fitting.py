"""Fit a scene to pictures: colours of rays, and what the layout demands of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from geo3d.device import item_generator
from geo3d.distill.sds import require_finite
from geo3d.progress import ProgressCallback, ignore_progress, report
from geo3d.render.rays import Rays
from geo3d.render.volume import distortion
from scenes.urban.constraints import (
    ConstraintConfig,
    LayoutRays,
    RenderedRays,
    constraint_losses,
)
from scenes.urban.scene import Rendering, Scene


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
    """How `fit_pictures` goes about it."""

    steps: int
    rays: int
    learning_rate: float
    distortion: float
    seed: int
    name: str
    """Of this fit, for its random numbers."""


def demands(
    seen: Rendering, layout: LayoutRays, config: ConstraintConfig, weight: float
) -> dict[str, Tensor]:
    """Return the losses of a rendering that do not depend on its colours.

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


def fit_pictures(
    scene: Scene,
    bundle: Bundle,
    colours: Float[Tensor, "r 3"] | None,
    constraints: ConstraintConfig,
    settings: FitSettings,
    progress: ProgressCallback = ignore_progress,
) -> float:
    """Fit the scene to the colours of rays; return the last mean absolute error.

    Args:
        colours: of all rays; None fits what the layout demands alone, and returns 0.

    Raises:
        NumericalError: ``distill.not_finite``.
        Cancelled: from ``progress``.
    """
    scene.learn(settings.learning_rate)
    error = 0.0
    for step in range(settings.steps):
        generator = item_generator(settings.seed, f"{settings.name}/{step}")
        index = torch.randint(len(bundle.rays), (settings.rays,), generator=generator)
        part = bundle.select(index)
        seen = scene.render(part.rays, generator=generator, train=True)
        wanted = seen.rgb if colours is None else colours[index]
        far_off = (seen.rgb - wanted).abs().mean()
        losses = demands(seen, part.layout, constraints, settings.distortion)
        loss = torch.stack([far_off, *losses.values()]).sum()
        require_finite(loss.detach(), "The loss of fitting")
        loss.backward()
        scene.step()
        error = float(far_off.detach())
        report(progress, "fitting the scene", step + 1, settings.steps, error=error)
    return error
