"""Skeleton recall: how much of the label's widened centreline the prediction covers.

Notation: p probability of one foreground class, K its tube: the label's skeleton, widened by two
steps and cut to the label (`geo3d.topology.skeleton.tube`), without gradient.

    SR = -mean over items and classes of (sum p K + e) / (sum K + e),   e = 1e-5, in [-1, 0]

Source: Kirchhoff et al., Skeleton Recall Loss (2024).  The paper adds SR to cross-entropy and Dice,
as the default does here; TopoMortar's study (``compat``) leaves Dice out.  An item without the
class gives -1 and no gradient.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor
from typing_extensions import Unpack

from geo3d.errors import InputError
from geo3d.topology.losses.batch import Batch
from geo3d.topology.losses.inputs import hard_labels
from geo3d.topology.losses.memory import in_threads, once_per_content
from geo3d.topology.losses.options import Options, eager, judge, published
from geo3d.topology.losses.overlap import ce_dice_items, cross_entropy_items
from geo3d.topology.skeleton import tube

SMOOTH = 1e-5
RADIUS = 2


@eager
def skeleton_recall_loss(
    logits: Float[Tensor, "b c *space"],
    target: Shaped[Tensor, "*any"],
    *,
    lambd: float = 1.0,
    tubes: Bool[Tensor, "b k *space"] | None = None,
    compat: bool = False,
    **options: Unpack[Options],
) -> Float[Tensor, "*b"]:
    """Return cross-entropy + Dice term + lambd x skeleton recall over foreground classes.

    Args:
        logits: scores.
        target: labels or soft target; the tubes of a soft target are those of its likeliest labels.
        lambd: factor of the recall.
        tubes: the result of `label_tubes`, where labels come again unchanged; None: made here.
        compat: leave the Dice term out.
        options: see `Options`; `spacing` counts.

    Raises:
        InputError, ConfigError: see `geo3d.topology.losses.options.judge`; "loss.wrong_tubes".
    """
    if compat:
        published(options)

    def items(batch: Batch) -> Tensor:
        base = cross_entropy_items(batch, compat=True) if compat else ce_dice_items(batch)
        return base + lambd * recall_items(batch, tubes)

    return judge(items, logits, target, options)


@eager
def recall_term(
    logits: Float[Tensor, "b c *space"],
    target: Shaped[Tensor, "*any"],
    *,
    tubes: Bool[Tensor, "b k *space"] | None = None,
    **options: Unpack[Options],
) -> Float[Tensor, "*b"]:
    """Return the skeleton recall alone; -1 is best.

    Raises:
        InputError, ConfigError: see `geo3d.topology.losses.options.judge`; "loss.wrong_tubes".
    """
    return judge(partial(recall_items, tubes=tubes), logits, target, options)


def recall_items(
    batch: Batch, tubes: Bool[Tensor, "b k *space"] | None = None
) -> Float[Tensor, " b"]:
    """Return minus the recall of each item."""
    if tubes is None:
        tubes = torch.from_numpy(_known_tubes(batch.true_masks, batch.spacing))
    if tubes.shape != batch.own.shape:
        raise InputError(
            "loss.wrong_tubes",
            f"Tubes of shape {tuple(tubes.shape)} do not fit {tuple(batch.own.shape)}.",
            "Make them with label_tubes from the same target.",
        )
    inside = batch.within(tubes.to(batch.p))
    covered = (batch.own * inside).sum(dim=batch.space) + SMOOTH
    return -batch.channel_mean(covered / (inside.sum(dim=batch.space) + SMOOTH))


def label_tubes(
    target: Shaped[Tensor, "*any"], n_classes: int, radius: int = RADIUS
) -> Bool[Tensor, "b k *space"]:
    """Return the tubes of each item and foreground class, on the CPU; k = n_classes - 1."""
    labels = hard_labels(target).cpu().numpy()
    masks = np.stack([labels == c for c in range(1, n_classes)], axis=1)
    return torch.from_numpy(_tubes(masks, (1.0,) * (labels.ndim - 1), radius))


def _tubes(
    masks: Bool[np.ndarray, "b k *space"], spacing: tuple[float, ...], radius: int = RADIUS
) -> Bool[np.ndarray, "b k *space"]:
    flat = masks.reshape(-1, *masks.shape[2:])
    tubes = in_threads(partial(tube, radius=radius, spacing=spacing), flat)
    return np.stack(tubes).reshape(masks.shape)


_known_tubes = once_per_content(_tubes)
