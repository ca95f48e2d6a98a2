"""Training of the model of confidence, and how well calibrated it is on pairs kept aside.

Every fourth pair is only measured on.  The regression of maps learns from all others; what sets its
temperature and offset, and what chooses the threshold of doubt, are probabilities that folds of
pairs get from the other folds.  The network of vertices leaves out every eighth pair, which sets
temperature and offset.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from geo3d.config import config_to_dict, require, require_at_least
from geo3d.device import item_generator
from geo3d.errors import InputError
from geo3d.progress import MetricsCallback, ProgressCallback, ignore_progress
from geo3d.work import schedules
from geo3d.work.examples import examples
from geo3d.work.state import TrainingState
from geo3d.work.training import Backward, Method, Numbers, Plan, run_training
from shape_matching.confidence.data import Outcome, OutcomeConfig, read_outcomes
from shape_matching.confidence.model import Confidence, Head, save_confidence, vertex_inputs
from shape_matching.evaluate.metrics import (
    FLAG,
    RIGHT,
    area_under_roc,
    calibration_bins,
    calibration_error,
)

MODEL = "confidence.safetensors"
HELD_OUT = 4
FOLDS = 8
RIDGE = 0.02
"""Weight of the squared coefficients of the regression, chosen on the folds."""
FORCED = 0.3
"""Weight of maps from starts that were made wrong, against 1 of those that the matcher chose; also
chosen on the folds."""
FLAGGED = 0.95
"""Share of wrong maps that the threshold of doubt should catch."""


@dataclass(frozen=True)
class ConfidenceTrainingConfig:
    """Settings of `train_confidence`; the defaults are the recipe of the shipped model."""

    outcomes: str = ""
    """Folder of the outcomes; made when they are missing."""
    data: OutcomeConfig = field(default_factory=OutcomeConfig)
    """What the outcomes are."""
    steps: int = 1500
    """Optimiser steps."""
    batch: int = 256
    """Samples per step."""
    learning_rate: float = 2e-3
    weight_decay: float = 0.3
    jitter: float = 0.25
    """Noise on the standardised signals, in standard deviations, so that few pairs suffice."""
    log_every: int = 50
    checkpoint_seconds: float = 60.0
    seed: int = 0

    def __post_init__(self) -> None:
        require_at_least(self, 1, "steps log_every")
        require(self.batch >= 16, "batch", "at least 16")
        require(self.learning_rate > 0, "learning_rate", "above 0")
        require(self.jitter >= 0, "jitter", "0 or more")


@dataclass(frozen=True, eq=False)
class Table:
    """Signals and what is right, of several pairs."""

    pair: Int64[Tensor, " m"]
    whole: Float[Tensor, "m w"]
    whole_right: Bool[Tensor, " m"]
    chosen: Bool[Tensor, " m"]
    vertex: Float[Tensor, "n c"]
    vertex_right: Bool[Tensor, " n"]
    vertex_chosen: Bool[Tensor, " n"]


def train_confidence(
    config: ConfidenceTrainingConfig,
    out: Path,
    *,
    log_metrics: MetricsCallback = ignore_progress,
    progress: ProgressCallback = ignore_progress,
) -> dict[str, Any]:
    """Train a model into ``out`` (``confidence.safetensors``) and return its numbers.

    Raises:
        InputError: ``confidence_training.too_few``, ``confidence_data.bad_outcome``.
        NumericalError: ``training.diverged``.
    """
    training = _Training(config)
    plan = Plan.of(
        config,
        "training the confidence",
        config.steps,
        lambda step: config.learning_rate * schedules.cosine(step, config.steps),
    )
    numbers = run_training(
        training, plan, out, training.settings, log_metrics=log_metrics, progress=progress
    )
    return {**numbers, **training.measured}


class _Training(Method):
    def __init__(self, config: ConfidenceTrainingConfig) -> None:
        self.config = config
        self.shown, self.tuning, self.test = load_tables(config)
        self.model = Confidence(item_generator(config.seed, "confidence weights"))
        self.folds = fit_maps(self.model.whole, self.shown, self.tuning)
        self.model.vertex.standardise(self.shown.vertex)
        optimizer = torch.optim.AdamW(
            self.model.vertex.parameters(),
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
        )
        super().__init__(TrainingState(self.model, optimizer))
        self.settings = {**config_to_dict(config), "outcomes": f"{len(self.shown.whole)} maps"}
        self.measured: dict[str, Any] = {}

    def gradients(self, backward: Backward) -> Numbers:
        generator = item_generator(self.config.seed, f"confidence step {self.state.step}")
        head, inputs = self.model.vertex, self.shown.vertex
        rows = torch.randint(len(inputs), (self.config.batch,), generator=generator)
        noise = torch.randn(len(rows), inputs.shape[1], generator=generator)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            head(inputs[rows] + self.config.jitter * head.scale * noise),
            self.shown.vertex_right[rows].float(),
        )
        backward(loss)
        return {"loss": float(loss.detach())}

    def export(self, out: Path, *, is_last: bool) -> None:
        model = Confidence(info={"training": self.settings, "steps": self.state.step})
        model.load_state_dict(self.model.state_dict())
        own = self.tuning.vertex_chosen
        logits = logits_of(model.vertex, self.tuning.vertex[own])
        set_temperature(model.vertex, logits, self.tuning.vertex_right[own])
        self.measured = {**self.folds, **measured(model, self.test)}
        model.info.update(self.measured)
        save_confidence(out / MODEL, model)


def load_tables(config: ConfidenceTrainingConfig) -> tuple[Table, Table, Table]:
    """Return what is learned from, what sets the temperature of vertices, and what is measured on.

    Raises:
        InputError: ``confidence_training.too_few``; ``confidence_data.bad_outcome``.
    """
    sides: tuple[list[tuple[int, Outcome]], ...] = ([], [], [])
    for n, path in examples(config.outcomes, config.data.pairs):
        side = 2 if n % HELD_OUT == HELD_OUT - 1 else int(n % (2 * HELD_OUT) == 1)
        sides[side].extend((n, outcome) for outcome in read_outcomes(path))
    if not all(sides):
        raise InputError(
            "confidence_training.too_few",
            f"{config.outcomes or 'The folder'} has outcomes of too few pairs; "
            f"{2 * HELD_OUT} are the least.",
            "Make more: raise --pairs.",
        )
    first, second, third = (table(side) for side in sides)
    return first, second, third


def table(numbered: Sequence[tuple[int, Outcome]]) -> Table:
    """Return outcomes, each with the number of its pair, in one table."""
    outcomes = [outcome for _, outcome in numbered]
    known = [~np.isnan(o.errors) for o in outcomes]
    counts = torch.tensor([int(k.sum()) for k in known])
    chosen = torch.tensor([o.chosen for o in outcomes])
    both = list(zip(outcomes, known, strict=True))
    return Table(
        torch.tensor([n for n, _ in numbered]),
        torch.from_numpy(np.stack([o.seen.whole for o in outcomes])).float(),
        torch.tensor([o.error < RIGHT for o in outcomes]),
        chosen,
        torch.cat([vertex_inputs(o.seen)[torch.from_numpy(k)] for o, k in both]),
        torch.cat([torch.from_numpy(o.errors[k] < RIGHT) for o, k in both]),
        chosen.repeat_interleave(counts),
    )


def fit_maps(head: Head, *tables: Table) -> dict[str, float | None]:
    """Fit the regression of maps, with its temperature; return how folds are judged by the others,
    and the least probability below which `FLAGGED` of their wrong maps lie."""
    inputs, right, pair, chosen = (
        torch.cat([getattr(table, name) for table in tables])
        for name in ("whole", "whole_right", "pair", "chosen")
    )
    weight = torch.where(chosen, 1.0, FORCED)
    fold = torch.unique(pair, return_inverse=True)[1] % FOLDS
    apart = torch.zeros(len(inputs))
    for i in range(FOLDS):
        others = fold != i
        fit_regression(head, inputs[others], right[others], weight[others])
        apart[fold == i] = logits_of(head, inputs[fold == i])
    fit_regression(head, inputs, right, weight)
    set_temperature(head, apart[chosen], right[chosen])
    said = torch.sigmoid(apart * head.temperature[0] + head.temperature[1])[chosen]
    wrong, is_right = said[~right[chosen]], said[right[chosen]]
    numbers = {
        "folds_maps": len(said),
        "folds_auc": area_under_roc(said.double().numpy(), right[chosen].numpy()),
        "folds_threshold": float(wrong.quantile(FLAGGED)) if len(wrong) else float("nan"),
        "folds_wrong_flagged": _share(wrong.numpy() < FLAG),
        "folds_false_alarms": _share(is_right.numpy() < FLAG),
    }
    return {name: None if np.isnan(x) else x for name, x in numbers.items()}


def fit_regression(
    head: Head,
    inputs: Float[Tensor, "n c"],
    right: Bool[Tensor, " n"],
    weight: Float[Tensor, " n"],
) -> None:
    """Fit a head without hidden layers by weighted logistic regression with `RIDGE`."""
    head.standardise(inputs)
    head.temperature.copy_(torch.tensor([1.0, 0.0]))
    (layer,) = head.layers
    assert isinstance(layer, torch.nn.Linear)
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=200)

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = torch.nn.functional.binary_cross_entropy_with_logits(
            head(inputs), right.float(), weight / weight.mean()
        )
        value = value + RIDGE * layer.weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)


@torch.no_grad()
def logits_of(head: Head, inputs: Float[Tensor, "n c"]) -> Float[Tensor, " n"]:
    """Return the logits without temperature."""
    return (head(inputs) - head.temperature[1]) / head.temperature[0]


def set_temperature(head: Head, logits: Float[Tensor, " n"], right: Bool[Tensor, " n"]) -> None:
    """Set temperature and offset so that logits become probabilities of how often it is right."""
    both = torch.tensor([1.0, 0.0], requires_grad=True)
    optimizer = torch.optim.LBFGS([both], max_iter=100)

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = torch.nn.functional.binary_cross_entropy_with_logits(
            logits * both[0] + both[1], right.float()
        )
        # few maps must not make it sure of itself
        value = value + 1e-2 * (both - torch.tensor([1.0, 0.0])).square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    head.temperature.copy_(both.detach())


def measured(model: Confidence, kept: Table) -> dict[str, float | None]:
    """Return how well maps and vertices are told apart, and how well calibrated both are; None
    where there was nothing to tell."""
    with torch.no_grad():
        whole = torch.sigmoid(model.whole(kept.whole)).double().numpy()
        vertex = torch.sigmoid(model.vertex(kept.vertex)).double().numpy()
    right, chosen = kept.whole_right.numpy(), kept.chosen.numpy()
    own = kept.vertex_chosen.numpy()
    numbers = {
        "maps": len(whole),
        "maps_right": float(right.mean()),
        "maps_auc": area_under_roc(whole, right),
        "chosen": int(chosen.sum()),
        "chosen_right": _share(right[chosen]),
        "chosen_auc": area_under_roc(whole[chosen], right[chosen]),
        "wrong_flagged": _share(whole[chosen & ~right] < FLAG),
        "false_alarms": _share(whole[chosen & right] < FLAG),
        "calibration_error": calibration_error(calibration_bins(whole[chosen], right[chosen])),
        "vertex_auc": area_under_roc(vertex, kept.vertex_right.numpy()),
        "vertex_calibration_error": calibration_error(
            calibration_bins(vertex[own], kept.vertex_right.numpy()[own])
        ),
    }
    return {name: None if np.isnan(x) else x for name, x in numbers.items()}


def _share(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")
