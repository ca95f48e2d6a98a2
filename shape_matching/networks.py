"""Learned networks of matching: how a kind is kept in a file, and how it is trained.

    CORRECTOR.load()                    # the shipped one
    CORRECTOR.save("mine.safetensors", corrector)

A training brings the gradients of a step and what to measure on the examples held out
(`NetworkTraining`); optimiser, rate, running average and the file at the end are those of all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from os import PathLike
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from geo3d import checkpoints
from geo3d.config import config_from_dict, config_to_dict, require, require_at_least
from geo3d.device import item_generator
from geo3d.errors import CheckpointError, ConfigError
from geo3d.files import asset
from geo3d.progress import MetricsCallback, ProgressCallback
from geo3d.work import schedules
from geo3d.work.gradients import Clipper
from geo3d.work.state import TrainingState, running_average
from geo3d.work.training import Method, Numbers, Plan, run_training
from shape_matching.prior.feature_network import DiffusionNet, Surface, least_squares

LARGEST_GRADIENT = 1.0
HELD_OUT = 8
"""One example of so many is held out."""


class Network(nn.Module):
    """A DiffusionNet and what is around it, with the settings of its shape.

    Args:
        config: of the kind's own class.
        info: where it comes from: training settings, data, digest of its file.
    """

    network: DiffusionNet

    def __init__(self, config: Any, info: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.config = config
        self.info = dict(info or {})


N = TypeVar("N", bound=Network)
E = TypeVar("E")


@dataclass(frozen=True)
class NetworkKind(Generic[N]):
    """A kind of network, as files know it."""

    name: str
    """Of its settings inside the file, of the shipped file, and of the verb that trains it."""
    code: str
    """Of the error when a file holds something else."""
    config: type
    build: Callable[..., N]
    """Takes ``config``, a generator of weights or None, and ``info``."""

    @property
    def file(self) -> str:
        """The name of its file."""
        return f"{self.name}.safetensors"

    def load(self, path: str | PathLike[str] | None = None, device: str = "cpu") -> N:
        """Read a network; None means the shipped one.  The last few are remembered.

        Raises:
            CheckpointError: ``checkpoint.missing``, ``checkpoint.damaged``, and the kind's ``code``
                for a file of something else.
            InputError: ``asset.missing`` when the shipped one is not there.
        """
        file = asset(f"priors/{self.file}") if path is None else Path(path)
        # the time of writing is part of the key, so that a file written anew is read anew
        written = file.stat().st_mtime_ns if file.is_file() else 0
        return cast(N, _load(self, str(file), str(device), written))

    def save(self, path: str | PathLike[str], network: N) -> str:
        """Write a network in half precision and return the digest of the file."""
        weights = {n: t.half() for n, t in network.state_dict().items()}
        own = {"network": config_to_dict(network.config), "info": network.info}
        return checkpoints.save(path, weights, {self.name: own})


@lru_cache(maxsize=8)
def _load(kind: NetworkKind[Any], path: str, device: str, written: int) -> Network:
    checkpoint = checkpoints.load(path)
    own = checkpoint.config.get(kind.name)
    try:
        if not isinstance(own, Mapping):
            raise TypeError("no settings of such a network inside")
        config = config_from_dict(kind.config, own["network"])
        found = kind.build(config, None, {**own.get("info", {}), "sha256": checkpoint.sha256})
        found.load_state_dict({n: t.float() for n, t in checkpoint.tensors.items()})
    except (ConfigError, KeyError, RuntimeError, TypeError) as error:
        raise CheckpointError(
            kind.code,
            f"{path} does not hold what `geo3d train {kind.name}` writes: {error}",
            "Give a file written by that command.",
        ) from error
    return found.requires_grad_(False).eval().to(device)


def float_tensors(stored: Mapping[str, np.ndarray], rows: tuple[int, ...]) -> dict[str, Tensor]:
    """Return the arrays of an example, whose ``rows`` of eigenfunctions have this shape.

    Raises:
        ValueError: they have another.
    """
    found = stored["rows"].shape
    if found != rows:
        raise ValueError(f"rows {found} instead of {rows}")
    return {name: torch.from_numpy(array.astype(np.float32)) for name, array in stored.items()}


def stored_surface(arrays: Mapping[str, Tensor], i: int | None = None) -> Surface:
    """Return the surface of an example, or surface ``i`` of one that holds several."""
    evals, rows, (x, y) = (
        arrays[name] if i is None else arrays[name][i] for name in ("evals", "rows", "slopes")
    )
    return Surface(evals, rows, least_squares(rows), (x, y))


@dataclass(frozen=True)
class NetworkTrainingConfig:
    """What can be set in the training of every kind."""

    steps: int = 2000
    """Optimiser steps."""
    batch: int = 8
    """Examples per step."""
    learning_rate: float = 3e-3
    """The highest; it rises over ``warmup`` steps and falls to 0 along a cosine."""
    warmup: int = 200
    weight_decay: float = 1e-3
    ema_decay: float = 0.99
    """Weight of the running average of the weights, per step."""
    log_every: int = 20
    """Steps per line of metrics."""
    validate_every: int = 500
    """Steps between measurements on held-out examples."""
    checkpoint_seconds: float = 120.0
    seed: int = 0

    def __post_init__(self) -> None:
        require_at_least(self, 1, "steps batch log_every validate_every warmup")
        require(self.learning_rate > 0, "learning_rate", "above 0")
        require(0 <= self.ema_decay < 1, "ema_decay", "in [0, 1)")

    def rate(self, step: int) -> float:
        """Return the learning rate of the step that follows ``step`` steps."""
        rise = schedules.rise(step + 1, self.warmup)
        return self.learning_rate * rise * schedules.cosine(step, self.steps)


class NetworkTraining(Method, Generic[N, E]):
    """A network, the average of its weights, and examples of which some are held out.

    Args:
        kind: of the network, which begins at random.
        config: settings, among them ``network``.
        sides: examples to learn from, and those held out.
        folder: the setting that names their folder; where it lay is nobody else's business, so that
            the file has their number instead.
        items: what the examples are, in the numbers of the training.
    """

    measures: tuple[str, ...]
    """How the names of `validate` begin; its numbers are kept in the file."""

    def __init__(
        self,
        kind: NetworkKind[N],
        config: Any,
        sides: tuple[Sequence[E], Sequence[E]],
        folder: str,
        items: str,
    ) -> None:
        self.kind, self.config = kind, config
        self.shown, self.held_out = sides
        self.network = kind.build(
            config.network, item_generator(config.seed, f"{kind.name} weights"), None
        )
        optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        average = running_average(
            self.network, lambda step: min(config.ema_decay, step / (step + 10))
        )
        self.average = cast(N, average.module)
        super().__init__(
            TrainingState(self.network, optimizer, [average], Clipper(LARGEST_GRADIENT))
        )
        self.counts = {items: len(self.shown), f"held_out_{items}": len(self.held_out)}
        counts = f"{len(self.shown)} and {len(self.held_out)} {items}"
        self.settings = {**config_to_dict(config), folder: counts}

    def run(
        self, stage: str, out: Path, log_metrics: MetricsCallback, progress: ProgressCallback
    ) -> Numbers:
        """Train into ``out`` (the kind's ``file``) and return the final numbers.

        A ``checkpoint.safetensors`` in ``out`` is resumed from; one is written, with the network so
        far, every ``checkpoint_seconds`` and when the job is cancelled.
        """
        plan = Plan.of(self.config, stage, self.config.steps, self.config.rate)
        numbers = run_training(
            self, plan, out, self.settings, log_metrics=log_metrics, progress=progress
        )
        return {**numbers, **self.counts}

    def generator(self) -> torch.Generator:
        """Return the random numbers of this step."""
        return item_generator(self.config.seed, f"{self.kind.name} step {self.state.step}")

    def moved(self) -> None:
        """Keep diffusion times in their range."""
        self.network.network.constrain()

    def export(self, out: Path, *, is_last: bool) -> None:
        """Write the average, with its settings and what it was measured at."""
        numbers = self.state.numbers
        held = {name: numbers[name] for name in numbers if name.startswith(self.measures)}
        self.average.info = {"training": self.settings, "steps": self.state.step, **held}
        self.kind.save(out / self.kind.file, self.average)
