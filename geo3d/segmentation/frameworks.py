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
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from geo3d import checkpoints
from geo3d.errors import CheckpointError
from geo3d.segmentation.kinds import IGNORED, WALLS, DataKind
from geo3d.segmentation.predict import Segmenter
from geo3d.segmentation.samples import Sample
from geo3d.topology.losses.catalogue import Loss
from geo3d.topology.losses.deep import deep_supervision


def soft_targets(
    segmenter: Segmenter, samples: Sequence[Sample]
) -> tuple[Float[np.ndarray, "*any"], ...]:
    """Return the probabilities of each sample, float16: (*space) of a single class, else
    (k, *space) of classes but the background, or of regions.

    A network on distances says yes or no, as in the published code.
    """
    found = []
    for sample in samples:
        prediction = segmenter.predict(sample.image)
        if segmenter.kind.is_binary:
            is_sure = segmenter.out_channels == 1
            soft = prediction.mask if is_sure else prediction.probabilities[1]
        else:
            soft = prediction.probabilities[0 if segmenter.kind.regions else 1 :]
        found.append(soft.astype(np.float16))
    return tuple(found)


def targets_path(folder: Path, generation: int) -> Path:
    """Return where the targets of a generation lie; generation 0 has labels instead."""
    return folder / f"targets-{generation}.safetensors"


def save_targets(path: Path, targets: Sequence[Float[np.ndarray, "*any"]]) -> None:
    """Write targets in order."""
    named = {f"{i:06d}": torch.from_numpy(target) for i, target in enumerate(targets)}
    checkpoints.save(path, named)


def load_targets(path: Path, samples: Sequence[Sample]) -> tuple[Float[np.ndarray, "*any"], ...]:
    """Read the targets of these samples.

    Raises:
        CheckpointError: ``segmenter.wrong_targets``, and those of `geo3d.checkpoints.load`.
    """
    tensors = checkpoints.load(path).tensors
    found = tuple(tensors[name].numpy() for name in sorted(tensors))
    sizes = [sample.mask.shape for sample in samples]
    spaces = [t.shape[t.ndim - len(size) :] for t, size in zip(found, sizes, strict=False)]
    if len(found) != len(sizes) or spaces != sizes:
        raise CheckpointError(
            "segmenter.wrong_targets",
            f"{path} does not hold the targets of these images.",
            "Train again in an empty folder.",
        )
    return found


def training_loss(
    loss: Loss,
    outputs: Tensor,
    target: Tensor,
    *,
    is_active: bool,
    compat: bool = False,
    kind: DataKind = WALLS,
) -> Float[Tensor, ""]:
    """Return the loss of a batch over all heads of the network.

    Args:
        loss: row of the catalogue.
        outputs: (b, heads, c, *space), or (b, c, *space) of a network without further heads.
        target: labels, soft targets, or labels of regions; `IGNORED` where nothing counts.
        is_active: whether the topology part is on yet; auxiliary heads never have it where it is
            expensive.
        compat: the published formulas and weights of heads.
        kind: classes or regions, and their dimensions.
    """
    target, options = _options(target, kind)
    full, cheap = (
        _bound(f, {"compat": compat, **options})
        for f in (loss.function, loss.auxiliary or loss.function)
    )
    heads = outputs if outputs.ndim == kind.dimensions + 3 else outputs[:, None]
    on_output = full if is_active else cheap
    return deep_supervision(on_output, heads, target, auxiliary=cheap, compat=compat)


def channels_of(loss: Loss, *, compat: bool = False, kind: DataKind = WALLS) -> int:
    """Return how many channels a network for this loss gives.

    The published TOPO trains a distance, which is one channel; ours judges classes.
    """
    return 1 if compat and loss.name == "topo_win" else len(kind.classes)


def _options(target: Tensor, kind: DataKind) -> tuple[Tensor, dict[str, Any]]:
    """Return the target as losses want it, and what to tell them about it."""
    options: dict[str, Any] = {"spacing": kind.spacing} if kind.spacing else {}
    is_soft = target.is_floating_point()
    ignored = None if is_soft else target == IGNORED
    if kind.regions:
        options["sigmoid"] = True
        if ignored is not None and bool(ignored.any()):
            options["mask"] = ~ignored
        if not is_soft:
            target = region_maps(target, kind)
    elif ignored is not None and bool(ignored.any()):
        options["ignore_index"] = IGNORED
    return target, options


def region_maps(labels: Int64[Tensor, " b *space"], kind: DataKind) -> Float[Tensor, "b r *space"]:
    """Return a map of zeros and ones for each region."""
    held = [torch.tensor(region, device=labels.device) for region in kind.regions]
    return torch.stack([torch.isin(labels, one) for one in held], dim=1).float()


def _bound(function: Callable[..., Tensor], options: Mapping[str, Any]) -> Callable[..., Tensor]:
    """Return the function with the options that it has; plain parts and own losses have few."""
    known = inspect.signature(function).parameters
    takes_all = any(p.kind is p.VAR_KEYWORD for p in known.values())
    chosen = {
        name: value
        for name, value in options.items()
        if name in known or (takes_all and name != "compat")
    }
    return partial(function, **chosen) if chosen else function
