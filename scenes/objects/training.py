"""One trainer of flow networks over dense and sparse latents: teachers and few-step students.

    config = load_config(DistillConfig, "mdt.yaml", preset="mdt")
    train(config, Path("out"))          # again after an interruption: goes on, bit by bit

Every step: the batch's parts one after the other, gradients averaged over processes, clipped, a
step of AdamW on float32 masters, averages.  Random numbers come from (seed, step, item) and depend
neither on the number of processes nor on the parts.

``out`` gets ``checkpoint.safetensors`` and, as model files, ``student.*`` and ``student_ema*``; a
student with two times is written once per number of sampling steps (``student_1step``, ...).
"""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from geo3d import checkpoints
from geo3d.config import config_to_dict, load_config
from geo3d.device import item_generator, pick_device
from geo3d.errors import Cancelled, CheckpointError, ConfigError, NumericalError
from geo3d.files import sha256_file
from geo3d.progress import ProgressCallback, ignore_progress, report
from geo3d.work.processes import Processes, connect, whole
from geo3d.work.state import (
    below,
    optimizer_tensors,
    prefixed,
    restore_optimizer,
)
from scenes.objects.attention import plain_kernels
from scenes.objects.latent_folder import LatentFolder, chosen
from scenes.objects.models import load_model, save_model
from scenes.objects.precision import TORSO_TYPES, set_torso
from scenes.objects.slat_flow import SLatFlowConfig, SLatFlowModel
from scenes.objects.ss_flow import SparseStructureFlowModel, SSFlowConfig
from scenes.objects.train_config import DistillConfig, OptimiserConfig
from scenes.objects.trainer_parts import (
    AdaptiveClipper,
    Average,
    Masters,
    MeanNumbers,
    parts_of_equal_load,
)
from scenes.objects.training_batch import Latents, TwoTimes, join
from scenes.objects.training_losses import Loss, Roles, batch_loss, draw, tracker_loss

log = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.safetensors"
BINS = 10
"""Equal intervals of t in which the loss is followed."""
Log = Callable[[Mapping[str, Any]], None]


def train(
    config: DistillConfig,
    out: Path,
    *,
    device: str = "auto",
    log_metrics: Log = ignore_progress,
    progress: ProgressCallback = ignore_progress,
) -> dict[str, Any]:
    """Train a network into ``out`` and return its final numbers.

    Args:
        config: settings.
        out: folder for checkpoint and model files; a checkpoint in it is gone on from.
        device: name of the device, see `geo3d.device.pick_device`.
        log_metrics: receives a mapping every ``log_every`` steps.
        progress: receives an event per step; may raise `Cancelled`.

    Raises:
        NumericalError: ``training.diverged``.
        CheckpointError: ``checkpoint.other_training``; errors of reading the models.
        ConfigError: ``training.bad_batch``, ``training.not_a_flow``.
        InputError: errors of reading the latents.
    """
    trainer = Trainer(config, connect(pick_device(device)))
    if (out / CHECKPOINT).is_file():
        trainer.restore(out / CHECKPOINT)
        log.info("resumed at step %d", trainer.step)
    return trainer.run(out, log_metrics, progress)


def load_flow(config: DistillConfig) -> tuple[nn.Module, nn.Module | None]:
    """Return the student, in float32, and the teacher.

    Raises:
        ConfigError: ``training.not_a_flow``; unknown arguments of a new network.
        CheckpointError: errors of reading the models.
    """
    teacher = load_model(config.teacher) if config.teacher else None
    source = config.student or config.teacher
    if source:
        student = load_model(source)
    else:
        generator = item_generator(config.seed, "student weights")
        if config.network == "dense":
            settings = load_config(SSFlowConfig, overrides=config.arguments)
            student = SparseStructureFlowModel(settings, generator)
        else:
            settings = load_config(SLatFlowConfig, overrides=config.arguments)
            student = SLatFlowModel(settings, generator)
    for network in (student, teacher):
        if not isinstance(network, SparseStructureFlowModel | SLatFlowModel | None):
            raise ConfigError(
                "training.not_a_flow",
                f"{type(network).__name__} is no flow network.",
                "Teacher and student are SparseStructureFlowModel or SLatFlowModel.",
            )
    return student.requires_grad_(True).train(), teacher


