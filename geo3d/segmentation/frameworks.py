"""Self-distillation: each generation learns from the probabilities of the one before it.

After a generation the network, in evaluation, predicts every training image unchanged; the
probability of mortar takes the place of the label, the network starts again from new weights, and
the training goes on.  No averaging, no temperature, no further loss.

The probabilities are a file of their own beside the checkpoint, so that a training that stops goes
on from exactly what it had.  (The other framework, RandHue, is a change of single images:
`geo3d.segmentation.augment`.)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from geo3d import checkpoints
from geo3d.errors import CheckpointError
from geo3d.segmentation.data import Sample
from geo3d.segmentation.predict import Segmenter
from geo3d.topology.losses.catalogue import Loss
from geo3d.topology.losses.deep import deep_supervision


def soft_targets(
    segmenter: Segmenter, samples: Sequence[Sample]
) -> tuple[Float[np.ndarray, "h w"], ...]:
    """Return the probability of mortar in each sample, float16.

    A network on distances says yes or no, as in the published code.
    """
    found = []
    for sample in samples:
        prediction = segmenter.predict(sample.image)
        is_sure = segmenter.out_channels == 1
        mortar = prediction.mask if is_sure else prediction.probabilities[1]
        found.append(mortar.astype(np.float16))
    return tuple(found)


def targets_path(folder: Path, generation: int) -> Path:
    """Return where the targets of a generation lie; generation 0 has labels instead."""
    return folder / f"targets-{generation}.safetensors"


def save_targets(path: Path, targets: Sequence[Float[np.ndarray, "h w"]]) -> None:
    """Write targets in order."""
    named = {f"{i:06d}": torch.from_numpy(target) for i, target in enumerate(targets)}
    checkpoints.save(path, named)


def load_targets(path: Path, samples: Sequence[Sample]) -> tuple[Float[np.ndarray, "h w"], ...]:
    """Read the targets of these samples.

    Raises:
        CheckpointError: ``segmenter.wrong_targets``, and those of `geo3d.checkpoints.load`.
    """
    tensors = checkpoints.load(path).tensors
    found = tuple(tensors[name].numpy() for name in sorted(tensors))
    if [t.shape for t in found] != [s.mask.shape for s in samples]:
        raise CheckpointError(
            "segmenter.wrong_targets",
            f"{path} does not hold the targets of these images.",
            "Train again in an empty folder.",
        )
    return found


def training_loss(
    loss: Loss, outputs: Tensor, target: Tensor, *, is_active: bool, compat: bool = False
) -> Float[Tensor, ""]:
    """Return the loss of a batch over all heads of the network.

    Args:
        loss: row of the catalogue.
        outputs: (b, heads, c, h, w), or (b, c, h, w) of a network without further heads.
        target: labels or soft targets.
        is_active: whether the topology part is on yet; auxiliary heads never have it where it is
            expensive.
        compat: the published formulas and weights of heads.
    """

    full, cheap = (_bound(f, compat) for f in (loss.function, loss.auxiliary or loss.function))
    heads = outputs if outputs.ndim == 5 else outputs[:, None]
    on_output = full if is_active else cheap
    return deep_supervision(on_output, heads, target, auxiliary=cheap, compat=compat)


def channels_of(loss: Loss, *, compat: bool = False) -> int:
    """Return how many channels a network for this loss gives.

    The published TOPO trains a distance, which is one channel; ours judges classes.
    """
    return 1 if compat and loss.name == "topo_win" else 2


def _bound(function: Callable[..., Tensor], compat: bool) -> Callable[..., Tensor]:
    # Plain parts such as a Dice term are the same either way and have no such setting.
    is_known = "compat" in inspect.signature(function).parameters
    return partial(function, compat=compat) if is_known else function
