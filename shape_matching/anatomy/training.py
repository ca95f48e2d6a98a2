"""Training of the network of places, on generated creatures.

    config = load_config(AnatomyTrainingConfig, overrides=["bodies=folder"])
    train_anatomy(config, Path("out"))    # again after an interruption: goes on, bit by bit

The loss is the mean distance of the points that are clear to their places.  Every eighth body is
held out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from geo3d.progress import MetricsCallback, ProgressCallback, ignore_progress
from geo3d.work.examples import split_examples
from geo3d.work.training import Backward, Numbers
from shape_matching.anatomy.data import BodiesConfig, Body, read_body
from shape_matching.anatomy.network import ANATOMY, Anatomy, AnatomyConfig
from shape_matching.networks import HELD_OUT, NetworkTraining, NetworkTrainingConfig
from shape_matching.prior.feature_network import stack_surfaces


@dataclass(frozen=True)
class AnatomyTrainingConfig(NetworkTrainingConfig):
    """Settings of `train_anatomy`; the defaults are the recipe of the shipped network."""

    bodies: str = ""
    """Folder of the bodies; made when they are missing."""
    data: BodiesConfig = field(default_factory=BodiesConfig)
    """What the bodies are."""
    network: AnatomyConfig = field(default_factory=AnatomyConfig)


def train_anatomy(
    config: AnatomyTrainingConfig,
    out: Path,
    *,
    log_metrics: MetricsCallback = ignore_progress,
    progress: ProgressCallback = ignore_progress,
) -> dict[str, Any]:
    """Train a network into ``out`` (``anatomy.safetensors``) and return its final numbers.

    Raises:
        InputError: ``work.too_few_examples``; ``work.bad_example``.
        NumericalError: ``training.diverged``.
        CheckpointError: ``checkpoint.other_training``.
    """
    read = partial(read_body, config=config.network)
    sides = split_examples(config.bodies, config.data.creatures, read, HELD_OUT)
    training = _AnatomyTraining(ANATOMY, config, sides, folder="bodies", items="bodies")
    return training.run("training the places", out, log_metrics, progress)


class _AnatomyTraining(NetworkTraining[Anatomy, Body]):
    measures = ("gap",)

    def gradients(self, backward: Backward) -> Numbers:
        drawn = torch.randint(len(self.shown), (self.config.batch,), generator=self.generator())
        loss = gaps(self.network, [self.shown[int(i)] for i in drawn]).mean()
        backward(loss)
        return {"loss": float(loss.detach())}

    @torch.no_grad()
    def validate(self) -> Numbers:
        """Return the mean and the median distance to the places, x100."""
        found = torch.cat([gaps(self.average, [body]) for body in self.held_out])
        return {"gap_mean": 100 * float(found.mean()), "gap_median": 100 * float(found.median())}


def gaps(network: Anatomy, bodies: Sequence[Body]) -> Float[Tensor, " n"]:
    """Return the distances of all clear points of some bodies to their places."""
    both = stack_surfaces([body.view.surface for body in bodies])
    found = network(torch.stack([body.view.descriptors for body in bodies]), both)
    known = torch.stack([body.known for body in bodies])
    wanted = torch.stack([body.places for body in bodies])
    return (found - wanted)[known].norm(dim=-1)
