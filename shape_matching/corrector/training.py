"""Training of correctors: towards the true map, from maps that the search found.

    config = load_config(CorrectorTrainingConfig, overrides=["data=examples"])
    train_corrector(config, Path("out"))    # again after an interruption: goes on, bit by bit

The loss is |C - C*|^2, summed over both directions.  Every eighth pair is held out.
"""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from geo3d.config import config_to_dict
from geo3d.device import item_generator
from geo3d.errors import Cancelled, ConfigError, InputError, NumericalError
from geo3d.progress import ProgressCallback, ignore_progress, report
from geo3d.work.state import TrainingState, load_state, save_state, update_average
from shape_matching.corrector.corrector import Corrector, CorrectorConfig, save_corrector
from shape_matching.corrector.data import CorrectorDataConfig, Example, example_path, read_example

log = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.safetensors"
CORRECTOR = "corrector.safetensors"
HELD_OUT = 8
"""One pair of so many is held out."""
WORST_ERROR, WORST_RATIO = 12.0, 2.0
"""Maps with a larger error, and more than that many times the error of the best map of their pair,
are not shown: nobody could correct them."""
LARGEST_GRADIENT = 1.0
Log = Callable[[Mapping[str, Any]], None]


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
        for name in ("steps", "batch", "log_every", "validate_every", "warmup"):
            if getattr(self, name) < 1:
                raise ConfigError("config.bad_value", f"{name} must be at least 1.", "")
        if self.learning_rate <= 0 or not 0 <= self.ema_decay < 1:
            raise ConfigError(
                "config.bad_value",
                "learning_rate must be positive and ema_decay in [0, 1).",
                "",
            )


def train_corrector(
    config: CorrectorTrainingConfig,
    out: Path,
    *,
    log_metrics: Log = ignore_progress,
    progress: ProgressCallback = ignore_progress,
) -> dict[str, Any]:
    """Train a corrector into ``out`` (``corrector.safetensors``) and return its final numbers.

    A ``checkpoint.safetensors`` in ``out`` is gone on from; one is written every
    ``checkpoint_seconds`` and when the job is cancelled.

    Raises:
        InputError: ``corrector_training.too_few``; ``corrector_data.bad_example``.
        NumericalError: ``corrector_training.diverged``.
        CheckpointError: ``checkpoint.other_training``.
    """
    shown, held_out = load_examples(config)
    network = Corrector(config.network, item_generator(config.seed, "corrector weights"))
    average = copy.deepcopy(network).requires_grad_(False)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    state = TrainingState(network, average, optimizer)
    # the folder's name says enough; where it lay is nobody else's business
    settings = {**config_to_dict(config), "examples": f"{len(shown)} and {len(held_out)} pairs"}
    if (out / CHECKPOINT).is_file():
        load_state(out / CHECKPOINT, state, settings)
        log.info("resumed at step %d", state.step)
    final: dict[str, Any] = {}

    def save() -> None:
        save_state(out / CHECKPOINT, state, settings)
        held = {name: value for name, value in final.items() if name.startswith(("dist", "share"))}
        average.info = {"training": settings, "steps": state.step, **held}
        save_corrector(out / CORRECTOR, average, "float16")

    since, losses = time.monotonic(), []
    try:
        while state.step < config.steps:
            losses.append(_step(config, state, shown))
            is_last = state.step == config.steps
            if is_last or state.step % config.log_every == 0:
                final = _metrics(config, state, losses, held_out, is_last)
                losses.clear()
                log_metrics(final)
            if time.monotonic() - since >= config.checkpoint_seconds:
                save()
                since = time.monotonic()
            report(progress, "training the corrector", state.step, config.steps)
    except (Cancelled, KeyboardInterrupt):
        save()
        raise
    save()
    return {**final, "pairs": len(shown), "held_out_pairs": len(held_out)}


def load_examples(config: CorrectorTrainingConfig) -> tuple[list[Example], list[Example]]:
    """Return the examples to learn from and those held out.

    Raises:
        InputError: ``corrector_training.too_few``; ``corrector_data.bad_example``.
    """
    numbers = [
        n for n in range(config.data.pairs) if example_path(Path(config.examples), n).is_file()
    ]
    sides: tuple[list[Example], list[Example]] = ([], [])
    for n in numbers:
        held = n % HELD_OUT == HELD_OUT - 1
        sides[held].append(read_example(example_path(Path(config.examples), n), config.network))
    if not sides[0] or not sides[1]:
        raise InputError(
            "corrector_training.too_few",
            f"{config.examples or 'The folder'} has {len(numbers)} examples; {HELD_OUT} are the "
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


def _step(config: CorrectorTrainingConfig, state: TrainingState, shown: list[Example]) -> float:
    generator = item_generator(config.seed, f"corrector step {state.step}")
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate(config, state.step)
    state.optimizer.zero_grad(set_to_none=True)
    total = 0.0
    for _ in range(config.batch):
        example = shown[int(torch.randint(len(shown), (), generator=generator))]
        choices = usable(example)
        i = choices[int(torch.randint(len(choices), (), generator=generator))]
        corrected = state.network(example.found[i], *example.views, _turn(generator))
        loss = (corrected - example.truth).square().sum() / (2 * config.batch)
        loss.backward()
        total += float(loss.detach())
    torch.nn.utils.clip_grad_norm_(state.network.parameters(), LARGEST_GRADIENT)
    state.optimizer.step()
    assert isinstance(state.network, Corrector)
    state.network.network.constrain()
    state.step += 1
    update_average(state, min(config.ema_decay, state.step / (state.step + 10)))
    return total


def learning_rate(config: CorrectorTrainingConfig, step: int) -> float:
    """Return the learning rate of the step that follows ``step`` steps."""
    rise = min((step + 1) / config.warmup, 1.0)
    return config.learning_rate * rise * 0.5 * (1 + math.cos(math.pi * step / config.steps))


def _turn(generator: torch.Generator) -> Float[Tensor, "3 3"]:
    """Return a random orthogonal matrix; half of them are reflections."""
    return torch.linalg.qr(torch.randn(3, 3, generator=generator))[0]


def _metrics(
    config: CorrectorTrainingConfig,
    state: TrainingState,
    losses: list[float],
    held_out: list[Example],
    is_last: bool,
) -> dict[str, Any]:
    loss = sum(losses) / len(losses)
    if not math.isfinite(loss):
        raise NumericalError(
            "corrector_training.diverged",
            f"The loss is {loss} at step {state.step}.",
            "Lower learning_rate, or lengthen warmup.",
        )
    values: dict[str, Any] = {
        "step": state.step, "loss": loss, "learning_rate": learning_rate(config, state.step - 1),
        "time": round(time.time(), 1),
    }  # fmt: skip
    if is_last or state.step % config.validate_every == 0:
        assert isinstance(state.ema, Corrector)
        values |= held_out_errors(state.ema, held_out)
    return values
