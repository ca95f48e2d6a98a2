"""Distil the teacher into a window of the street: coarse, then fine, back on divergence.

First the constraint losses of the layout alone are minimised, which is cheap.  Then every step
renders a few cameras whole, lets teacher and tracker compare (`scenes.urban.lgvsd`) and adds the
constraint losses; the first part of the steps renders at half the size.  When a number is not
finite or the gradient grows out of size, scene and tracker go back to the last good state and the
rates are halved.

Source: Urban Architect, arXiv 2404.06780, section 3.3; settings that are stable with small teachers
from the specification, 14.3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from geo3d import checkpoints
from geo3d.device import item_generator
from geo3d.distill.score import require_finite
from geo3d.errors import NumericalError
from geo3d.progress import ProgressCallback, ignore_progress, report
from scenes.urban.config import SceneConfig
from scenes.urban.guidance import Guidance
from scenes.urban.lgvsd import LgvsdConfig, Step, at_share, distil, draw
from scenes.urban.rollback import Divergence, Rollback
from scenes.urban.sample_then_fit import (
    Bundle,
    FitSettings,
    Window,
    fit_images,
    layout_losses,
    network_of,
)
from scenes.urban.scene import Scene
from scenes.urban.teachers.painter import Teacher
from scenes.urban.tracker import Tracker
from scenes.urban.within import Saver, no_saver


def distil_window(
    scene: Scene,
    guidance: Teacher,
    tracker: Tracker | None,
    window: Window,
    config: SceneConfig,
    progress: ProgressCallback = ignore_progress,
    saver: Saver | None = None,
) -> list[dict[str, Any]]:
    """Optimise the part of the scene that a window's views see; return its divergences.

    Args:
        saver: saves the state now and then, and knows where a saved one was; a state from within
            the distillation counts as good to go back to.

    Raises:
        NumericalError: ``rollback.gave_up``.
        Cancelled: from ``progress``.
    """
    saver, stage = saver or no_saver(), f"distil/{window.number}"
    _settle(scene, window, config, progress, saver)
    if saver.is_over(stage):
        return []
    asked, work = config.optimise, _Distillation(scene, guidance, tracker, window, config)
    total = asked.steps_per_view * len(window.views)
    work.load_adam(saver.holds(stage) or {})
    before = saver.note(stage, "divergences") or []
    step = saver.start(stage) or 0
    scene.learn(asked.learning_rate * asked.rollback.slow_down ** len(before))
    guard = Rollback(work.stateful(), asked.rollback, step, [Divergence(**one) for one in before])
    while step < total:
        generator = item_generator(config.seed, f"distil/{window.number}/{step}/{guard.attempt}")
        try:
            given = work.step(step / total, generator)
            guard.check(step, given.gradient_rms)
        except NumericalError as error:
            scene.blocks.drop_gradients()
            step = guard.recover(step, error)
            scene.learn(asked.learning_rate * asked.rollback.slow_down**guard.attempt)
            continue
        step += 1
        saver.after(stage, step, work.adam_tensors, divergences=guard.report())
        report(
            progress,
            "distilling the teacher",
            step,
            total,
            gradient=given.gradient_rms,
            tracker=given.tracker_loss,
            returns=guard.attempt,
        )
    return guard.report()


def _settle(
    scene: Scene, window: Window, config: SceneConfig, progress: ProgressCallback, saver: Saver
) -> None:
    """Let matter be where the layout has it before colours are asked for."""
    constraints, asked = config.constraints, config.optimise
    if constraints.density == constraints.depth == constraints.semantics == 0:
        return
    settings = FitSettings(
        steps=asked.layout_steps * len(window.views),
        rays=config.fit.rays,
        learning_rate=asked.layout_rate,
        distortion=asked.distortion,
        seed=config.seed,
        name=f"layout/{window.number}",
    )
    fit_images(scene, window.bundle, None, constraints, settings, progress, saver)


class _Distillation:
    """One step after another on the views of a window."""

    def __init__(
        self,
        scene: Scene,
        guidance: Teacher,
        tracker: Tracker | None,
        window: Window,
        config: SceneConfig,
    ) -> None:
        self.guidance, self.known = network_of(guidance, window)
        self.scene, self.tracker = scene, tracker
        self.window, self.config = window, config
        self.objective = objective_of(config)
        self.adam = None
        if tracker is not None:
            self.adam = torch.optim.AdamW(tracker.parameters(), lr=config.optimise.tracker_rate)

    def adam_tensors(self) -> dict[str, Tensor]:
        """Return the state of the tracker's optimiser, flat."""
        if self.adam is None:
            return {}
        state = self.adam.state_dict()["state"]
        return {f"{i}/{key}": value for i, kept in state.items() for key, value in kept.items()}

    def load_adam(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what `adam_tensors` returned."""
        if self.adam is None or not tensors:
            return
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            number, _, key = name.partition("/")
            state.setdefault(int(number), {})[key] = value
        self.adam.load_state_dict({**self.adam.state_dict(), "state": state})

    def stateful(self) -> dict[str, Any]:
        """Return what goes back on divergence."""
        parts: dict[str, Any] = {"scene": self.scene.blocks}
        if self.tracker is not None and self.adam is not None:
            parts |= {"tracker": self.tracker, "tracker's optimiser": self.adam}
        return parts

    def step(self, done: float, generator: torch.Generator) -> Step:
        """Do one step."""
        config, window = self.config, self.window
        pairs = min(self.objective.pairs, len(window.views))
        chosen = torch.randperm(len(window.views), generator=generator)[:pairs]
        factor = 2 if done < config.optimise.coarse and window.size % 2 == 0 else 1
        bundle = window.bundle.select(_pixels(chosen, window.size, factor, generator))
        seen = self.scene.render(bundle.rays, generator=generator, train=True)
        side = window.size // factor
        rgb = seen.rgb.view(pairs, side, side, 3).permute(0, 3, 1, 2)
        known = self.known
        condition = None if known.condition is None else known.condition[chosen]
        views = known._replace(
            condition=condition,
            tokens=known.tokens[chosen],
            null=known.null[chosen],
            camera=known.camera[chosen],
        )
        if self.adam is not None:
            self.adam.zero_grad(set_to_none=True)
        objective = at_share(self.objective, done)
        draws = draw(self.guidance, objective, pairs, done, generator)
        images = rgb.to(self.guidance.device)
        given = distil(self.guidance, self.tracker, images, views, draws, objective)
        loss = given.loss / _entries(self.guidance) + self._layout_losses(bundle, seen)
        require_finite(loss.detach(), "The loss of distillation")
        loss.backward()
        self.scene.step()
        if self.adam is not None:
            self.adam.step()
        return given

    def _layout_losses(self, bundle: Bundle, seen: Any) -> Tensor:
        config = self.config
        weight = config.optimise.distortion
        losses = layout_losses(seen, bundle.layout, config.constraints, weight)
        return torch.stack([torch.zeros(()), *losses.values()]).sum()


def objective_of(config: SceneConfig) -> LgvsdConfig:
    """Return the distillation's settings for the method."""
    return replace(config.distil, objective="sds" if config.method == "sds" else "vsd")


def save_tracker(tracker: Tracker, path: Path) -> None:
    """Write a tracker's weights."""
    checkpoints.save(path, tracker.state_dict())


def load_tracker(tracker: Tracker, path: Path) -> None:
    """Read a tracker's weights.

    Raises:
        CheckpointError: see `geo3d.checkpoints.load_into`.
    """
    checkpoints.load_into(tracker, path)


def _pixels(views: Tensor, size: int, factor: int, generator: torch.Generator) -> Tensor:
    """Return the numbers of the rays of whole views; of every block of pixels one, by chance."""
    offset = torch.randint(factor, (2,), generator=generator)
    rows = torch.arange(0, size, factor) + offset[0]
    columns = torch.arange(0, size, factor) + offset[1]
    within = rows[:, None] * size + columns[None]
    return (views[:, None, None] * size * size + within[None]).flatten()


def _entries(guidance: Guidance) -> int:
    """Return how many numbers a z has: the loss is per entry, as those of the layout are."""
    c, height, width = guidance.latent_shape
    return c * height * width
