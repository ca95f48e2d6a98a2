"""Training of the small pipeline's autoencoders: AdamW, a cosine, an average.

Flows are trained by `scenes.objects.training`.  The batch of a step depends on seed and step alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from geo3d.config import config_to_dict
from geo3d.progress import MetricsCallback, ProgressCallback, ignore_progress
from geo3d.work import schedules
from geo3d.work.gradients import Clipper
from geo3d.work.state import TrainingState, running_average
from geo3d.work.training import Backward, Method, Numbers, Plan, run_training
from scenes.objects.latent_folder import chosen
from scenes.objects.small.settings import StageConfig

LARGEST_GRADIENT = 1.0


class Task(Protocol):
    """A network and what it learns."""

    names: list[str]
    """Of the items."""
    network: nn.ModuleDict

    def loss(self, items: list[int], generator: torch.Generator) -> dict[str, Tensor]:
        """Return the terms of the loss, which are added up."""
        ...


class _Fit(Method):
    """A task's network and the average of its weights."""

    def __init__(self, task: Task, config: StageConfig) -> None:
        optimizer = torch.optim.AdamW(
            task.network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        # an average over the first steps forgets the random start sooner
        average = running_average(
            task.network, lambda step: min(config.average_rate, step / (step + 10))
        )
        clipper = Clipper(LARGEST_GRADIENT)
        super().__init__(TrainingState(task.network, optimizer, [average], clipper))
        self.task, self.config = task, config
        self.place = {name: i for i, name in enumerate(task.names)}

    def gradients(self, backward: Backward) -> Mapping[str, Tensor | float]:
        seed, step = self.config.seed, self.state.step
        items = [self.place[n] for n in chosen(self.task.names, step, self.config.batch, seed)]
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        terms = self.task.loss(items, generator)
        total = torch.stack(list(terms.values())).sum()
        backward(total)
        return {name: term.detach() for name, term in {**terms, "loss": total}.items()}


def learning_rate(config: StageConfig, step: int) -> float:
    """Return the learning rate of the step after ``step`` steps."""
    rise = schedules.rise(step + 1, config.warmup_steps)
    return config.learning_rate * rise * schedules.cosine(step, config.steps)


def fit(
    task: Task,
    config: StageConfig,
    out: Path,
    log_metrics: MetricsCallback = ignore_progress,
    progress: ProgressCallback = ignore_progress,
) -> tuple[nn.Module, Numbers]:
    """Train the task's network and return the running average of its weights, and its last numbers.

    Raises:
        NumericalError: ``training.diverged``.
        CheckpointError: ``checkpoint.other_training``.
    """
    training = _Fit(task, config)
    plan = Plan.of(config, config.stage, config.steps, partial(learning_rate, config))
    settings = {**config_to_dict(config), "items": len(task.names)}
    numbers = run_training(
        training, plan, out, settings, log_metrics=log_metrics, progress=progress
    )
    return training.state.averages[0].module, numbers
