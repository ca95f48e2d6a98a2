"""One training loop of the small pipeline's autoencoders: AdamW, a cosine, an average.

Flows have a trainer of their own (`scenes.objects.training`).  The batch of a step depends on seed
and step alone, so an interrupted training goes on as if it had not stopped.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from geo3d.config import config_to_dict
from geo3d.errors import Cancelled, NumericalError
from geo3d.progress import ProgressCallback, ignore_progress, report
from geo3d.work.state import TrainingState, load_state, save_state, update_average
from scenes.objects.latent_folder import chosen
from scenes.objects.small.settings import StageConfig

CHECKPOINT = "checkpoint.safetensors"
Log = Callable[[Mapping[str, Any]], None]


class Task(Protocol):
    """A network and what it learns."""

    names: list[str]
    """Of the items."""
    network: nn.ModuleDict

    def loss(self, items: list[int], generator: torch.Generator) -> dict[str, Tensor]:
        """Return the terms of the loss, which are added up."""
        ...


def fit(
    task: Task,
    config: StageConfig,
    out: Path,
    log_metrics: Log = ignore_progress,
    progress: ProgressCallback = ignore_progress,
) -> tuple[nn.Module, dict[str, float]]:
    """Train the task's network and return the running average of its weights, and its last numbers.

    Raises:
        NumericalError: ``training.diverged``.
        CheckpointError: ``checkpoint.other_training``.
    """
    network = task.network
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    state = TrainingState(network, copy.deepcopy(network).requires_grad_(False), optimizer)
    settings = {**config_to_dict(config), "items": len(task.names)}
    if (out / CHECKPOINT).is_file():
        load_state(out / CHECKPOINT, state, settings)
    place = {name: i for i, name in enumerate(task.names)}
    numbers: dict[str, float] = {}
    saved = time.monotonic()
    try:
        while state.step < config.steps:
            names = chosen(task.names, state.step, config.batch, config.seed)
            terms = _step(task, [place[name] for name in names], config, state)
            if state.step % config.log_every == 0 or state.step == config.steps:
                numbers = _numbers(terms, state.step)
                log_metrics({**numbers, "time": round(time.time(), 1)})
            if time.monotonic() - saved > config.checkpoint_seconds:
                save_state(out / CHECKPOINT, state, settings)
                saved = time.monotonic()
            report(progress, config.stage, state.step, config.steps, loss=numbers.get("loss", 0))
    except (Cancelled, KeyboardInterrupt):
        save_state(out / CHECKPOINT, state, settings)
        raise
    save_state(out / CHECKPOINT, state, settings)
    return state.ema.eval(), numbers


def _step(
    task: Task, items: list[int], config: StageConfig, state: TrainingState
) -> dict[str, Tensor]:
    rise = min((state.step + 1) / max(config.warmup_steps, 1), 1.0)
    rate = config.learning_rate * rise * 0.5 * (1 + math.cos(math.pi * state.step / config.steps))
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    state.optimizer.zero_grad(set_to_none=True)
    generator = torch.Generator().manual_seed(config.seed * 1_000_003 + state.step)
    terms = task.loss(items, generator)
    total = torch.stack(list(terms.values())).sum()
    total.backward()
    torch.nn.utils.clip_grad_norm_(state.network.parameters(), 1.0)
    state.optimizer.step()
    state.step += 1
    # an average over the first steps forgets the random start sooner
    update_average(state, min(config.average_rate, state.step / (state.step + 10)))
    return {**terms, "loss": total}


def _numbers(terms: Mapping[str, Tensor], step: int) -> dict[str, float]:
    numbers = {name: float(value.detach()) for name, value in terms.items()}
    if not math.isfinite(numbers["loss"]):
        raise NumericalError(
            "training.diverged",
            f"The loss is {numbers['loss']} at step {step}.",
            "Lower learning_rate, or lengthen warmup_steps.",
        )
    return {"step": step, **numbers}
