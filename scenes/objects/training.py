"""One trainer of flow networks over dense and sparse latents: teachers and few-step students.

    config = load_config(DistillConfig, "mdt.yaml", preset="mdt")
    train(config, Path("out"))          # again after an interruption: resumes bit by bit

Every step: the batch's parts one after the other, gradients averaged over processes, clipped, a
step of AdamW on float32 masters, averages.  Random numbers come from (seed, step, item) and depend
neither on the number of processes nor on the parts.

``out`` gets ``checkpoint.safetensors`` and, as model files, ``student.*`` and ``student_ema*``; a
student with two times is written once per number of sampling steps (``student_1step``, ...).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from geo3d.config import config_to_dict, load_config
from geo3d.device import item_generator, pick_device
from geo3d.errors import ConfigError
from geo3d.files import sha256_file
from geo3d.progress import MetricsCallback, ProgressCallback, ignore_progress
from geo3d.work import schedules
from geo3d.work.gradients import Clipper, Masters
from geo3d.work.processes import Processes, connect, whole
from geo3d.work.state import TrainingState, running_average
from geo3d.work.training import Backward, Method, Numbers, Plan, run_training
from scenes.objects.attention import plain_kernels
from scenes.objects.latent_folder import LatentFolder, chosen
from scenes.objects.models import load_model, save_model
from scenes.objects.objectives import Loss, batch_loss, draw, tracker_loss
from scenes.objects.precision import TORSO_TYPES, set_torso
from scenes.objects.slat_flow import SLatFlowConfig, SLatFlowModel
from scenes.objects.ss_flow import SparseStructureFlowModel, SSFlowConfig
from scenes.objects.train_config import DistillConfig, OptimiserConfig
from scenes.objects.training_batch import Latents, Roles, TwoTimes, join, parts_of_equal_load

LARGEST_TRACKER_GRADIENT = 1.0
BINS = 10
"""Equal intervals of t in which the loss is followed."""


def train(
    config: DistillConfig,
    out: Path,
    *,
    device: str = "auto",
    log_metrics: MetricsCallback = ignore_progress,
    progress: ProgressCallback = ignore_progress,
) -> dict[str, Any]:
    """Train a network into ``out`` and return its final numbers.

    Args:
        config: settings.
        out: folder for checkpoint and model files; a checkpoint in it is resumed from.
        device: name of the device, see `geo3d.device.pick_device`.
        log_metrics: receives a mapping every ``log_every`` steps.
        progress: receives an event per step; may raise `Cancelled`.

    Raises:
        NumericalError: ``training.diverged``.
        CheckpointError: ``checkpoint.other_training``; errors of reading the models.
        ConfigError: ``training.bad_batch``, ``training.not_a_flow``.
        InputError: errors of reading the latents.
    """
    training = _FlowTraining(config, connect(pick_device(device), config.batch))
    rate = partial(learning_rate, config.optimiser, steps=config.steps)
    plan = Plan.of(config, "distilling", config.steps, rate)
    numbers = run_training(
        training, plan, out, training.settings(),
        processes=training.processes, log_metrics=log_metrics, progress=progress,
    )  # fmt: skip
    skipped = training.state.counts.get("skipped", 0)
    return {**numbers, "items": len(training.data.names), "skipped_steps": skipped}


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


class _FlowTraining(Method):
    """Networks, optimisers and data of a training."""

    def __init__(self, config: DistillConfig, processes: Processes) -> None:
        self.config, self.processes = config, processes
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
        if config.objective.facts.has_two_times:
            student = TwoTimes(student)
        if tracker is not None:
            tracker = tracker.requires_grad_(True).to(device)
        self.template = student
        """What weights are put into to be written; a copy where the student is sharded."""
        if config.shard and processes.count > 1:
            self.template = copy.deepcopy(student).cpu()
            _shard(processes, student, teacher)
        self.roles = Roles(student, teacher, tracker)
        super().__init__(_new_state(config, student, tracker))

    def prepare(self) -> None:
        """Train the tracker on the student's samples, once per step of the student."""
        counts = self.state.counts
        if _tracks(self.config) and counts["tracked"] == self.state.step:
            for update in range(self.config.objective.tracker_updates):
                self._track(update)
            counts["tracked"] += 1

    def gradients(self, backward: Backward) -> Numbers:
        numbers: Numbers = {}
        parts = self._parts("student")
        for batch, names in parts:
            loss = self._loss(batch, names)
            backward(loss.total / len(parts))
            _gather(numbers, loss, len(parts))
        return numbers

    def export(self, out: Path, *, is_last: bool) -> None:
        """Write the student and its averages as model files."""
        if not is_last:
            return
        masters = self.state.masters
        self._write(out, "student", list(masters.weights))
        for rate, average in zip(
            self.config.optimiser.average_rates, self.state.averages, strict=True
        ):
            self._write(out, f"student_ema{rate}", list(average.module.parameters()))

    def _write(self, out: Path, name: str, weights: list[Tensor]) -> None:
        pairs = zip(self.state.masters.names, weights, strict=True)
        own = {n: whole(weight).detach().cpu() for n, weight in pairs}
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
        warmth = schedules.rise(self.state.step, objective.warmup_steps)
        needs_plain = objective.derivative.estimator == "jvp"
        with plain_kernels() if needs_plain else nullcontext():
            return batch_loss(self.roles, batch, draws, objective, warmth)

    def _track(self, update: int) -> None:
        tracker = cast(nn.Module, self.state.others["tracker"])
        optimiser = cast(torch.optim.Optimizer, self.state.others["tracker_optimiser"])
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
        torch.nn.utils.clip_grad_norm_(tracker.parameters(), LARGEST_TRACKER_GRADIENT)
        optimiser.step()

    def _parts(self, purpose: str) -> list[tuple[Latents, tuple[str, ...]]]:
        """Return this process's share of the step's items in parts of about equal load."""
        config, step = self.config, self.state.step
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

    def settings(self) -> dict[str, Any]:
        """Return what the checkpoint belongs to."""
        settings = config_to_dict(self.config)
        places = {"latents": "", "conditions": ""}
        return {
            **settings,
            "data": {**settings["data"], **places, "digest": self.data.digest()},
            "teacher": self.teacher_digest,
        }