class Trainer:
    """Networks, optimisers and data of a training."""

    def __init__(self, config: DistillConfig, processes: Processes) -> None:
        if config.batch % processes.count:
            raise ConfigError(
                "training.bad_batch",
                f"A batch of {config.batch} cannot be shared by {processes.count} processes.",
                "Choose a multiple.",
            )
        self.config, self.processes, self.step = config, processes, 0
        device = processes.device
        student, teacher = load_flow(config)
        self.teacher_digest = sha256_file(f"{config.teacher}.safetensors") if teacher else ""
        self.is_sparse = isinstance(student, SLatFlowModel)
        self.data = LatentFolder(config.data, self.is_sparse)
        tracker = copy.deepcopy(teacher or student) if _tracks(config) else None
        settings = config.optimiser
        student = set_torso(student, TORSO_TYPES[settings.torso]).to(device)
        if teacher is not None:
            teacher = set_torso(teacher, TORSO_TYPES[config.teacher_torso]).to(device)
        if config.objective.has_two_times:
            student = TwoTimes(student)
        if tracker is not None:
            tracker = tracker.requires_grad_(True).to(device)
        self.is_sharded = config.shard and processes.count > 1
        self.template = student
        """What weights are put into to be written; a copy where the student is sharded."""
        if self.is_sharded:
            self.template = copy.deepcopy(student).cpu()
            _shard(processes, student, teacher)
        self.roles = Roles(student, teacher, tracker)
        scale = settings.initial_log_scale if settings.torso == "float16" else 0.0
        self.masters = Masters(student, scale, settings.scale_growth)
        self.averages = [Average(self.masters, rate) for rate in settings.average_rates]
        self.clipper = AdaptiveClipper(
            settings.clip_norm, settings.clip_percentile, settings.clip_memory
        )
        self.optimiser = _adam(self.masters.weights, settings.learning_rate, settings)
        self.tracker_optimiser = None
        if tracker is not None:
            rate = config.objective.tracker_learning_rate
            self.tracker_optimiser = _adam(list(tracker.parameters()), rate, settings)
        self.skipped = 0
        """Steps left out because a gradient was not finite."""

    def run(self, out: Path, log_metrics: Log, progress: ProgressCallback) -> dict[str, Any]:
        """Train to the last step and write the student."""
        config, lines = self.config, MeanNumbers()
        final: dict[str, Any] = {}
        try:
            while self.step < config.steps:
                lines.add(self.take_step())
                is_last = self.step == config.steps
                if is_last or self.step % config.log_every == 0:
                    final = self._numbers(lines)
                    if self.processes.rank == 0:
                        log_metrics(final)
                if not is_last and self.step % config.checkpoint_every == 0:
                    self.save(out)
                report(progress, "distilling", self.step, config.steps, **_shown(final))
        except (Cancelled, KeyboardInterrupt):
            # Sharded weights are written by all processes, and only this one may have been told.
            if not self.is_sharded:
                self.save(out)
            raise
        self.save(out)
        self.export(out)
        return {**final, "items": len(self.data.names), "skipped_steps": self.skipped}

    def take_step(self) -> dict[str, float]:
        """Take one optimiser step and return its numbers."""
        rate = learning_rate(self.config.optimiser, self.step, self.config.steps)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        for update in range(self.config.objective.tracker_updates if _tracks(self.config) else 0):
            self._track(update)
        self.masters.forget_gradients()
        numbers: dict[str, float] = {}
        parts = self._parts("student")
        for batch, names in parts:
            loss = self._loss(batch, names)
            (loss.total / len(parts) * self.masters.scale).backward()
            _gather(numbers, loss, len(parts))
        self.processes.average_gradients(self.masters.live)
        norm = self.clipper.clip(self.masters.take_gradients())
        is_finite = math.isfinite(norm)
        if is_finite:
            self.optimiser.step()
            self.masters.publish()
            for average in self.averages:
                average.update(self.masters)
        self.skipped += not is_finite
        self.masters.adapt(is_finite)
        self.step += 1
        return {**numbers, "grad_norm": norm, "learning_rate": rate}

    def save(self, out: Path) -> None:
        """Write the checkpoint; all processes must call."""
        if self.processes.rank != 0 and not self.is_sharded:
            return
        tensors = prefixed("masters", self.masters.tensors())
        tensors |= prefixed("clipper", self.clipper.tensors())
        tensors |= prefixed("optimiser", optimizer_tensors(self.optimiser))
        for i, average in enumerate(self.averages):
            tensors |= prefixed(f"average{i}", average.tensors())
        if self.roles.tracker is not None and self.tracker_optimiser is not None:
            tensors |= prefixed("tracker", self.roles.tracker.state_dict())
            moments = optimizer_tensors(self.tracker_optimiser)
            tensors |= prefixed("tracker_optimiser", moments)
        tensors = {name: whole(tensor) for name, tensor in tensors.items()}
        if self.processes.rank != 0:
            return
        about = {"step": self.step, "skipped": self.skipped, "settings": self._settings()}
        checkpoints.save(out / CHECKPOINT, tensors, about)

    def restore(self, path: Path) -> None:
        """Go on from a checkpoint of the same training.

        Raises:
            CheckpointError: ``checkpoint.other_training``, and those of `geo3d.checkpoints.load`.
        """
        checkpoint = checkpoints.load(path)
        if checkpoint.config.get("settings") != self._settings():
            raise CheckpointError(
                "checkpoint.other_training",
                f"{path} belongs to a training with other settings or data.",
                "Resume with the settings it was started with, or choose another folder.",
            )
        kept = checkpoint.tensors
        self.masters.restore(below("masters", kept))
        self.clipper.restore(below("clipper", kept))
        restore_optimizer(self.optimiser, below("optimiser", kept))
        for i, average in enumerate(self.averages):
            average.restore(below(f"average{i}", kept))
        if self.roles.tracker is not None and self.tracker_optimiser is not None:
            self.roles.tracker.load_state_dict(below("tracker", kept))
            restore_optimizer(self.tracker_optimiser, below("tracker_optimiser", kept))
        self.step = int(checkpoint.config["step"])
        self.skipped = int(checkpoint.config["skipped"])

    def export(self, out: Path) -> None:
        """Write the student and its averages as model files; all processes must call."""
        if self.processes.rank == 0 or self.is_sharded:
            self._write(out, "student", self.masters.tensors(), "weights.")
            for average in self.averages:
                self._write(out, f"student_ema{average.rate}", average.tensors(), "")

    def _write(self, out: Path, name: str, weights: Mapping[str, Tensor], prefix: str) -> None:
        own = {n: whole(weights[prefix + n]).detach().cpu() for n in self.masters.names}
        if self.processes.rank != 0:
            return
        student = copy.deepcopy(self.template).float().cpu()
        student.load_state_dict(own, strict=False)
        dtype = TORSO_TYPES[self.config.export]
        if not isinstance(student, TwoTimes):
            save_model(set_torso(student, dtype), out / name)
            return
        for steps in self.config.export_steps:
            plain = copy.deepcopy(student.network)
            plain.load_state_dict(student.folded(1 / steps))
            save_model(set_torso(plain, dtype), out / f"{name}_{steps}step")

    def _loss(self, batch: Latents, names: tuple[str, ...]) -> Loss:
        objective = self.config.objective
        draws = draw(batch, objective, self.config.seed, names).to(self.processes.device)
        batch = batch.to(self.processes.device)
        warmth = min(self.step / objective.warmup_steps, 1.0) if objective.warmup_steps else 1.0
        needs_plain = objective.derivative.estimator == "jvp"
        with plain_kernels() if needs_plain else nullcontext():
            return batch_loss(self.roles, batch, draws, objective, warmth)

    def _track(self, update: int) -> None:
        tracker, optimiser = self.roles.tracker, self.tracker_optimiser
        if tracker is None or optimiser is None:
            raise TypeError("this objective has no tracker")
        optimiser.zero_grad(set_to_none=True)
        parts = self._parts(f"tracker {update}")
        for batch, names in parts:
            draws = draw(batch, self.config.objective, self.config.seed, names)
            device = self.processes.device
            loss = tracker_loss(
                self.roles, batch.to(device), draws.to(device), self.config.objective
            )
            (loss.total / len(parts)).backward()
        self.processes.average_gradients(tracker.parameters())
        torch.nn.utils.clip_grad_norm_(tracker.parameters(), 1.0)
        optimiser.step()

    def _parts(self, purpose: str) -> list[tuple[Latents, tuple[str, ...]]]:
        """Return this process's share of the step's items in parts of about equal load."""
        config, step = self.config, self.step
        mine = []
        for i, name in enumerate(chosen(self.data.names, step, config.batch, config.seed)):
            if i % self.processes.count == self.processes.rank:
                place = f"step {step} item {i} {purpose}"
                view = item_generator(config.seed, f"{place} view")
                mine.append((self.data.read(name, view), place))
        loads = [len(latents.values) if self.is_sparse else 1 for latents, _ in mine]
        shares = parts_of_equal_load(loads, config.split)
        return [
            (join([mine[i][0] for i in share]), tuple(mine[i][1] for i in share))
            for share in shares
        ]

    def _numbers(self, lines: MeanNumbers) -> dict[str, Any]:
        numbers = lines.means()
        loss = float(
            self.processes.mean(torch.tensor(numbers["loss"], device=self.processes.device))
        )
        if not math.isfinite(loss) and self.config.optimiser.torso != "float16":
            raise NumericalError(
                "training.diverged",
                f"The loss is {loss} at step {self.step}.",
                "Lower optimiser.learning_rate, or lengthen optimiser.warmup_steps.",
            )
        own = {"step": self.step, "time": round(time.time(), 1), "loss": loss}
        return {**numbers, **own, "log_scale": self.masters.log_scale}

    def _settings(self) -> dict[str, Any]:
        settings = config_to_dict(self.config)
        places = {"latents": "", "conditions": ""}
        return {
            **settings,
            "data": {**settings["data"], **places, "digest": self.data.digest()},
            "teacher": self.teacher_digest,
        }


