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

The soft skeleton for training: same numbers as `geo3d.topology.skeleton`, less time and memory.

Autograd through the pooling keeps about ten maps per round.  Here a round is two maps (eroded map
and skeleton so far), some rounds are kept and the others computed again on the way back: in
compiled loops on the CPU in float32, through torch's own checkpointing elsewhere.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from geo3d.topology.losses.inputs import (
    check_inputs,
    hard_labels,
    in_threads,
    once_per_target,
    one_hot,
    probabilities,
)
from geo3d.topology.losses.overlap import dice_term
from geo3d.topology.losses.skeleton_kernels import (
    erode_round,
    grow_round,
    unerode_round,
    ungrow_round,
)
from geo3d.topology.skeleton import check_rounds, rounds_needed, skeleton_round

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


KEPT = 4
"""Compiled rounds between two that are kept: of 20 rounds, the memory of 9."""


def light_soft_skeleton(
    probabilities: Float[Tensor, "b c *space"], rounds: int
) -> Float[Tensor, "b c *space"]:
    """Return the soft skeleton of each map after a number of rounds, differentiable once.

    Raises:
        ConfigError: "topology.bad_rounds".
    """
    check_rounds(rounds)
    if probabilities.device.type == "cpu" and probabilities.dtype == torch.float32:
        return _CompiledSkeleton.apply(probabilities, rounds)  # pyright: ignore[reportReturnType]
    eroded, skeleton = probabilities, torch.zeros_like(probabilities)
    for _ in range(rounds + 1):
        if torch.is_grad_enabled() and probabilities.requires_grad:
            eroded, skeleton = checkpoint(skeleton_round, eroded, skeleton, use_reentrant=False)
        else:
            eroded, skeleton = skeleton_round(eroded, skeleton)
    return skeleton


class _CompiledSkeleton(torch.autograd.Function):
    """All rounds in compiled loops, of which every `KEPT`-th is remembered."""

    @staticmethod
    def forward(ctx: Any, probabilities: Tensor, rounds: int) -> Tensor:
        x = _as_volumes(probabilities)
        s = np.zeros_like(x)
        ctx.kept, ctx.rounds, ctx.volume = [], rounds, probabilities.ndim == 5
        for k in range(rounds + 1):
            if ctx.needs_input_grad[0] and k % KEPT == 0:
                ctx.kept.append((x, s))
            x, s = _compiled_round(x, s, ctx.volume)
        # Autograd notices a change of the input in place, which would spoil the first map.
        ctx.save_for_backward(probabilities)
        return torch.from_numpy(s.reshape(probabilities.shape))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        _ = ctx.saved_tensors
        grad_s = _as_volumes(grad).copy()
        grad_x = np.zeros_like(grad_s)
        for first in range(len(ctx.kept) - 1, -1, -1):
            maps = [ctx.kept[first]]
            for _ in range(min(KEPT, ctx.rounds + 1 - first * KEPT)):
                x, s = maps[-1]
                maps.append(_compiled_round(x, s, ctx.volume))
            for (x, s), (e, _) in zip(maps[-2::-1], maps[:0:-1], strict=True):
                grad_e = grad_x
                grad_x = ungrow_round(x, e, s, grad_s, grad_e)
                unerode_round(x, grad_e, grad_x, ctx.volume)
        return torch.from_numpy(grad_x.reshape(grad.shape)), None


def _compiled_round(x: np.ndarray, s: np.ndarray, volume: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the eroded map and the skeleton with this round's ridge."""
    e, grown = np.empty_like(x), np.empty_like(x)
    erode_round(x, e, volume)
    grow_round(x, e, s, grown)
    return e, grown


def _as_volumes(values: Tensor) -> np.ndarray:
    """Return maps as (n, d, h, w); images get a depth of one."""
    array = np.ascontiguousarray(values.detach().numpy())
    depth = array.shape[2] if array.ndim == 5 else 1
    return array.reshape(-1, depth, *array.shape[-2:])
