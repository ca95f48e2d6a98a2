"""clDice: Dice of centrelines, by soft skeletons of prediction and label.

Notation: p probability and t target of one foreground class, S the soft skeleton, D the Dice term.

    Tp = (sum S(p) t + 1) / (sum S(p) + 1)      the prediction's centreline lies in the label
    Ts = (sum S(t) p + 1) / (sum S(t) + 1)      the label's centreline lies in the prediction
    loss = (1 - a) D + a (1 - 2 Tp Ts / (Tp + Ts)),   in [a - 1 ... 1]

Source: Shit et al., clDice (2021).  The default differs from the published use in three points:

* The rounds of the skeletons are those that the thicker of label and prediction (p > 1/2) needs,
  for each item and class by itself; 3 rounds only thin lines of 7 pixels, and the label's own
  rounds say nothing about a false bar that is wider.
* Of what is thicker than `MOST_ROUNDS` thin, the core that is left counts as its skeleton.  Without
  it anything so thick, as a prediction of nothing but foreground, has no skeleton and no price.
* The sums run per item and class, then are averaged, so that one image's score does not depend on
  what it is batched with.

Keep some of D: the soft skeleton of a line with many pinholes scores as well as that of the whole
line, so a = 1 alone drills holes (seen on a 5-pixel line).
"""

from __future__ import annotations

from functools import partial

import numpy as np
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor
from typing_extensions import Unpack

from geo3d.topology.losses.batch import Batch
from geo3d.topology.losses.inputs import hard_labels
from geo3d.topology.losses.memory import in_threads, once_per_content
from geo3d.topology.losses.options import Options, eager, judge, published
from geo3d.topology.losses.overlap import dice_items
from geo3d.topology.losses.soft_skeletons import Thinning, light_soft_skeleton
from geo3d.topology.skeleton import check_rounds, rounds_needed

PUBLISHED_ROUNDS = 3
MOST_ROUNDS = 20
"""Where the automatic choice stops: things more than 41 pixels wide are areas, not lines."""


@eager
def cl_dice_loss(
    logits: Float[Tensor, "b c *space"],
    target: Shaped[Tensor, "*any"],
    *,
    alpha: float = 0.5,
    rounds: int | None = None,
    compat: bool = False,
    **options: Unpack[Options],
) -> Float[Tensor, "*b"]:
    """Return (1 - alpha) x Dice term + alpha x centreline Dice, averaged over foreground classes.

    A soft target's skeleton is the soft skeleton of its probabilities.

    Args:
        logits: scores.
        target: labels or soft target.
        alpha: share of the centreline part, in [0, 1].
        rounds: rounds of the skeletons; None: what label and prediction need (at most
            `MOST_ROUNDS`, then the core), or the published 3 with ``compat``.
        compat: sums over the whole batch and the published rounds.
        options: see `Options`; `spacing` counts.

    Raises:
        InputError, ConfigError: see `geo3d.topology.losses.options.judge`; "topology.bad_rounds".
    """
    if compat:
        published(options)
    items = partial(_cl_dice_items, alpha=alpha, rounds=rounds, compat=compat)
    return judge(items, logits, target, options)


def _cl_dice_items(
    batch: Batch, *, alpha: float, rounds: int | None, compat: bool
) -> Float[Tensor, " b"]:
    p, truth = batch.own.contiguous(), batch.wanted.contiguous()
    how = thinning(batch, PUBLISHED_ROUNDS if compat and rounds is None else rounds)
    ours, theirs = light_soft_skeleton(p, how), light_soft_skeleton(truth, how)
    axes = [0] * compat + list(batch.space)
    precision = ((ours * truth).sum(dim=axes) + 1) / (ours.sum(dim=axes) + 1)
    recall = ((theirs * p).sum(dim=axes) + 1) / (theirs.sum(dim=axes) + 1)
    apart = 1 - 2 * precision * recall / (precision + recall)
    lines = apart.mean().expand(len(p)) if compat else batch.channel_mean(apart)
    return (1 - alpha) * dice_items(batch) + alpha * lines


def thinning(batch: Batch, rounds: int | None) -> Thinning:
    """Return how label and prediction of a batch are thinned alike.

    ``rounds`` is the same number for all; None: what each item and class needs.
    """
    shape = batch.own.shape[:2]
    if rounds is not None:
        check_rounds(rounds)
        return Thinning(np.full(shape, rounds), batch.spacing, batch.outside)
    known = _rounds_of(batch.true_masks, batch.spacing)
    seen = _count_rounds((batch.own.detach() > 0.5).cpu().numpy(), batch.spacing)
    return Thinning(np.maximum(known, seen), batch.spacing, batch.outside, core=True)


def label_rounds(target: Shaped[Tensor, "*any"], n_classes: int) -> int:
    """Return the rounds that the thickest foreground part of a batch needs, with an upper end."""
    labels = hard_labels(target).cpu().numpy()
    masks = np.stack([labels == c for c in range(1, n_classes)], axis=1)
    return int(_count_rounds(masks, (1.0,) * (masks.ndim - 2)).max())


def _count_rounds(
    masks: Bool[np.ndarray, "b k *space"], spacing: tuple[float, ...]
) -> Int64[np.ndarray, "b k"]:
    needed = partial(rounds_needed, spacing=spacing, most=MOST_ROUNDS)
    flat = masks.reshape(-1, *masks.shape[2:])
    return np.array(in_threads(needed, flat)).reshape(masks.shape[:2])


_rounds_of = once_per_content(_count_rounds)