def learning_rate(settings: OptimiserConfig, step: int, steps: int) -> float:
    """Return the learning rate of the step after ``step`` steps."""
    rate = settings.learning_rate * schedules.rise(step + 1, settings.warmup_steps)
    if settings.decay == "constant":
        return rate
    return rate * schedules.cosine(step - settings.warmup_steps, steps - settings.warmup_steps)


def _gather(numbers: dict[str, float], loss: Loss, parts: int) -> None:
    values = {"loss": float(loss.total.detach())}
    values |= {f"loss_{name}": float(value) for name, value in loss.parts.items()}
    for name, value in values.items():
        numbers[name] = numbers.get(name, 0.0) + value / parts
    bins = (loss.t * BINS).long().clamp(max=BINS - 1)
    for number in sorted(set(bins.tolist())):
        numbers[f"loss_bin_{number}"] = float(loss.per_item[bins == number].mean())


def _new_state(
    config: DistillConfig, student: nn.Module, tracker: nn.Module | None
) -> TrainingState:
    settings = config.optimiser
    scale = settings.initial_log_scale if settings.torso == "float16" else 0.0
    masters = Masters(student, scale, settings.scale_growth)

    def adam(weights: Iterable[Tensor], rate: float) -> torch.optim.AdamW:
        return torch.optim.AdamW(
            list(weights), lr=rate, betas=settings.betas, weight_decay=settings.weight_decay
        )

    averages = [
        running_average(masters.weights, lambda step, rate=rate: rate)
        for rate in settings.average_rates
    ]
    state = TrainingState(
        student,
        adam(masters.weights, settings.learning_rate),
        averages,
        Clipper(settings.clip_norm, settings.clip_percentile, settings.clip_memory),
        masters,
    )
    if tracker is not None:
        optimiser = adam(tracker.parameters(), config.objective.tracker_learning_rate)
        state.others = {"tracker": tracker, "tracker_optimiser": optimiser}
        state.counts["tracked"] = 0
    return state


def _shard(processes: Processes, student: nn.Module, teacher: nn.Module | None) -> None:
    parts = [student]
    if isinstance(student, TwoTimes):
        parts = [student.span_embedder, student.network]
    for network in (*parts, teacher):
        if network is not None:
            processes.shard(network)


def _tracks(config: DistillConfig) -> bool:
    return config.objective.facts.has_tracker
