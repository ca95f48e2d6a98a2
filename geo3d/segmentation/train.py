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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from geo3d.config import config_to_dict
from geo3d.device import item_generator, pick_device
from geo3d.errors import ConfigError
from geo3d.progress import MetricsCallback, ProgressCallback, ignore_progress
from geo3d.segmentation.batches import TrainingImages, batches, check_sizes
from geo3d.segmentation.config import SegmentationConfig, learning_rate
from geo3d.segmentation.frameworks import (
    channels_of,
    load_targets,
    save_targets,
    soft_targets,
    targets_path,
    training_loss,
)
from geo3d.segmentation.kinds import WALLS, DataKind
from geo3d.segmentation.lite0 import Lite0UNet
from geo3d.segmentation.network import check_outputs, initialise, make_network
from geo3d.segmentation.own_code import fingerprint, is_own, own_function
from geo3d.segmentation.predict import Segmenter, save_segmenter
from geo3d.segmentation.samples import Dataset, Item, Sample, grouped_notes, samples_digest
from geo3d.topology.losses.catalogue import LOSSES, Loss
from geo3d.topology.losses.overlap import scnp_loss
from geo3d.topology.metrics import betti_errors, dice
from geo3d.work.gradients import Clipper
from geo3d.work.state import TrainingState
from geo3d.work.training import Backward, Method, Numbers, Plan, run_training

log = logging.getLogger(__name__)

SEGMENTER = "segmenter.safetensors"


def train_segmenter(
    config: SegmentationConfig,
    dataset: Dataset,
    out: Path,
    *,
    device: str = "auto",
    workers: int = 0,
    log_metrics: MetricsCallback = ignore_progress,
    progress: ProgressCallback = ignore_progress,
) -> Segmenter:
    """Train a segmenter into ``out`` (``segmenter.safetensors``) and return it.

    A ``checkpoint.safetensors`` in ``out`` is resumed from; one is written every
    ``checkpoint_seconds`` and when the job is cancelled.

    Args:
        config: settings.
        dataset: images for training and validation.
        out: folder for checkpoint and segmenter.
        device: name of the device, see `geo3d.device.pick_device`.
        workers: processes that prepare batches ahead; the result does not depend on it.
        log_metrics: receives a mapping every ``log_every`` steps.
        progress: receives an event per step; may raise `Cancelled`.

    Raises:
        ConfigError: ``segmenter.unknown_loss``.
        InputError: ``segmenter.no_images``, ``segmenter.bad_size``, ``segmenter.no_mortar``;
            errors of reading the images.
        NumericalError: ``training.diverged``.
        CheckpointError: ``checkpoint.other_training``.
    """
    kind = dataset.kind
    loss = find_loss(config.loss, kind.dimensions)
    loss = around_worst_neighbours(loss) if config.scnp else loss
    samples = load_samples(dataset.train)
    check_sizes(samples, config, kind)
    validation = load_samples(dataset.val[: config.validation_pictures])
    # What the images hold counts, not where they lie.
    training = _SegmenterTraining(config, loss, samples, out, pick_device(device), kind)
    training.info["dataset"] = dataset.name
    training.validation, training.workers = validation, workers
    rate = partial(learning_rate, config)
    plan = Plan.of(config, "training the segmenter", config.iterations, rate)
    # What the images hold counts, not where they lie.
    settings = {**config_to_dict(config), "data": training.info["data"]}
    if is_own(config.loss):
        settings["own_loss"] = fingerprint(own_function(config.loss))
    if config.network.own:
        settings["own_network"] = fingerprint(own_function(config.network.own))
    if kind != WALLS:
        settings["kind"] = kind.to_dict()
    run_training(training, plan, out, settings, log_metrics=log_metrics, progress=progress)
    return training.segmenter()


def find_loss(name: str, dimensions: int | None = 2) -> Loss:
    """Return the loss of the catalogue, or the user's own of "package.module:function".

    An own one is a function of (logits, target), an object that can be called so, or a class of
    such objects that needs no arguments.  ``dimensions`` are those it must judge, None any.

    Raises:
        ConfigError: ``segmenter.unknown_loss``, and those of `own_function`.
    """
    if is_own(name):
        return own_loss(name)
    fits = {key for key, loss in LOSSES.items() if dimensions in (None, *loss.dimensions)}
    if name not in fits:
        known = ", ".join(key for key in LOSSES if key in fits)
        judged = {2: " for images", 3: " for volumes"}.get(dimensions or 0, "")
        raise ConfigError(
            "segmenter.unknown_loss",
            f"There is no loss {name!r}{judged}.",
            f"Known: {known}; or one of your own, package.module:function.",
        )
    return LOSSES[name]


def around_worst_neighbours(loss: Loss) -> Loss:
    """Return the loss of every pixel's worst neighbour (SCNP), and its cheap part likewise."""
    cheap = partial(scnp_loss, loss=loss.auxiliary) if loss.auxiliary else None
    return replace(loss, function=partial(scnp_loss, loss=loss.function), auxiliary=cheap)


def own_loss(name: str) -> Loss:
    """Return the row of a loss of the user's own.

    Raises:
        ConfigError: ``segmenter.own_loss`` for a class that cannot be made without arguments, and
            those of `own_function`.
    """
    function = own_function(name)
    if isinstance(function, type):
        try:
            function = function()
        except TypeError as error:
            raise ConfigError(
                "segmenter.own_loss",
                f"{name} is a class that is not made without arguments: {error}.",
                "Name a function of (logits, target) that makes and calls it.",
            ) from error
    return Loss(name, function, "own")


