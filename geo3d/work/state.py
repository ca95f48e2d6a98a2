"""What a training needs to go on as if it had never stopped: weights, their average, optimiser.

Random draws of step n come from a generator seeded by (seed, n), so there is no random state to
keep.  The state is one safetensors file: entries ``network.*``, ``ema.*`` and ``optimizer.*``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from geo3d import checkpoints
from geo3d.errors import CheckpointError
from geo3d.work.processes import spread_like


@dataclass(eq=False)
class TrainingState:
    """A network in training."""

    network: nn.Module
    ema: nn.Module
    """The running average of the weights; same class as ``network``."""
    optimizer: Optimizer
    step: int = 0
    """Optimiser steps done."""


@torch.no_grad()
def update_average(state: TrainingState, beta: float) -> None:
    """Move the average towards the weights: average <- beta average + (1 - beta) weights."""
    pairs = zip(state.ema.parameters(), state.network.parameters(), strict=True)
    for average, weight in pairs:
        average.lerp_(weight, 1 - beta)


def save_state(path: str | PathLike[str], state: TrainingState, settings: Mapping[str, Any]) -> str:
    """Write ``state`` with the ``settings`` it belongs to; return the file's digest."""
    tensors = {
        **prefixed("network", state.network.state_dict()),
        **prefixed("ema", state.ema.state_dict()),
    }
    tensors |= prefixed("optimizer", optimizer_tensors(state.optimizer))
    return checkpoints.save(path, tensors, {"step": state.step, "settings": dict(settings)})


def load_state(
    path: str | PathLike[str], state: TrainingState, settings: Mapping[str, Any]
) -> None:
    """Fill ``state``, made with the same ``settings``, from a file of `save_state`.

    Raises:
        CheckpointError: ``checkpoint.other_training``, and those of `geo3d.checkpoints.load`.
    """
    checkpoint = checkpoints.load(path)
    if checkpoint.config.get("settings") != dict(settings):
        raise CheckpointError(
            "checkpoint.other_training",
            f"{path} belongs to a training with other settings or data.",
            "Resume with the settings it was started with, or choose another folder.",
        )
    state.network.load_state_dict(below("network", checkpoint.tensors))
    state.ema.load_state_dict(below("ema", checkpoint.tensors))
    restore_optimizer(state.optimizer, below("optimizer", checkpoint.tensors))
    state.step = int(checkpoint.config["step"])


def optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """Return the optimiser's moments as ``PARAMETER.KEY``, parameters by number."""
    tensors: dict[str, Tensor] = {}
    for index, values in optimizer.state_dict()["state"].items():
        tensors |= prefixed(str(index), values)
    return tensors


def restore_optimizer(optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Give the optimiser the moments of `optimizer_tensors`; its settings stay."""
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, _, key = name.partition(".")
        moments.setdefault(int(index), {})[key] = tensor
    places = [weight for group in optimizer.param_groups for weight in group["params"]]
    for index, values in moments.items():
        moments[index] = {k: spread_like(v, places[index]) for k, v in values.items()}
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": moments, "param_groups": groups})


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors as ``PREFIX.NAME``."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what `prefixed` was given, of tensors with several prefixes."""
    start = prefix + "."
    return {n.removeprefix(start): t for n, t in tensors.items() if n.startswith(start)}
