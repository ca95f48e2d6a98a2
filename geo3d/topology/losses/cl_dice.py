"""clDice: Dice of centrelines, by soft skeletons of prediction and label.

Notation: p probability and t target of one foreground class, S the soft skeleton, D the Dice term.

    Tp = (sum S(p) t + 1) / (sum S(p) + 1)      the prediction's centreline lies in the label
    Ts = (sum S(t) p + 1) / (sum S(t) + 1)      the label's centreline lies in the prediction
    loss = (1 - a) D + a (1 - 2 Tp Ts / (Tp + Ts)),   in [a - 1 ... 1]

Source: Shit et al., clDice (2021).  The default differs from the published use in two points: the
rounds of the skeleton are those that the label's thickest part needs (3 rounds only thin lines of 7
pixels), and the sums run per item and class, then are averaged, so that one image's score does not
depend on what it is batched with.  Keep some of D: the soft skeleton of a line with many pinholes
scores as well as that of the whole line, so a = 1 alone drills holes (seen on a 5-pixel line).
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from geo3d.topology.losses.inputs import check_inputs, hard_labels, one_hot, probabilities
from geo3d.topology.losses.label_work import in_threads, once_per_target
from geo3d.topology.losses.overlap import dice_term
from geo3d.topology.losses.soft_skeleton import light_soft_skeleton
from geo3d.topology.skeleton import rounds_needed

PUBLISHED_ROUNDS = 3
MOST_ROUNDS = 20
"""Where the automatic choice stops: things more than 41 pixels wide are areas, not lines."""


def cl_dice_loss(
    logits: Float[Tensor, "b c *space"],
    target: Shaped[Tensor, "*any"],
    *,
    alpha: float = 0.5,
    rounds: int | None = None,
    compat: bool = False,
) -> Float[Tensor, ""]:
    """Return (1 - alpha) x Dice term + alpha x centreline Dice, averaged over foreground classes.

    A soft target's skeleton is the soft skeleton of its probabilities.

    Args:
        logits: scores.
        target: labels or soft target.
        alpha: share of the centreline part, in [0, 1].
        rounds: rounds of the skeletons; None: what the labels need (at most `MOST_ROUNDS`), or the
            published 3 with ``compat``.
        compat: sums over the whole batch and the published rounds.

    Raises:
        InputError: see `check_inputs`.
        ConfigError: "topology.bad_rounds".
    """
    check_inputs(logits, target)
    if rounds is None:
        rounds = PUBLISHED_ROUNDS if compat else _known_rounds(target, logits.shape[1])
    p = probabilities(logits)[:, 1:]
    truth = one_hot(target, logits)[:, 1:].detach()
    ours = light_soft_skeleton(p.contiguous(), rounds)
    theirs = light_soft_skeleton(truth.contiguous(), rounds)
    axes = [0] * compat + list(range(2, p.ndim))
    precision = ((ours * truth).sum(dim=axes) + 1) / (ours.sum(dim=axes) + 1)
    recall = ((theirs * p).sum(dim=axes) + 1) / (theirs.sum(dim=axes) + 1)
    lines = (2 * precision * recall / (precision + recall)).mean()
    return (1 - alpha) * dice_term(logits, target) + alpha * (1 - lines)


def label_rounds(target: Shaped[Tensor, "*any"], n_classes: int) -> int:
    """Return the rounds that the thickest foreground part of a batch needs, with an upper end."""
    labels = hard_labels(target).cpu()
    masks = torch.stack([labels == c for c in range(1, n_classes)], dim=1).flatten(0, 1).numpy()
    return min(max(in_threads(rounds_needed, masks)), MOST_ROUNDS)


_known_rounds = once_per_target(label_rounds)
