"""Centreline cross-entropy: the cross-entropy on the centrelines of label and prediction.

Notation: p probability and t target of a class, S the soft skeleton, e the cross-entropy of the
class against the rest at each pixel.

    sensitivity part = sum S(t) e / sum S(t)        gaps: the label's centreline must be covered
    precision part = sum S(p) e / sum S(p)          false lines: ours must lie in the label
    loss = CE + Dice term + lambd (sensitivity part + precision part) / 2

It is clDice with the cross-entropy in the place of Dice: a single missed pixel of a centreline
keeps its gradient, however long the line is.

Source: Acebes et al., The centerline-cross entropy loss for vessel-like structure segmentation
(MICCAI 2024).  An item whose class is empty has no sensitivity part.
"""

from __future__ import annotations

from jaxtyping import Float, Shaped
from torch import Tensor
from typing_extensions import Unpack

from geo3d.topology.losses.batch import Batch
from geo3d.topology.losses.cl_dice import thinning
from geo3d.topology.losses.options import Options, judge
from geo3d.topology.losses.overlap import ce_dice_items
from geo3d.topology.losses.soft_skeletons import light_soft_skeleton

TINY = 1e-5


def centreline_loss(
    logits: Float[Tensor, "b c *space"],
    target: Shaped[Tensor, "*any"],
    *,
    lambd: float = 1.0,
    rounds: int | None = None,
    **options: Unpack[Options],
) -> Float[Tensor, "*b"]:
    """Return cross-entropy + Dice term + lambd x centreline cross-entropy.

    Args:
        logits: scores.
        target: labels or soft target.
        lambd: weight of the centreline part.
        rounds: rounds of the skeletons; None: as many as label and prediction need.
        options: see `Options`; `spacing` counts.

    Raises:
        InputError, ConfigError: see `geo3d.topology.losses.options.judge`; "topology.bad_rounds".
    """

    def items(batch: Batch) -> Tensor:
        return ce_dice_items(batch) + lambd * centreline_items(batch, rounds)

    return judge(items, logits, target, options)


def centreline_items(batch: Batch, rounds: int | None = None) -> Float[Tensor, " b"]:
    """Return the mean of both parts of each item."""
    first = batch.judged.start
    yes, no = (part[:, first:] for part in batch.log_p)
    truth = batch.wanted
    entropy = batch.within(-(truth * yes + (1 - truth) * no))
    how = thinning(batch, rounds)
    parts = []
    for skeleton in (light_soft_skeleton(m.contiguous(), how) for m in (truth, batch.own)):
        total = skeleton.sum(dim=batch.space)
        parts.append((skeleton * entropy).sum(dim=batch.space) / (total + TINY))
    return batch.channel_mean((parts[0] + parts[1]) / 2)
