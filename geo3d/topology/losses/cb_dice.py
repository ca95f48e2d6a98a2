"""cbDice: centreline Dice whose sums are weighted by distance to the border and by local radius.

Notation, per item and foreground class: q probability, h = q > 1/2, t label, K_p and K_t skeletons
of h and t, s = K_p q; for a mask with skeleton K: d its distance map, m the largest d on K (at
least 1), d^ = min(d, m) / m, r^ = d^ on K and 0 elsewhere, I = (1 + e) / (r^ + e) on K (volumes:
r^ squared), e = 1e-7.  d^, r^, I carry no gradient.

    C(a, b, w) = b w, but a w where a is not 0 and b is
    Tp = (sum I_p s d^_t t + 1) / (sum C(r^_p q, r^_t t, I_p s) + 1)
    Ts = (sum I_t d^_p q + 1) / (sum C(r^_t t, r^_p q, I_t) + 1)
    loss = CE / 2 + a / (2 (a + b)) D - b / (2 (a + b)) 2 Tp Ts / (Tp + Ts)

Tp may pass 1 where a thin prediction runs inside a thick label.  Source: Shi et al., Centerline
Boundary Dice (2024).  Skeletons: `geo3d.topology.skeleton.thin`, equal to the published one in 2D
and some hundred times faster; in 3D scikit-image's thinning, which the authors call comparable.
The default thins as far as the masks need (published: 5 pixels from each side) and sums per item
and class; ``compat`` sums over the batch and lumps the foreground classes together.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Shaped
from torch import Tensor

from geo3d.errors import ConfigError
from geo3d.topology.distance import distance_map
from geo3d.topology.losses.inputs import (
    check_inputs,
    foreground_classes,
    hard_labels,
    probabilities,
    working,
)
from geo3d.topology.losses.overlap import cross_entropy, dice_term
from geo3d.topology.skeleton import hard_skeleton, rounds_needed, thin

PUBLISHED_ROUNDS = 5
MOST_ROUNDS = 20
"""Where the automatic choice stops: an all-foreground prediction must not cost hundreds."""
TINY = 1e-7


def cb_dice_loss(
    logits: Float[Tensor, "b c *space"],
    target: Shaped[Tensor, "*any"],
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    rounds: int | None = None,
    compat: bool = False,
) -> Float[Tensor, ""]:
    """Return half the cross-entropy and half a blend of Dice and centreline boundary Dice.

    Args:
        logits: scores.
        target: labels or soft target; of a soft target the likeliest labels are thinned.
        alpha: weight of the Dice term.
        beta: weight of the centreline boundary term.
        rounds: rounds of thinning in 2D; None: as many as a mask needs (at most `MOST_ROUNDS`), or
            the published 5 with ``compat``.
        compat: published rounds, sums over the batch, foreground classes lumped together.

    Raises:
        InputError: see `check_inputs`.
        ConfigError: "topology.bad_rounds"; "loss.bad_weights" for negative or no weights.
    """
    check_inputs(logits, target)
    if min(alpha, beta) < 0 or alpha + beta == 0:
        raise ConfigError(
            "loss.bad_weights",
            f"Weights {alpha} and {beta} of the two Dice terms are no blend.",
            "Give two numbers of at least 0, one of them more.",
        )
    ce = cross_entropy(logits, target, compat=compat)
    share = beta / (alpha + beta)
    dice = dice_term(logits, target) if share < 1 else 0
    lines = _centreline_boundary(logits, target, rounds, compat)
    return ce / 2 + ((1 - share) * dice - share * lines) / 2


def _centreline_boundary(
    logits: Tensor, target: Tensor, rounds: int | None, compat: bool
) -> Float[Tensor, ""]:
    """Return the weighted harmonic mean, over the batch or averaged over items and classes."""
    labels = hard_labels(target)
    if compat:
        rounds = PUBLISHED_ROUNDS if rounds is None else rounds
        z = working(logits)
        highest = z[:, 1:].amax(dim=1)
        q = torch.softmax(torch.stack([z[:, 0], highest], dim=1), dim=1)[:, 1]
        items = zip(q, labels > 0, strict=True)
        sums = torch.stack([_sums(*item, rounds) for item in items]).sum(dim=0, keepdim=True)
    else:
        p = probabilities(logits)
        pairs = [(p[:, c], labels == c) for c in foreground_classes(logits)]
        items = [item for q, truth in pairs for item in zip(q, truth, strict=True)]
        sums = torch.stack([_sums(*item, rounds) for item in items])
    precision = (sums[:, 0] + 1) / (sums[:, 1] + 1)
    recall = (sums[:, 2] + 1) / (sums[:, 3] + 1)
    return (2 * precision * recall / (precision + recall)).mean()


@dataclass(frozen=True)
class _Weights:
    """d^, r^ and I of one mask, beside a tensor."""

    distance: Tensor
    radius: Tensor
    inverse: Tensor


def _sums(
    q: Float[Tensor, "*space"], truth: Bool[Tensor, "*space"], rounds: int | None
) -> Float[Tensor, " n"]:
    """Return numerator and denominator of Tp, then of Ts, for one item and class."""
    ours = _weights((q.detach() > 0.5).cpu().numpy(), rounds, q)
    theirs = _weights(truth.cpu().numpy(), rounds, q)
    on_skeleton = ours.inverse * q
    return torch.stack(
        [
            (on_skeleton * theirs.distance).sum(),
            (_either(ours.radius * q, theirs.radius) * on_skeleton).sum(),
            (theirs.inverse * ours.distance * q).sum(),
            (_either(theirs.radius, ours.radius * q) * theirs.inverse).sum(),
        ]
    )


def _either(first: Tensor, second: Tensor) -> Tensor:
    """Return the second, but the first where only the second is 0."""
    return torch.where((first != 0) & (second == 0), first, second)


def _weights(mask: Bool[np.ndarray, "*space"], rounds: int | None, like: Tensor) -> _Weights:
    """Return the constant weights of one mask."""
    if mask.ndim == 3:
        skeleton = hard_skeleton(mask)
    else:
        needed = min(rounds_needed(mask) + 1, MOST_ROUNDS) if rounds is None else rounds
        skeleton = thin(mask, needed)
    distance = _distance(mask)
    most = max(float(distance[skeleton].max(initial=0)), 1.0)
    scaled = np.minimum(distance, most) / most
    radius = np.where(skeleton, distance / most, 0)
    power = radius**2 if mask.ndim == 3 else radius
    inverse = np.where(skeleton, (1 + TINY) / (power + TINY), 0)
    return _Weights(*(torch.from_numpy(a).to(like) for a in (scaled, radius, inverse)))


def _distance(mask: Bool[np.ndarray, "*space"]) -> Float64[np.ndarray, "*space"]:
    """Return the distance map; a mask that fills its array ends at the border of it."""
    if not mask.all():
        return distance_map(mask)
    inner = tuple(slice(1, -1) for _ in mask.shape)
    return distance_map(np.pad(mask, 1))[inner]
