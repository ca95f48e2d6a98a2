"""Training of spectral priors: a denoiser learns the absolute functional maps of a folder.

    config = load_config(PriorTrainingConfig, preset="small", overrides=["data=maps"])
    train_prior(config, Path("out"))        # again after an interruption: goes on, bit by bit

Notation: n maps, k their size, "seen" the number of maps shown so far, sigma the noise level.

The preset "published" is the recipe of DiffuMatch (Pierson et al. 2025), "small" the one of the
prior that comes with the package.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor

from geo3d.config import config_to_dict, require, require_at_least
from geo3d.device import item_generator, pick_device
from geo3d.distill.levels import LevelDistribution
from geo3d.distill.preconditioning import EDM, IDDPM, Preconditioning, denoise, denoising_loss
from geo3d.progress import MetricsCallback, ProgressCallback, ignore_progress
from geo3d.work import schedules
from geo3d.work.processes import Processes, connect
from geo3d.work.state import TrainingState, running_average
from geo3d.work.training import Backward, Method, Numbers, Plan, run_training
from shape_matching.prior.denoiser import Denoiser, DenoiserConfig
from shape_matching.prior.prior import Prior, save_prior
from shape_matching.prior.report import denoising_errors
from shape_matching.prior.splits import MapSplit, load_split, maps_digest

PRIOR = "prior.safetensors"
VALIDATION_LEVELS = (0.1, 0.3, 1.0)
VALIDATION_MAPS = 256
"""Held-out maps, at most, on which the denoising error is followed."""


@dataclass(frozen=True)
class PriorTrainingConfig:
    """Settings of `train_prior`; the defaults are the published recipe."""

    data: str = ""
    """Folder of functional maps (`geo3d data prior`)."""
    network: DenoiserConfig = field(default_factory=DenoiserConfig)
    preconditioning: Literal["iddpm", "edm"] = "iddpm"
    loss: Literal["vp", "edm"] = "vp"
    """Which distribution draws and weights the noise levels."""
    level_log_mean: float = -1.2
    """Mean of ln sigma of the distribution "edm"."""
    level_log_std: float = 1.2
    """Standard deviation of ln sigma of the distribution "edm"."""
    samples: int = 41_216_000
    """Maps shown in all, with repetition."""
    batch: int = 256
    """Maps per step, over all processes."""
    learning_rate: float = 1e-3
    warmup_samples: int = 10_000_000
    """Maps over which the learning rate rises from 0."""
    decay: Literal["constant", "cosine"] = "constant"
    """What the learning rate does after its rise: stay, or fall to 0 along a cosine."""
    weight_decay: float = 0.0
    ema_halflife_samples: int = 500_000
    """Maps after which a weight counts half in the running average."""
    ema_rampup: float = 0.05
    """The half-life is at most this share of the maps seen."""
    validation_share: float = 0.05
    """Share of the creatures that is held out."""
    log_every: int = 20
    """Steps per line of metrics."""
    validate_every: int = 200
    """Steps between measurements on held-out maps."""
    checkpoint_seconds: float = 300.0
    """Seconds between checkpoints."""
    weights: Literal["float32", "float16"] = "float32"
    """Precision of the prior on disk."""
    seed: int = 0

    def __post_init__(self) -> None:
        require_at_least(self, 1, "samples batch log_every validate_every")
        require_at_least(self, 0, "warmup_samples weight_decay ema_halflife_samples ema_rampup")
        require(self.learning_rate > 0, "learning_rate", "above 0")
        require(0 < self.validation_share < 1, "validation_share", "between 0 and 1")

    @property
    def steps(self) -> int:
        """Optimiser steps in all."""
        return math.ceil(self.samples / self.batch)


PRESETS: Mapping[str, Mapping[str, Any]] = {
    "published": {},
    "small": {
        "network": {"width": 192, "depth": 6, "heads": 6},
        "preconditioning": "edm",
        "loss": "edm",
        "samples": 256_000,
        "batch": 64,
        "warmup_samples": 12_800,
        "decay": "cosine",
        "weight_decay": 0.01,
        "ema_halflife_samples": 10_000,
        "weights": "float16",
    },
    "tiny": {
        "network": {"width": 64, "depth": 3, "heads": 4},
        "preconditioning": "edm",
        "loss": "edm",
        "samples": 64_000,
        "batch": 64,
        "warmup_samples": 3_200,
        "decay": "cosine",
        "ema_halflife_samples": 3_200,
    },
}
"""Named recipes: as published; of the shipped prior; for a first look in a minute."""


def learning_rate(config: PriorTrainingConfig, seen: int) -> float:
    """Return the learning rate of the step that comes after ``seen`` maps."""
    rate = config.learning_rate * schedules.rise(seen, config.warmup_samples)
    if config.decay == "constant":
        return rate
    rest = config.samples - config.warmup_samples
    return rate * schedules.cosine(seen - config.warmup_samples, rest)


def ema_beta(config: PriorTrainingConfig, seen: int) -> float:
    """Return the weight of the running average against the new weights, after ``seen`` maps."""
    halflife = min(config.ema_halflife_samples, config.ema_rampup * seen)
    return 0.5 ** (config.batch / max(halflife, 1e-8))


def train_prior(
    config: PriorTrainingConfig,
    out: Path,
    *,
    device: str = "auto",
    log_metrics: MetricsCallback = ignore_progress,
    progress: ProgressCallback = ignore_progress,
) -> dict[str, Any]:
    """Train a prior into ``out`` (``prior.safetensors``) and return its final numbers.

    A ``checkpoint.safetensors`` in ``out`` is resumed from; one is written, with the prior so far,
    every ``checkpoint_seconds`` and when the job is cancelled.

    Args:
        config: settings; ``data`` names the folder of maps.
        out: folder for checkpoint and prior.
        device: name of the device, see `geo3d.device.pick_device`.
        log_metrics: receives a mapping every ``log_every`` steps.
        progress: receives an event per step; may raise `Cancelled`.

    Raises:
        NumericalError: ``training.diverged``.
        CheckpointError: ``checkpoint.other_training``.
        ConfigError: ``training.bad_batch``; errors of reading the maps.
    """
    split = load_split(config.data, config.network.size, config.validation_share, config.seed)
    processes = connect(pick_device(device), config.batch)
    training = _PriorTraining(config, split, processes)
    plan = Plan.of(
        config,
        "training the prior",
        config.steps,
        lambda step: learning_rate(config, step * config.batch),
    )
    settings = {**config_to_dict(config), "data": training.digest}
    numbers = run_training(
        training, plan, out, settings,
        processes=processes, log_metrics=log_metrics, progress=progress,
    )  # fmt: skip
    return {**numbers, "sigma_data": training.sigma_data, "training_maps": len(training.train)}


class _PriorTraining(Method):
    """A denoiser of functional maps and the average of its weights."""

    def __init__(self, config: PriorTrainingConfig, split: MapSplit, processes: Processes) -> None:
        super().__init__(_new_state(config, processes.device))
        self.config, self.processes, self.digest = config, processes, maps_digest(split)
        self.train = split.train.to(processes.device)
        self.validation = split.validation[:: max(1, len(split.validation) // VALIDATION_MAPS)]
        rms = float(split.train.square().mean().sqrt())
        self.sigma_data = round(rms, 4)
        self.second_moment = second_moment(split.train)
        self.levels = LevelDistribution(
            config.loss, self.sigma_data, config.level_log_mean, config.level_log_std
        )
        self.preconditioning = make_preconditioning(config, self.sigma_data)

    def gradients(self, backward: Backward) -> Mapping[str, Tensor | float]:
        clean, sigma, noise = self.draw()
        clean_estimate = partial(denoise, self.state.network, self.preconditioning)
        loss = denoising_loss(clean_estimate, clean, sigma, noise, self.levels)
        backward(loss.flatten(1).sum(dim=1).mean())
        return {"loss": loss.detach().mean()}

    def draw(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return this process's share of the step's maps, noise levels and noise."""
        config, device = self.config, self.processes.device
        generator = item_generator(config.seed, f"prior step {self.state.step}")
        chosen = torch.randint(len(self.train), (config.batch,), generator=generator)
        sigma = self.levels.draw(config.batch, generator)
        noise = torch.randn((config.batch, *self.train.shape[1:]), generator=generator)
        mine = slice(self.processes.rank, None, self.processes.count)
        clean = self.train[chosen[mine].to(device)]
        return clean, sigma[mine].to(device), noise[mine].to(device)

    def validate(self) -> Numbers:
        errors = denoising_errors(self.prior().denoise, self.validation, VALIDATION_LEVELS)
        return {f"error_{sigma:g}": error for sigma, error in errors.items()}

    def prior(self) -> Prior:
        """Return the average of the weights as a prior."""
        info = {
            # the folder's name says enough; where it lay is nobody else's business
            "training": {**config_to_dict(self.config), "data": Path(self.config.data).name},
            "maps": self.digest,
            "training_maps": len(self.train),
            "steps": self.state.step,
            "second_moment": self.second_moment,
        }
        return Prior(cast(Denoiser, self.state.averages[0].module), self.preconditioning, info)

    def export(self, out: Path, *, is_last: bool) -> None:
        save_prior(out / PRIOR, self.prior(), dtype=self.config.weights)


def make_preconditioning(config: PriorTrainingConfig, sigma_data: float) -> Preconditioning:
    """Return the preconditioning the settings name, fitted to maps of that root mean square."""
    return EDM(sigma_data) if config.preconditioning == "edm" else IDDPM()


def second_moment(maps: Float[Tensor, "n 1 k k"]) -> list[list[float]]:
    """Return the mean square of each entry to five digits, for masks that need no denoiser."""
    rows = maps.square().mean(dim=0)[0].tolist()
    return [[float(f"{value:.4e}") for value in row] for row in rows]


def _new_state(config: PriorTrainingConfig, device: torch.device) -> TrainingState:
    network = Denoiser(config.network, item_generator(config.seed, "prior weights")).to(device)
    optimizer = torch.optim.AdamW(
        [p for p in network.parameters() if p.requires_grad],
        lr=config.learning_rate,
        betas=(0.9, 0.99),
        eps=1e-8,
        weight_decay=config.weight_decay,
        fused=True,
    )
    average = running_average(network, lambda step: ema_beta(config, (step - 1) * config.batch))
    return TrainingState(network, optimizer, [average])