def learning_rate(settings: OptimiserConfig, step: int, steps: int) -> float:
    """Return the learning rate of the step after ``step`` steps."""
    warmup = settings.warmup_steps
    rise = min((step + 1) / warmup, 1.0) if warmup else 1.0
    if settings.decay == "constant":
        return settings.learning_rate * rise
    rest = min(max(step - warmup, 0) / max(steps - warmup, 1), 1.0)
    return settings.learning_rate * rise * 0.5 * (1 + math.cos(math.pi * rest))


def _gather(numbers: dict[str, float], loss: Loss, parts: int) -> None:
    values = {"loss": float(loss.total.detach())}
    values |= {f"loss_{name}": float(value) for name, value in loss.parts.items()}
    for name, value in values.items():
        numbers[name] = numbers.get(name, 0.0) + value / parts
    bins = (loss.t * BINS).long().clamp(max=BINS - 1)
    for number in sorted(set(bins.tolist())):
        numbers[f"loss_bin_{number}"] = float(loss.per_item[bins == number].mean())


def _adam(weights: list[Tensor], rate: float, settings: OptimiserConfig) -> torch.optim.AdamW:
    return torch.optim.AdamW(
        weights, lr=rate, betas=settings.betas, weight_decay=settings.weight_decay
    )


def _shard(processes: Processes, student: nn.Module, teacher: nn.Module | None) -> None:
    parts = [student]
    if isinstance(student, TwoTimes):
        parts = [student.span_embedder, student.network]
    for network in (*parts, teacher):
        if network is not None:
            processes.shard(network)


def _tracks(config: DistillConfig) -> bool:
    return config.objective.kind == "distribution"


def _shown(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name in ("loss", "grad_norm")}
