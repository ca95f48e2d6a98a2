"""Training of correctors: towards the true map, from maps that the search found.

    config = load_config(CorrectorTrainingConfig, overrides=["data=examples"])
    train_corrector(config, Path("out"))    # again after an interruption: goes on, bit by bit

The loss is |C - C*|^2, summed over both directions.  Every eighth pair is held out.
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
from shape_matching.corrector.corrector import CORRECTOR, Corrector, CorrectorConfig
from shape_matching.corrector.data import CorrectorDataConfig, Example, read_pair
from shape_matching.networks import HELD_OUT, NetworkTraining, NetworkTrainingConfig

WORST_ERROR, WORST_RATIO = 12.0, 2.0
"""Maps with a larger error, and more than that many times the error of the best map of their pair,
are not shown: nobody could correct them."""


@dataclass(frozen=True)
class CorrectorTrainingConfig(NetworkTrainingConfig):
    """Settings of `train_corrector`; the defaults are the recipe of the shipped corrector."""

    examples: str = ""
    """Folder of the examples; made when they are missing."""
    data: CorrectorDataConfig = field(default_factory=CorrectorDataConfig)
    """What the examples are."""
    network: CorrectorConfig = field(default_factory=CorrectorConfig)
    steps: int = 4000
    batch: int = 4
    learning_rate: float = 2e-3
    warmup: int = 400
    weight_decay: float = 1e-4
    ema_decay: float = 0.995


def train_corrector(
    config: CorrectorTrainingConfig,
    out: Path,
    *,
    log_metrics: MetricsCallback = ignore_progress,
    progress: ProgressCallback = ignore_progress,
) -> dict[str, Any]:
    """Train a corrector into ``out`` (``corrector.safetensors``) and return its final numbers.

    Raises:
        InputError: ``work.too_few_examples``; ``work.bad_example``.
        NumericalError: ``training.diverged``.
        CheckpointError: ``checkpoint.other_training``.
    """
    read = partial(read_pair, config=config.network)
    sides = split_examples(config.examples, config.data.pairs, read, HELD_OUT)
    training = _CorrectorTraining(CORRECTOR, config, sides, folder="examples", items="pairs")
    return training.run("training the corrector", out, log_metrics, progress)


class _CorrectorTraining(NetworkTraining[Corrector, Example]):
    measures = ("dist", "share")

    def gradients(self, backward: Backward) -> Numbers:
        batch, generator = self.config.batch, self.generator()
        total = 0.0
        for _ in range(batch):
            example = self.shown[int(torch.randint(len(self.shown), (), generator=generator))]
            choices = usable(example)
            i = choices[int(torch.randint(len(choices), (), generator=generator))]
            corrected = self.network(example.found[i], *example.views, _turn(generator))
            loss = (corrected - example.truth).square().sum() / (2 * batch)
            backward(loss)
            total += float(loss.detach())
        return {"loss": total}

    def validate(self) -> Numbers:
        return held_out_errors(self.average, self.held_out)


def held_out_errors(corrector: Corrector, examples: Sequence[Example]) -> dict[str, float]:
    """Return the mean distance |C - C*| of the maps shown before and after correction, and the
    share that became better."""
    before, after = [], []
    with torch.no_grad():
        for example in examples:
            for i in usable(example):
                corrected = corrector(example.found[i], *example.views)
                for side, fmaps in ((before, example.found[i]), (after, corrected)):
                    side.append(float((fmaps - example.truth).norm(dim=(1, 2)).mean()))
    pairs = list(zip(before, after, strict=True))
    return {
        "distance_before": sum(before) / len(pairs),
        "distance_after": sum(after) / len(pairs),
        "share_better": sum(b > a for b, a in pairs) / len(pairs),
    }


def usable(example: Example) -> list[int]:
    """Return which of the search's maps are shown."""
    limit = max(WORST_ERROR, WORST_RATIO * float(example.errors.min()))
    return [i for i, error in enumerate(example.errors.tolist()) if error <= limit]


def _turn(generator: torch.Generator) -> Float[Tensor, "3 3"]:
    """Return a random orthogonal matrix; half of them are reflections."""
    return torch.linalg.qr(torch.randn(3, 3, generator=generator))[0]
