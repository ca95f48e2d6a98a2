"""Training of correctors: towards the true map, from maps that the search found.

    config = load_config(CorrectorTrainingConfig, overrides=["data=examples"])
    train_corrector(config, Path("out"))    # again after an interruption: goes on, bit by bit

The loss is |C - C*|^2, summed over both directions.  Every eighth pair is held out.
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
from shape_matching.corrector.corrector import Corrector, CorrectorConfig, save_corrector
from shape_matching.corrector.data import CorrectorDataConfig, Example, read_example

CORRECTOR = "corrector.safetensors"
HELD_OUT = 8
"""One pair of so many is held out."""
WORST_ERROR, WORST_RATIO = 12.0, 2.0
"""Maps with a larger error, and more than that many times the error of the best map of their pair,
are not shown: nobody could correct them."""
LARGEST_GRADIENT = 1.0


@dataclass(frozen=True)
class CorrectorTrainingConfig:
    """Settings of `train_corrector`; the defaults are the recipe of the shipped corrector."""

    examples: str = ""
    """Folder of the examples; made when they are missing."""
    data: CorrectorDataConfig = field(default_factory=CorrectorDataConfig)
    """What the examples are."""
    network: CorrectorConfig = field(default_factory=CorrectorConfig)
    steps: int = 4000
    """Optimiser steps."""
    batch: int = 4
    """Maps per step."""
    learning_rate: float = 2e-3
    """The highest; it rises over ``warmup`` steps and falls to 0 along a cosine."""
    warmup: int = 400
    weight_decay: float = 1e-4
    ema_decay: float = 0.995
    """Weight of the running average of the weights, per step."""
    log_every: int = 20
    """Steps per line of metrics."""
    validate_every: int = 500
    """Steps between measurements on held-out pairs."""
    checkpoint_seconds: float = 120.0
    seed: int = 0

    def __post_init__(self) -> None:
        require_at_least(self, 1, "steps batch log_every validate_every warmup")
        require(self.learning_rate > 0, "learning_rate", "above 0")
        require(0 <= self.ema_decay < 1, "ema_decay", "in [0, 1)")


def train_corrector(
    config: CorrectorTrainingConfig,
    out: Path,
    *,
    log_metrics: MetricsCallback = ignore_progress,
    progress: ProgressCallback = ignore_progress,
) -> dict[str, Any]:
    """Train a corrector into ``out`` (``corrector.safetensors``) and return its final numbers.

    A ``checkpoint.safetensors`` in ``out`` is resumed from; one is written, with the corrector so
    far, every ``checkpoint_seconds`` and when the job is cancelled.

    Raises:
        InputError: ``corrector_training.too_few``; ``corrector_data.bad_example``.
        NumericalError: ``training.diverged``.
        CheckpointError: ``checkpoint.other_training``.
    """
    training = _CorrectorTraining(config)
    rate = partial(learning_rate, config)
    plan = Plan.of(config, "training the corrector", config.steps, rate)
    numbers = run_training(
        training, plan, out, training.settings, log_metrics=log_metrics, progress=progress
    )
    return {**numbers, "pairs": len(training.shown), "held_out_pairs": len(training.held_out)}


class _CorrectorTraining(Method):
    """A corrector, the average of its weights, and the examples."""

    def __init__(self, config: CorrectorTrainingConfig) -> None:
        self.config = config
        self.shown, self.held_out = load_examples(config)
        self.network = Corrector(config.network, item_generator(config.seed, "corrector weights"))
        optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        average = running_average(
            self.network, lambda step: min(config.ema_decay, step / (step + 10))
        )
        self.average = cast(Corrector, average.module)
        clipper = Clipper(LARGEST_GRADIENT)
        super().__init__(TrainingState(self.network, optimizer, [average], clipper))
        # the folder's name says enough; where it lay is nobody else's business
        pairs = f"{len(self.shown)} and {len(self.held_out)} pairs"
        self.settings = {**config_to_dict(config), "examples": pairs}

    def gradients(self, backward: Backward) -> Numbers:
        batch = self.config.batch
        generator = item_generator(self.config.seed, f"corrector step {self.state.step}")
        total = 0.0
        for _ in range(batch):
            example = self.shown[int(torch.randint(len(self.shown), (), generator=generator))]
            choices = usable(example)
            i = choices[int(torch.randint(len(choices), (), generator=generator))]
            corrected = self.network(example.found[i], *example.views, _turn(generator))
            loss = (corrected - example.truth).square().sum() / (2 * batch)
            backward(loss)
            total += float(loss.detach())
        return {"loss": total}

    def moved(self) -> None:
        self.network.network.constrain()

    def validate(self) -> Numbers:
        return held_out_errors(self.average, self.held_out)

    def export(self, out: Path, *, is_last: bool) -> None:
        numbers = self.state.numbers
        held = {name: numbers[name] for name in numbers if name.startswith(("dist", "share"))}
        self.average.info = {"training": self.settings, "steps": self.state.step, **held}
        save_corrector(out / CORRECTOR, self.average, "float16")


def load_examples(config: CorrectorTrainingConfig) -> tuple[list[Example], list[Example]]:
    """Return the examples to learn from and those held out.

    Raises:
        InputError: ``corrector_training.too_few``; ``corrector_data.bad_example``.
    """
    files = examples(config.examples, config.data.pairs)
    sides: tuple[list[Example], list[Example]] = ([], [])
    for n, path in files:
        held = n % HELD_OUT == HELD_OUT - 1
        sides[held].append(read_example(path, config.network))
    if not sides[0] or not sides[1]:
        raise InputError(
            "corrector_training.too_few",
            f"{config.examples or 'The folder'} has {len(files)} examples; {HELD_OUT} are the "
            "least.",
            "Make more: raise --pairs.",
        )
    return sides


def held_out_errors(corrector: Corrector, examples: Sequence[Example]) -> dict[str, float]:
    """Return the mean distance |C - C*| of the maps shown before and after correction, and the
    share that became better."""
    before, after = [], []
    with torch.no_grad():
        for example in examples:
            for i in usable(example):
                corrected = corrector(example.found[i], *example.views)
                for side, fmaps in ((before, example.found[i]), (after, corrected)):
                    side.append(float((fmaps - example.truth).norm(dim=(1, 2)).mean()))
    pairs = list(zip(before, after, strict=True))
    return {
        "distance_before": sum(before) / len(pairs),
        "distance_after": sum(after) / len(pairs),
        "share_better": sum(b > a for b, a in pairs) / len(pairs),
    }


def usable(example: Example) -> list[int]:
    """Return which of the search's maps are shown."""
    limit = max(WORST_ERROR, WORST_RATIO * float(example.errors.min()))
    return [i for i, error in enumerate(example.errors.tolist()) if error <= limit]


def learning_rate(config: CorrectorTrainingConfig, step: int) -> float:
    """Return the learning rate of the step that follows ``step`` steps."""
    rise = schedules.rise(step + 1, config.warmup)
    return config.learning_rate * rise * schedules.cosine(step, config.steps)


def _turn(generator: torch.Generator) -> Float[Tensor, "3 3"]:
    """Return a random orthogonal matrix; half of them are reflections."""
    return torch.linalg.qr(torch.randn(3, 3, generator=generator))[0]
