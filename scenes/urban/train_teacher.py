"""Training of the small street teacher, from scratch, on images of generated streets.

    train_teacher(TeacherTrainingConfig(data="data/streets"), Path("out"))

The same call again, after an interruption, resumes bit by bit.  ``out`` gets the checkpoint and,
with it, the folder ``teacher/``: the running average of the weights.

Loss: squared error of v at uniform, stratified noise levels; the style is dropped in 10 % of the
images, for guidance.  Source: Zhang et al. 2023 (ControlNet), Lin et al. 2024.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from geo3d.config import config_to_dict, require, require_at_least
from geo3d.device import item_generator, pick_device
from geo3d.distill.levels import NoiseSchedule, stratified_steps
from geo3d.errors import ConfigError
from geo3d.progress import MetricsCallback, ProgressCallback, ignore_progress
from geo3d.work import schedules
from geo3d.work.gradients import Clipper
from geo3d.work.state import TrainingState, running_average
from geo3d.work.training import Backward, Method, Plan, run_training
from scenes.urban.street_data import StreetImages, load_street_data
from scenes.urban.street_teacher import (
    StreetTeacher,
    TeacherConfig,
    prompt_ids,
    save_teacher,
    scheduler,
)

TEACHER = "teacher"


@dataclass(frozen=True)
class TeacherTrainingConfig:
    """Settings of `train_teacher`."""

    data: str = ""
    """Folder of `scenes.urban.street_data`."""
    network: TeacherConfig = field(default_factory=TeacherConfig)
    steps: int = 5000
    coarse_steps: int = 1200
    """The first of them see images of half the size, which cost a quarter."""
    batch: int = 8
    learning_rate: float = 4e-4
    """Highest; reached after the warm-up, falls along a cosine."""
    warmup_steps: int = 100
    final_rate: float = 0.05
    """Share of the learning rate that is left at the end."""
    clip_norm: float = 1.0
    """Largest norm of the gradient."""
    average_rate: float = 0.999
    """Of the running average of the weights."""
    drop_style: float = 0.1
    """Share of images whose style is not told."""
    log_every: int = 10
    checkpoint_every: int = 200
    """Steps between checkpoints, with which the teacher so far is written."""
    seed: int = 0

    def __post_init__(self) -> None:
        require_at_least(self, 1, "steps batch log_every checkpoint_every")
        require(self.learning_rate > 0, "learning_rate", "above 0")
        require(0 <= self.drop_style <= 1, "drop_style", "in [0, 1]")


PRESETS: Mapping[str, Mapping[str, Any]] = {
    "small": {},
    "tiny": {
        "network": {"size": 16, "widths": [16, 32], "token_width": 16, "heads": 2},
        "steps": 20,
        "coarse_steps": 10,
        "batch": 4,
        "warmup_steps": 5,
    },
}
"""The shipped teacher; one that only shows that everything runs."""


def train_teacher(
    config: TeacherTrainingConfig,
    out: Path,
    *,
    device: str = "cpu",
    log_metrics: MetricsCallback = ignore_progress,
    progress: ProgressCallback = ignore_progress,
) -> dict[str, Any]:
    """Train into ``out`` and return the last numbers; a checkpoint in ``out`` is resumed from.

    Args:
        config: settings.
        out: folder for the checkpoint and the teacher.
        device: see `geo3d.device.pick_device`.
        log_metrics: receives a mapping every ``log_every`` steps.
        progress: receives an event per step; may raise `Cancelled`.

    Raises:
        NumericalError: ``training.diverged``.
        ConfigError: ``street_teacher.wrong_size``.
        CheckpointError: ``checkpoint.other_training``, and those of `geo3d.checkpoints.load`.
        InputError, FileFormatError: errors of reading the data.
    """
    training = TeacherTraining(config, load_street_data(config.data), pick_device(device))
    rate = partial(learning_rate, config)
    plan = Plan.of(config, "training the street teacher", config.steps, rate)
    settings = {name: value for name, value in config_to_dict(config).items() if name != "data"}
    numbers = run_training(
        training, plan, out, settings, log_metrics=log_metrics, progress=progress
    )
    return {**numbers, "pictures": len(training.data)}


class TeacherTraining(Method):
    """Network, average, optimiser and data of a training."""

    def __init__(
        self, config: TeacherTrainingConfig, data: StreetImages, device: torch.device
    ) -> None:
        size = config.network.size
        if data.images.shape[1:3] != (size, size):
            raise ConfigError(
                "street_teacher.wrong_size",
                f"The images have {data.images.shape[1]} pixels per side, not {size}.",
                "Set network.size to the size of the data, or make other data.",
            )
        self.config, self.data, self.device = config, data, device
        network = StreetTeacher(config.network, config.seed).to(device)
        # several times faster for convolutions on CPUs
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer = torch.optim.AdamW(
            network.parameters(), lr=config.learning_rate, betas=(0.9, 0.99), weight_decay=0.01
        )
        # the average of a short training must not remember its first weights
        average = running_average(
            network, lambda step: min(config.average_rate, (1 + step) / (10 + step))
        )
        self.network, self.average = network, cast(StreetTeacher, average.module)
        clipper = Clipper(config.clip_norm)
        super().__init__(TrainingState(network, optimizer, [average], clipper))
        self.schedule = NoiseSchedule(scheduler().alphas_cumprod, "v_prediction")

    def export(self, out: Path, *, is_last: bool) -> None:
        """Write the average of the weights."""
        save_teacher(self.average, out / TEACHER)

    def gradients(self, backward: Backward) -> Mapping[str, Tensor | float]:
        """Learn v at stratified noise levels."""
        config, step = self.config, self.state.step
        generator = item_generator(config.seed, f"teacher step {step}")
        chosen = torch.randint(len(self.data), (config.batch,), generator=generator).tolist()
        dropped = torch.rand(config.batch, generator=generator) < config.drop_style
        t = stratified_steps(config.batch, (0, self.schedule.steps - 1), generator)
        clean, condition, ids = batch(
            self.data, chosen, dropped.tolist(), 2 if step < config.coarse_steps else 1
        )
        noise = torch.randn(clean.shape, generator=generator)
        clean, condition, noise = (
            x.to(self.device).contiguous(memory_format=torch.channels_last)
            for x in (clean, condition, noise)
        )
        t, network = t.to(self.device), self.network
        noisy = self.schedule.perturb(clean, noise, t)
        prompts = network.prompts(ids.to(self.device))
        wanted = self.schedule.target(clean, noise, t)
        loss = (network(noisy, t, prompts, condition) - wanted).square().mean()
        backward(loss)
        return {"loss": loss.detach()}


def batch(
    data: StreetImages, chosen: list[int], dropped: list[bool], factor: int = 1
) -> tuple[Tensor, Tensor, Tensor]:
    """Return images in [-1, 1], conditions and style numbers of some items.

    Args:
        data: to choose from.
        chosen: numbers of the items.
        dropped: which of their styles are not told.
        factor: by which images are made smaller (means of pixels; single pixels of conditions).
    """
    images = torch.from_numpy(data.images[chosen].astype(np.float32) / 127.5 - 1)
    conditions = torch.from_numpy(np.stack([data.condition(i) for i in chosen]))
    pairs = zip(chosen, dropped, strict=True)
    ids = torch.tensor([prompt_ids(() if drop else data.style(i)) for i, drop in pairs])
    images = torch.nn.functional.avg_pool2d(images.permute(0, 3, 1, 2), factor)
    return images, conditions[:, :, ::factor, ::factor], ids


def learning_rate(config: TeacherTrainingConfig, step: int) -> float:
    """Return the learning rate of a step: linear warm-up, then a cosine."""
    warmup = config.warmup_steps
    fall = schedules.cosine(step - warmup, config.steps - warmup, config.final_rate)
    return config.learning_rate * schedules.rise(step + 1, warmup) * fall
