"""The training loop: every training of the project is run by it.

    class Mine(Method):
        def gradients(self, backward):
            loss = ...
            backward(loss)
            return {"loss": loss}

    numbers = run_training(Mine(state), Plan("training it", steps=100, rate=...), out, settings)

A method brings networks and optimiser (`TrainingState`), the gradients of a step, and, where it has
them, what to measure and what to write at the end.  The loop does the rest, step for step:

1. set the learning rate; `Method.prepare`; `Method.gradients`; average them over processes;
2. a loss or a gradient that is not finite ends the training (in float16 the loss scale is lowered
   first) before anything is moved or written;
3. write the checkpoint, if it is time.  Only here, before the weights move, is it known that a
   finite step leads on from them: a state that cannot be resumed never takes the place of one that
   can;
4. clip the gradients, move the weights, `Method.moved`, move the running averages;
5. a line of metrics, if it is time; tell who watches, who may cancel: then the checkpoint is
   written at once.

All random numbers of a step must come from (seed, step), so that the same call again, after an
interruption, goes on bit by bit.  Under ``torchrun`` every process computes its share of each batch
(`geo3d.work.processes`).
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from geo3d.errors import Cancelled, InputError, NumericalError
from geo3d.progress import MetricsCallback, ProgressCallback, ignore_progress, report
from geo3d.work.gradients import gradient_norm
from geo3d.work.processes import Processes
from geo3d.work.state import DIVERGED_HINT, TrainingState, load_state, save_state

log = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.safetensors"
Numbers = dict[str, Any]
Backward = Callable[[Tensor], None]


@dataclass(frozen=True)
class Plan:
    """When a training does what."""

    stage: str
    """What is done, for those who watch."""
    steps: int
    """Steps in all."""
    rate: Callable[[int], float]
    """Learning rate of the step that follows so many steps (`geo3d.work.schedules`)."""
    log_every: int = 20
    """Steps per line of metrics."""
    validate_every: int = 0
    """Steps between measurements, which also come last; 0 never measures."""
    checkpoint_every: int = 0
    """Steps between checkpoints; 0 leaves them to the clock.  Sharded weights need steps: clocks of
    processes differ."""
    checkpoint_seconds: float = 300.0
    """Seconds between checkpoints."""

    @classmethod
    def of(cls, config: Any, stage: str, steps: int, rate: Callable[[int], float]) -> Plan:
        """Return the plan of settings, whose fields of these names say when."""
        names = ("log_every", "validate_every", "checkpoint_every", "checkpoint_seconds")
        given = {name: getattr(config, name) for name in names if hasattr(config, name)}
        return cls(stage, steps, rate, **given)


class Method:
    """What a training brings; the loop calls these and nothing else.

    Args:
        state: networks and optimiser.
    """

    def __init__(self, state: TrainingState) -> None:
        self.state = state

    def prepare(self) -> None:
        """Do what comes before the gradients of step ``state.step`` and changes the state.

        It is called again when a training resumes at this step: what must happen once is counted
        in ``state.counts``.
        """

    def gradients(self, backward: Backward) -> Mapping[str, Tensor | float]:
        """Compute the gradients of step ``state.step`` and return its numbers, among them "loss".

        Args:
            backward: takes the loss, or the parts it is the sum of one after the other.
        """
        raise NotImplementedError

    def moved(self) -> None:
        """Put the weights, which have just moved, back to where they are allowed to be."""

    def validate(self) -> Numbers:
        """Return numbers of data that is not learned from."""
        return {}

    def export(self, out: Path, *, is_last: bool) -> None:
        """Write what users want; called after every checkpoint, and at the end."""


def run_training(
    method: Method,
    plan: Plan,
    out: Path,
    settings: Mapping[str, Any],
    *,
    processes: Processes | None = None,
    log_metrics: MetricsCallback = ignore_progress,
    progress: ProgressCallback = ignore_progress,
) -> Numbers:
    """Train to the last step of ``plan`` and return the last line of metrics.

    Args:
        method: what is trained.
        plan: when to do what.
        out: folder of the checkpoint, which is resumed from if it is there.
        settings: what the checkpoint belongs to, JSON-ready; another training is refused.
        processes: `geo3d.work.processes.connect`; None is this one alone.
        log_metrics: receives a mapping every ``log_every`` steps.
        progress: receives an event per step; may raise `Cancelled`.

    Raises:
        NumericalError: ``training.diverged``; the last good state is in ``out``.
        CheckpointError: ``checkpoint.other_training``, ``checkpoint.damaged``.
    """
    if load_state(out / CHECKPOINT, method.state, settings):
        log.info("resumed at step %d", method.state.step)
    run = _Run(method, plan, out, settings, processes or Processes(torch.device("cpu")))
    return run.to_the_end(log_metrics, progress)


class _Run:
    """The loop, with what every step needs."""

    def __init__(
        self,
        method: Method,
        plan: Plan,
        out: Path,
        settings: Mapping[str, Any],
        processes: Processes,
    ) -> None:
        self.method, self.state, self.plan = method, method.state, plan
        self.out, self.settings, self.processes = out, settings, processes
        self.lines: list[dict[str, float]] = []
        """Numbers of the steps since the last line."""
        self.saved_at = time.monotonic()
        self.saved_step = self.state.step or -1
        self.is_torn = False
        """Whether the state lies between two steps."""

    def to_the_end(self, log_metrics: MetricsCallback, progress: ProgressCallback) -> Numbers:
        state, plan = self.state, self.plan
        shown: Numbers = {}
        try:
            while state.step < plan.steps:
                self.lines.append(self.take_step())
                if self.is_time(plan.log_every) or self.is_time(plan.validate_every):
                    measured = self.end_line()
                    shown |= {"loss": state.numbers["loss"], **measured}
                    if self.processes.rank == 0:
                        log_metrics(state.numbers)
                report(progress, plan.stage, state.step, plan.steps, **shown)
        except (Cancelled, KeyboardInterrupt):
            # Sharded weights are written by all processes, and only this one may have been told.
            if not self.is_torn and not state.is_sharded:
                self.save()
            raise
        self.save(is_last=True)
        return dict(state.numbers)

    def take_step(self) -> dict[str, float]:
        """Take one step and return its numbers."""
        state, masters = self.state, self.state.masters
        for group in state.optimizer.param_groups:
            group["lr"] = self.plan.rate(state.step) * group.get("relative_rate", 1.0)
        self.is_torn = True
        self.method.prepare()
        self.is_torn = False
        masters.forget_gradients()
        numbers = self.gradients()
        self.processes.average_gradients(masters.live)
        # the same on every process, which must agree on what comes next
        loss = torch.tensor(numbers["loss"], device=self.processes.device)
        numbers["loss"] = float(self.processes.mean(loss))
        gradients = masters.take_gradients()
        norm = gradient_norm(gradients)
        numbers["grad_norm"] = float(norm)
        is_finite = math.isfinite(numbers["loss"]) and math.isfinite(numbers["grad_norm"])
        if not is_finite and masters.log_scale <= 0:
            raise self.diverged(
                f"the loss is {numbers['loss']}, the norm of its gradient {numbers['grad_norm']}."
            )
        if is_finite and self.is_checkpoint_due():
            self.save()
        self.is_torn = True
        if is_finite:
            state.clipper.clip(gradients, norm)
            state.optimizer.step()
            masters.publish()
            self.method.moved()
            state.update_averages()
        else:
            state.counts["skipped"] = state.counts.get("skipped", 0) + 1
        masters.adapt(is_finite)
        state.step += 1
        self.is_torn = False
        return numbers

    def gradients(self) -> dict[str, float]:
        """Compute the gradients of the step and return its numbers."""
        scale = self.state.masters.scale
        try:
            found = self.method.gradients(lambda loss: (loss * scale).backward())
        except (NumericalError, InputError) as error:
            # an objective that itself looks for what is not finite
            if isinstance(error, InputError) and error.code != "loss.not_finite":
                raise
            raise self.diverged(error.message) from error
        return {name: float(value) for name, value in found.items()}

    def diverged(self, what: str) -> NumericalError:
        """Return the error that ends a training whose next step is not finite."""
        message = f"At step {self.state.step + 1}: {what}"
        return NumericalError("training.diverged", message, DIVERGED_HINT)

    def is_time(self, every: int) -> bool:
        """Say whether something done every so many steps, and at the end, is due."""
        return every > 0 and (self.state.step % every == 0 or self.state.step == self.plan.steps)

    def is_checkpoint_due(self) -> bool:
        """Say whether a checkpoint of the state as it is should be written."""
        step, every = self.state.step, self.plan.checkpoint_every
        if step == self.saved_step:
            return False
        if every > 0:
            return step > 0 and step % every == 0
        return time.monotonic() - self.saved_at >= self.plan.checkpoint_seconds

    def end_line(self) -> Numbers:
        """Make the line of metrics from the steps since the last one; return what was measured."""
        names = dict.fromkeys(name for line in self.lines for name in line)
        known = {name: [line[name] for line in self.lines if name in line] for name in names}
        means = {name: sum(values) / len(values) for name, values in known.items()}
        self.lines.clear()
        step = self.state.step
        numbers: Numbers = {"step": step, "time": round(time.time(), 1), **means}
        numbers["learning_rate"] = self.plan.rate(step - 1)
        if self.state.masters.is_scaled:
            numbers["log_scale"] = self.state.masters.log_scale
        measured = self.method.validate() if self.is_time(self.plan.validate_every) else {}
        self.state.numbers = {**numbers, **measured}
        return measured

    def save(self, *, is_last: bool = False) -> None:
        """Write the checkpoint, where it is not there yet, and what users want."""
        is_writer = self.processes.rank == 0 or self.state.is_sharded
        if not is_writer:
            return
        if self.saved_step != self.state.step:
            save_state(self.out / CHECKPOINT, self.state, self.settings, self.processes.rank)
        self.saved_at, self.saved_step = time.monotonic(), self.state.step
        self.method.export(self.out, is_last=is_last)
