"""Skeleton recall: how much of the label's widened centreline the prediction covers.

Notation: p probability of one foreground class, K its tube: the label's skeleton, widened by two
steps and cut to the label (`geo3d.topology.skeleton.tube`), without gradient.

    SR = -mean over items and classes of (sum p K + e) / (sum K + e),   e = 1e-5, in [-1, 0]

Source: Kirchhoff et al., Skeleton Recall Loss (2024).  The paper adds SR to cross-entropy and Dice,
as the default does here; TopoMortar's study (``compat``) leaves Dice out.  An item without the
class gives -1 and no gradient.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from geo3d.errors import InputError
from geo3d.topology.losses.inputs import (
    check_inputs,
    hard_labels,
    in_threads,
    once_per_target,
    probabilities,
)
from geo3d.topology.losses.overlap import ce_dice_loss, cross_entropy
from geo3d.topology.skeleton import tube

SMOOTH = 1e-5


def skeleton_recall_loss(
    logits: Float[Tensor, "b c *space"],
    target: Shaped[Tensor, "*any"],
    *,
    weight: float = 1.0,
    tubes: Bool[Tensor, "b k *space"] | None = None,
    compat: bool = False,
) -> Float[Tensor, ""]:
    """Return cross-entropy + Dice term + weight x skeleton recall over foreground classes.

    Args:
        logits: scores.
        target: labels or soft target; the tubes of a soft target are those of its likeliest labels.
        weight: factor of the recall.
        tubes: the result of `label_tubes`, where labels come again unchanged; None: made here.
        compat: leave the Dice term out.

    Raises:
        InputError: see `check_inputs`; "loss.wrong_tubes".
    """
    base = cross_entropy(logits, target, compat=True) if compat else ce_dice_loss(logits, target)
    return base + weight * recall_term(logits, target, tubes=tubes)


def recall_term(
    logits: Float[Tensor, "b c *space"],
    target: Shaped[Tensor, "*any"],
    *,
    tubes: Bool[Tensor, "b k *space"] | None = None,
) -> Float[Tensor, ""]:
    """Return the skeleton recall alone; -1 is best.

    Raises:
        InputError: see `check_inputs`; "loss.wrong_tubes".
    """
    check_inputs(logits, target)
    p = probabilities(logits)[:, 1:]
    if tubes is None:
        tubes = _known_tubes(target, logits.shape[1])
    if tubes.shape != p.shape:
        raise InputError(
            "loss.wrong_tubes",
            f"Tubes of shape {tuple(tubes.shape)} do not fit {tuple(p.shape)}.",
            "Make them with label_tubes from the same target.",
        )
    inside = tubes.to(p)
    axes = list(range(2, p.ndim))
    return -(((p * inside).sum(dim=axes) + SMOOTH) / (inside.sum(dim=axes) + SMOOTH)).mean()


def label_tubes(
    target: Shaped[Tensor, "*any"], n_classes: int, radius: int = 2
) -> Bool[Tensor, "b k *space"]:
    """Return the tubes of each item and foreground class, on the CPU; k = n_classes - 1."""
    labels = hard_labels(target).cpu().numpy()
    masks = [item == c for item in labels for c in range(1, n_classes)]
    tubes = np.stack(in_threads(lambda mask: tube(mask, radius), masks))
    return torch.from_numpy(tubes.reshape(len(labels), n_classes - 1, *labels.shape[1:]))


_known_tubes = once_per_target(label_tubes)
