"""Training of segmenters: published protocol or small, with any loss of the catalogue.

    config = load_config(SegmentationConfig, preset="cpu", overrides=["loss=cl_dice"])
    train_segmenter(config, read_topomortar("topomortar"), Path("out"))
    # again after an interruption: goes on, bit by bit (on a CPU)

One step: SGD with Nesterov momentum on a batch, gradient clipped, learning rate falling as a power.
The last weights are the result; validation is for the record only.  "step" counts from 0 over all
generations.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from geo3d.config import config_to_dict
from geo3d.device import item_generator, pick_device
from geo3d.errors import Cancelled, ConfigError, NumericalError
from geo3d.progress import ProgressCallback, ignore_progress, report
from geo3d.segmentation.batches import TrainingPictures, batches, check_sizes
from geo3d.segmentation.config import SegmentationConfig, learning_rate
from geo3d.segmentation.data import Dataset, Item, Sample, samples_digest
from geo3d.segmentation.frameworks import (
    channels_of,
    load_targets,
    save_targets,
    soft_targets,
    targets_path,
    training_loss,
)
from geo3d.segmentation.network import initialise, make_network
from geo3d.segmentation.predict import Segmenter, save_segmenter
from geo3d.topology.losses.catalogue import LOSSES, Loss
from geo3d.topology.metrics import betti_errors, dice
from geo3d.work.state import TrainingState, load_state, save_state

log = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.safetensors"
SEGMENTER = "segmenter.safetensors"
Log = Callable[[Mapping[str, Any]], None]


def train_segmenter(
    config: SegmentationConfig,
    dataset: Dataset,
    out: Path,
    *,
    device: str = "auto",
    workers: int = 0,
    log_metrics: Log = ignore_progress,
    progress: ProgressCallback = ignore_progress,
) -> Segmenter:
    """Train a segmenter into ``out`` (``segmenter.safetensors``) and return it.

    A ``checkpoint.safetensors`` in ``out`` is gone on from; one is written every
    ``checkpoint_seconds`` and when the job is cancelled.

    Args:
        config: settings.
        dataset: pictures for training and validation.
        out: folder for checkpoint and segmenter.
        device: name of the device, see `geo3d.device.pick_device`.
        workers: processes that prepare batches ahead; the result does not depend on it.
        log_metrics: receives a mapping every ``log_every`` steps.
        progress: receives an event per step; may raise `Cancelled`.

    Raises:
        ConfigError: ``segmenter.unknown_loss``.
        InputError: ``segmenter.no_pictures``, ``segmenter.bad_size``, ``segmenter.no_mortar``;
            errors of reading the pictures.
        NumericalError: ``segmenter.diverged``.
        CheckpointError: ``checkpoint.other_training``.
    """
    loss = find_loss(config.loss)
    samples = load_samples(dataset.train)
    check_sizes(samples, config)
    validation = load_samples(dataset.val[: config.validation_pictures])
    # What the pictures hold counts, not where they lie.
    settings = {**config_to_dict(config), "data": samples_digest(samples)}
    state = _new_state(config, channels_of(loss, compat=config.compat), pick_device(device))
    if (out / CHECKPOINT).is_file():
        load_state(out / CHECKPOINT, state, settings)
        log.info("resumed at step %d", state.step)
    training = _Training(config, (samples, validation), loss, state, settings, out)
    training.info["dataset"] = dataset.name
    return training.run(workers, log_metrics, progress)


def find_loss(name: str) -> Loss:
    """Return the loss of the catalogue.

    Raises:
        ConfigError: ``segmenter.unknown_loss``.
    """
    if name not in LOSSES or 2 not in LOSSES[name].dimensions:
        known = ", ".join(key for key, loss in LOSSES.items() if 2 in loss.dimensions)
        raise ConfigError(
            "segmenter.unknown_loss", f"There is no loss {name!r} for pictures.", f"Known: {known}."
        )
    return LOSSES[name]


def load_samples(items: Sequence[Item]) -> tuple[Sample, ...]:
    """Read pictures and masks; what is unusual about a file goes to the log."""
    found = []
    for item in items:
        sample = item.load()
        for note in sample.notes:
            log.warning("%s: %s", item.id, note)
        found.append(sample)
    return tuple(found)


def measure(segmenter: Segmenter, samples: Sequence[Sample]) -> dict[str, float]:
    """Return the mean Dice and mean Betti errors over samples."""
    rows = []
    for sample in samples:
        mask = segmenter.predict(sample.image).mask
        rows.append((dice(mask, sample.mask), *betti_errors(mask, sample.mask)))
    means = torch.tensor(rows, dtype=torch.float64).mean(dim=0).tolist()
    return dict(zip(("dice", "betti0_error", "betti1_error"), means, strict=True))


class _Training:
    """The loop, with what every step needs."""

    def __init__(
        self,
        config: SegmentationConfig,
        samples: tuple[Sequence[Sample], Sequence[Sample]],
        loss: Loss,
        state: TrainingState,
        settings: Mapping[str, Any],
        out: Path,
    ) -> None:
        self.config, self.loss, self.state = config, loss, state
        self.samples, self.validation = samples
        self.settings, self.out = settings, out
        self.channels = channels_of(loss, compat=config.compat)
        self.device = next(state.network.parameters()).device
        self.info: dict[str, Any] = {
            "data": settings["data"],
            "training_pictures": len(self.samples),
        }

    def run(self, workers: int, log_metrics: Log, progress: ProgressCallback) -> Segmenter:
        losses: list[Tensor] = []
        since, total = time.monotonic(), self.config.iterations
        supply = self.supply(workers)
        shown: dict[str, Any] = {}
        try:
            while self.state.step < total:
                losses.append(self.step(*next(supply)))
                step = self.state.step
                if self.is_time(self.config.log_every) or self.is_time(self.config.validate_every):
                    values = self.metrics(losses)
                    losses.clear()
                    log_metrics(values)
                    shown |= {k: v for k, v in values.items() if k not in ("step", "time")}
                if step < total and step % self.config.iterations_per_generation == 0:
                    self.begin_generation()
                    supply = self.supply(workers)
                if time.monotonic() - since >= self.config.checkpoint_seconds:
                    self.save()
                    since = time.monotonic()
                report(progress, "training the segmenter", step, total, **shown)
        except (Cancelled, KeyboardInterrupt):
            self.save()
            raise
        self.info["numbers"] = {k: shown[k] for k in shown if k != "learning_rate"}
        self.save()
        segmenter = self.segmenter()
        save_segmenter(self.out / SEGMENTER, segmenter)
        return segmenter

    def is_time(self, every: int) -> bool:
        """Say whether something done every so many steps, and at the end, is due."""
        step = self.state.step
        return every > 0 and (step % every == 0 or step == self.config.iterations)

    def supply(self, workers: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Return the batches from the present step on."""
        generation = self.state.step // self.config.iterations_per_generation
        soft = None
        if generation > 0 and self.state.step < self.config.iterations:
            soft = load_targets(targets_path(self.out, generation), self.samples)
        pictures = TrainingPictures(self.samples, self.config, soft)
        return batches(pictures, self.state.step, workers)

    def step(self, image: Tensor, target: Tensor) -> Tensor:
        """Take one optimiser step and return the loss."""
        config, network, optimizer = self.config, self.state.network, self.state.optimizer
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, self.state.step)
        if self.channels == 1 and target.is_floating_point():
            target = (target[:, 1] > 0.5).long()
        span = config.iterations_per_generation
        is_active = self.state.step % span + 1 > span * self.loss.active_after
        network.train()
        with torch.autocast(
            self.device.type, torch.bfloat16, enabled=config.precision == "bfloat16"
        ):
            outputs = network(image.to(self.device))
        loss = training_loss(
            self.loss,
            outputs.float(),
            target.to(self.device),
            is_active=is_active,
            compat=config.compat,
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(network.parameters(), config.clip)
        if not math.isfinite(float(norm)):
            raise NumericalError(
                "segmenter.diverged",
                f"The gradient is {float(norm)} at step {self.state.step + 1}.",
                "Lower learning_rate; the checkpoint before is untouched.",
            )
        optimizer.step()
        self.state.step += 1
        return loss.detach()

    def begin_generation(self) -> None:
        """Let the network label the pictures, then start it anew on these labels."""
        generation = self.state.step // self.config.iterations_per_generation
        targets = soft_targets(self.segmenter(), self.samples)
        save_targets(targets_path(self.out, generation), targets)
        generator = item_generator(self.config.seed, f"segmenter weights {generation}")
        initialise(self.state.network, generator, compat=self.config.compat)
        self.state.optimizer.state.clear()
        self.save()

    def metrics(self, losses: Sequence[Tensor]) -> dict[str, Any]:
        """Return the numbers of the steps since the last line."""
        step = self.state.step
        values: dict[str, Any] = {"step": step, "time": round(time.time(), 1)}
        values["loss"] = float(torch.stack(list(losses)).mean())
        values["learning_rate"] = learning_rate(self.config, step - 1)
        if self.validation and self.is_time(self.config.validate_every):
            values |= measure(self.segmenter(), self.validation)
        return values

    def segmenter(self) -> Segmenter:
        """Return the network as it is."""
        info = {**self.info, "steps": self.state.step}
        return Segmenter(self.state.network, self.config, self.channels, info)

    def save(self) -> None:
        """Write the checkpoint."""
        save_state(self.out / CHECKPOINT, self.state, self.settings)


def _new_state(
    config: SegmentationConfig, out_channels: int, device: torch.device
) -> TrainingState:
    generator = item_generator(config.seed, "segmenter weights 0")
    network = make_network(config.network, out_channels, generator).to(device)
    optimizer = torch.optim.SGD(
        network.parameters(),
        lr=config.learning_rate,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        nesterov=config.momentum > 0,
    )
    # The last weights count, so there is no running average.
    return TrainingState(network, nn.Identity(), optimizer)