def load_samples(items: Sequence[Item]) -> tuple[Sample, ...]:
    """Read images and masks; what is unusual goes to the log, one line per kind."""
    found = tuple(item.load() for item in items)
    notes = [(i.id, note) for i, sample in zip(items, found, strict=True) for note in sample.notes]
    for line in grouped_notes(notes):
        log.warning("%s", line)
    return found


def measure(segmenter: Segmenter, samples: Sequence[Sample]) -> dict[str, float]:
    """Return the mean Dice and mean Betti errors over samples, and classes or regions."""
    rows = []
    for sample in samples:
        found, true = segmenter.predict(sample.image).masks, segmenter.kind.masks(sample.mask)
        for name, mask in found.items():
            if (counts := sample.counts) is not None:
                mask, true[name] = mask & counts, true[name] & counts
            rows.append((dice(mask, true[name]), *betti_errors(mask, true[name])))
    means = torch.tensor(rows, dtype=torch.float64).mean(dim=0).tolist()
    names = ("dice", "betti0_error", "betti1_error", "betti2_error")
    return dict(zip(names, means, strict=False))


def _optimizer(network: nn.Module, config: SegmentationConfig) -> torch.optim.Optimizer:
    named = list(network.named_parameters())
    encoder = [p for n, p in named if isinstance(network, Lite0UNet) and n.startswith("encoder.")]
    known = {id(parameter) for parameter in encoder}
    groups: list[dict[str, Any]] = [{"params": [p for _, p in named if id(p) not in known]}]
    if encoder:
        groups.append({"params": encoder, "relative_rate": config.encoder_rate})
    rate, decay = config.learning_rate, config.weight_decay
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=rate, weight_decay=decay)
    momentum = config.momentum
    return torch.optim.SGD(
        groups, lr=rate, momentum=momentum, weight_decay=decay, nesterov=momentum > 0
    )


class _SegmenterTraining(Method):
    """A network and the images it learns from."""

    def __init__(
        self,
        config: SegmentationConfig,
        loss: Loss,
        samples: Sequence[Sample],
        out: Path,
        device: torch.device,
        kind: DataKind = WALLS,
    ) -> None:
        self.config, self.loss, self.samples, self.out = config, loss, samples, out
        self.device, self.kind = device, kind
        self.channels = channels_of(loss, compat=config.compat, kind=kind)
        self.validation: Sequence[Sample] = ()
        self.workers = 0
        self.info: dict[str, Any] = {
            "data": samples_digest(samples),
            "training_pictures": len(samples),
        }
        self.supply: Iterator[tuple[Tensor, Tensor]] = iter(())
        self.is_supplied = False
        network = self.new_network(0).to(device)
        optimizer = _optimizer(network, config)
        # The last weights count, so there is no running average.
        super().__init__(
            TrainingState(
                network, optimizer, clipper=Clipper(config.clip), counts={"generation": 0}
            )
        )

    def new_network(self, generation: int) -> nn.Module:
        """Return the network with the first weights of a generation."""
        generator = item_generator(self.config.seed, f"segmenter weights {generation}")
        sizes = {"in_channels": self.kind.channels, "dimensions": self.kind.dimensions}
        return make_network(self.config.network, self.channels, generator, **sizes)

    def prepare(self) -> None:
        """Begin the generation of the step, and its supply of batches."""
        generation = self.state.step // self.config.iterations_per_generation
        if self.state.counts["generation"] < generation:
            self.begin_generation(generation)
            self.is_supplied = False
        if not self.is_supplied:
            soft = None
            if generation > 0:
                soft = load_targets(targets_path(self.out, generation), self.samples)
            images = TrainingImages(self.samples, self.config, soft, self.kind)
            self.supply = batches(images, self.state.step, self.workers)
            self.is_supplied = True

    def begin_generation(self, generation: int) -> None:
        """Let the network label the images, then start it anew on these labels."""
        targets = soft_targets(self.segmenter(), self.samples)
        save_targets(targets_path(self.out, generation), targets)
        if self.config.network.own or self.config.network.kind == "lite0":
            self.state.network.load_state_dict(self.new_network(generation).state_dict())
        else:
            generator = item_generator(self.config.seed, f"segmenter weights {generation}")
            initialise(self.state.network, generator, compat=self.config.compat)
        self.state.optimizer.state.clear()
        self.state.counts["generation"] = generation

    def gradients(self, backward: Backward) -> Mapping[str, Tensor | float]:
        config, network = self.config, self.state.network
        image, target = next(self.supply)
        if self.channels == 1 and target.is_floating_point():
            target = (target[:, 1] > 0.5).long()
        span = config.iterations_per_generation
        is_active = self.state.step % span + 1 > span * self.loss.active_after
        network.train()
        with torch.autocast(
            self.device.type, torch.bfloat16, enabled=config.precision == "bfloat16"
        ):
            outputs = network(image.to(self.device))
        if config.network.own:
            outputs = check_outputs(outputs, image, self.channels)
        loss = training_loss(
            self.loss,
            outputs.float(),
            target.to(self.device),
            is_active=is_active,
            compat=config.compat,
            kind=self.kind,
        )
        backward(loss)
        return {"loss": loss.detach()}

    def validate(self) -> Numbers:
        return measure(self.segmenter(), self.validation) if self.validation else {}

    def segmenter(self) -> Segmenter:
        """Return the network as it is."""
        info = {**self.info, "steps": self.state.step}
        return Segmenter(self.state.network, self.config, self.channels, info, self.kind)

    def export(self, out: Path, *, is_last: bool) -> None:
        if is_last:
            unsaid = ("step", "time", "learning_rate")
            numbers = self.state.numbers
            self.info["numbers"] = {n: numbers[n] for n in numbers if n not in unsaid}
            save_segmenter(out / SEGMENTER, self.segmenter())
