"""Training of the network of places, on generated creatures.

    config = load_config(AnatomyTrainingConfig, overrides=["bodies=folder"])
    train_anatomy(config, Path("out"))    # again after an interruption: goes on, bit by bit

The loss is the mean distance of the points that are clear to their places.  Every eighth body is
held out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from geo3d.config import config_to_dict, require, require_at_least
from geo3d.device import item_generator
from geo3d.errors import InputError
from geo3d.progress import MetricsCallback, ProgressCallback, ignore_progress
from geo3d.work import schedules
from geo3d.work.examples import examples
from geo3d.work.gradients import Clipper
from geo3d.work.state import TrainingState, running_average
from geo3d.work.training import Backward, Method, Numbers, Plan, run_training
from shape_matching.anatomy.data import BodiesConfig, Body, read_body
from shape_matching.anatomy.network import Anatomy, AnatomyConfig, save_anatomy
from shape_matching.prior.feature_network import stack_surfaces

NETWORK = "anatomy.safetensors"
HELD_OUT = 8
"""One body of so many is held out."""
LARGEST_GRADIENT = 1.0


@dataclass(frozen=True)
class AnatomyTrainingConfig:
    """Settings of `train_anatomy`; the defaults are the recipe of the shipped network."""

    bodies: str = ""
    """Folder of the bodies; made when they are missing."""
    data: BodiesConfig = field(default_factory=BodiesConfig)
    """What the bodies are."""
    network: AnatomyConfig = field(default_factory=AnatomyConfig)
    steps: int = 2000
    """Optimiser steps."""
    batch: int = 8
    """Bodies per step."""
    learning_rate: float = 3e-3
    """The highest; it rises over ``warmup`` steps and falls to 0 along a cosine."""
    warmup: int = 200
    weight_decay: float = 1e-3
    ema_decay: float = 0.99
    """Weight of the running average of the weights, per step."""
    log_every: int = 20
    """Steps per line of metrics."""
    validate_every: int = 500
    """Steps between measurements on held-out bodies."""
    checkpoint_seconds: float = 120.0
    seed: int = 0

    def __post_init__(self) -> None:
        require_at_least(self, 1, "steps batch log_every validate_every warmup")
        require(self.learning_rate > 0, "learning_rate", "above 0")
        require(0 <= self.ema_decay < 1, "ema_decay", "in [0, 1)")


def train_anatomy(
    config: AnatomyTrainingConfig,
    out: Path,
    *,
    log_metrics: MetricsCallback = ignore_progress,
    progress: ProgressCallback = ignore_progress,
) -> dict[str, Any]:
    """Train a network into ``out`` (``anatomy.safetensors``) and return its final numbers.

    A ``checkpoint.safetensors`` in ``out`` is resumed from; one is written, with the network so
    far, every ``checkpoint_seconds`` and when the job is cancelled.

    Raises:
        InputError: ``anatomy_training.too_few``; ``anatomy_data.bad_body``.
        NumericalError: ``training.diverged``.
        CheckpointError: ``checkpoint.other_training``.
    """
    training = _AnatomyTraining(config)
    plan = Plan.of(config, "training the places", config.steps, partial(learning_rate, config))
    numbers = run_training(
        training, plan, out, training.settings, log_metrics=log_metrics, progress=progress
    )
    return {**numbers, "bodies": len(training.shown), "held_out_bodies": len(training.held_out)}


class _AnatomyTraining(Method):
    """A network, the average of its weights, and the bodies."""

    def __init__(self, config: AnatomyTrainingConfig) -> None:
        self.config = config
        self.shown, self.held_out = load_bodies(config)
        self.network = Anatomy(config.network, item_generator(config.seed, "anatomy weights"))
        optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        average = running_average(
            self.network, lambda step: min(config.ema_decay, step / (step + 10))
        )
        self.average = cast(Anatomy, average.module)
        clipper = Clipper(LARGEST_GRADIENT)
        super().__init__(TrainingState(self.network, optimizer, [average], clipper))
        # the folder's name says enough; where it lay is nobody else's business
        bodies = f"{len(self.shown)} and {len(self.held_out)} bodies"
        self.settings = {**config_to_dict(config), "bodies": bodies}

    def gradients(self, backward: Backward) -> Numbers:
        generator = item_generator(self.config.seed, f"anatomy step {self.state.step}")
        drawn = torch.randint(len(self.shown), (self.config.batch,), generator=generator)
        loss = gaps(self.network, [self.shown[int(i)] for i in drawn]).mean()
        backward(loss)
        return {"loss": float(loss.detach())}

    def moved(self) -> None:
        self.network.network.constrain()

    def validate(self) -> Numbers:
        return held_out_gaps(self.average, self.held_out)

    def export(self, out: Path, *, is_last: bool) -> None:
        numbers = self.state.numbers
        held = {name: numbers[name] for name in numbers if name.startswith("gap")}
        self.average.info = {"training": self.settings, "steps": self.state.step, **held}
        save_anatomy(out / NETWORK, self.average, "float16")


def load_bodies(config: AnatomyTrainingConfig) -> tuple[list[Body], list[Body]]:
    """Return the bodies to learn from and those held out.

    Raises:
        InputError: ``anatomy_training.too_few``; ``anatomy_data.bad_body``.
    """
    files = examples(config.bodies, config.data.bodies)
    sides: tuple[list[Body], list[Body]] = ([], [])
    for n, path in files:
        sides[n % HELD_OUT == HELD_OUT - 1].append(read_body(path, config.network))
    if not sides[0] or not sides[1]:
        raise InputError(
            "anatomy_training.too_few",
            f"{config.bodies or 'The folder'} has {len(files)} bodies; {HELD_OUT} are the least.",
            "Make more: raise --creatures.",
        )
    return sides


def gaps(network: Anatomy, bodies: Sequence[Body]) -> Float[Tensor, " n"]:
    """Return the distances of all clear points of some bodies to their places."""
    both = stack_surfaces([body.view.surface for body in bodies])
    found = network(torch.stack([body.view.descriptors for body in bodies]), both)
    known = torch.stack([body.known for body in bodies])
    wanted = torch.stack([body.places for body in bodies])
    return (found - wanted)[known].norm(dim=-1)


@torch.no_grad()
def held_out_gaps(network: Anatomy, bodies: Sequence[Body]) -> dict[str, float]:
    """Return the mean and the median distance to the places, x100."""
    found = torch.cat([gaps(network, [body]) for body in bodies])
    return {"gap_mean": 100 * float(found.mean()), "gap_median": 100 * float(found.median())}


def learning_rate(config: AnatomyTrainingConfig, step: int) -> float:
    """Return the learning rate of the step that follows ``step`` steps."""
    rise = schedules.rise(step + 1, config.warmup)
    return config.learning_rate * rise * schedules.cosine(step, config.steps)
