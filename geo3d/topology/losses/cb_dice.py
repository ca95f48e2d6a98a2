"""cbDice: centreline Dice whose sums are weighted by distance to the border and by local radius.

Notation, per item and foreground class: q probability, h = q > 1/2, t label, K_p and K_t skeletons
of h and t, s = K_p q; for a mask with skeleton K: d its distance map, m the largest d on K (at
least 1), d^ = min(d, m) / m, r^ = d^ on K and 0 elsewhere, I = (1 + e) / (r^ + e) on K (volumes:
r^ squared), e = 1e-7.  d^, r^, I carry no gradient.

    C(a, b, w) = b w, but a w where a is not 0 and b is
    Tp = (sum I_p s d^_t t + 1) / (sum C(r^_p q, r^_t t, I_p s) + 1)
    Ts = (sum I_t d^_p q + 1) / (sum C(r^_t t, r^_p q, I_t) + 1)
    loss = CE / 2 + a / (2 (a + b)) D - b / (2 (a + b)) 2 Tp Ts / (Tp + Ts)

All four sums are polynomials of q at the pixels of the two skeletons; nothing else is computed.
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
from jaxtyping import Bool, Float, Float64, Int64, Shaped
from torch import Tensor

from geo3d.errors import ConfigError
from geo3d.topology.grids import distance_map
from geo3d.topology.losses.inputs import (
    check_inputs,
    hard_labels,
    in_threads,
    once_per_target,
    probabilities,
    working,
)
from geo3d.topology.losses.overlap import cross_entropy, dice_term
from geo3d.topology.losses.skeleton_kernels import depths_at
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
    if compat:
        rounds = PUBLISHED_ROUNDS if rounds is None else rounds
        z = working(logits)
        merged = torch.stack([z[:, 0], z[:, 1:].amax(dim=1)], dim=1)
        q = torch.softmax(merged, dim=1)[:, 1:]
    else:
        q = probabilities(logits)[:, 1:]
    theirs = _label_lines(target, q.shape[1], rounds)
    predicted = (q.detach() > 0.5).cpu().numpy().reshape(-1, *q.shape[2:])
    pairs = list(zip(predicted, theirs, strict=True))
    sums = _weighted_sums(in_threads(lambda pair: _coefficients(*pair, rounds), pairs), q)
    if compat:
        sums = sums.sum(dim=0, keepdim=True)
    precision = (sums[:, 0] + 1) / (sums[:, 1] + 1)
    recall = (sums[:, 2] + 1) / (sums[:, 3] + 1)
    return (2 * precision * recall / (precision + recall)).mean()


@dataclass(frozen=True)
class _Lines:
    """A mask and its skeleton: points are row-major indices, depths their distances d."""

    mask: Bool[np.ndarray, "*space"]
    points: Int64[np.ndarray, " p"]
    depths: Float64[np.ndarray, " p"]

    @property
    def most(self) -> float:
        """Return m."""
        return max(float(self.depths.max(initial=0)), 1.0)

    def inverse(self) -> Float64[np.ndarray, " p"]:
        """Return I at the points."""
        power = (self.depths / self.most) ** (self.mask.ndim - 1)
        return (1 + TINY) / (power + TINY)

    def at(self, points: Int64[np.ndarray, " n"]) -> tuple[np.ndarray, np.ndarray]:
        """Return d^ and r^ at points of another skeleton."""
        scaled = np.minimum(_depths(self.mask, points) / self.most, 1)
        return scaled, np.where(np.isin(points, self.points, assume_unique=True), scaled, 0)


@once_per_target
def _label_lines(target: Tensor, n_classes: int, rounds: int | None) -> list[_Lines]:
    """Return the lines of each item and class; of one class: all foreground."""
    labels = hard_labels(target).cpu().numpy()
    if n_classes == 1:
        masks = list(labels > 0)
    else:
        masks = [item == c for item in labels for c in range(1, n_classes + 1)]
    return in_threads(lambda mask: _lines(mask, rounds), masks)


def _lines(mask: Bool[np.ndarray, "*space"], rounds: int | None) -> _Lines:
    if mask.ndim == 3:
        skeleton = hard_skeleton(mask)
    else:
        needed = min(rounds_needed(mask) + 1, MOST_ROUNDS) if rounds is None else rounds
        skeleton = thin(mask, needed)
    points = np.flatnonzero(skeleton)
    return _Lines(mask, points, _depths(mask, points))


def _depths(
    mask: Bool[np.ndarray, "*space"], points: Int64[np.ndarray, " n"]
) -> Float64[np.ndarray, " n"]:
    """Return distances at some points; a mask that fills its array ends at the border of it."""
    if mask.all():
        inner = tuple(slice(1, -1) for _ in mask.shape)
        return distance_map(np.pad(mask, 1))[inner].ravel()[points]
    if mask.ndim == 3:
        return distance_map(mask).ravel()[points]
    return depths_at(mask, points)


@dataclass(frozen=True)
class _Coefficients:
    """The four sums of one item as polynomials of q at some points: rows are sums, as below."""

    points: Int64[np.ndarray, " n"]
    linear: Float64[np.ndarray, "4 n"]
    square: Float64[np.ndarray, " n"]
    constant: float


def _coefficients(
    mask: Bool[np.ndarray, "*space"], theirs: _Lines, rounds: int | None
) -> _Coefficients:
    """Return numerator and denominator of Tp, then of Ts, without the ones."""
    ours = _lines(mask, rounds)
    n, m = ours.points.size, theirs.points.size
    linear, square = np.zeros((4, n + m)), np.zeros(n + m)
    inverse = ours.inverse()
    scaled, radius = theirs.at(ours.points)
    linear[0, :n] = inverse * scaled
    linear[1, :n] = inverse * radius
    square[:n] = np.where(radius == 0, inverse * ours.depths / ours.most, 0)
    inverse = theirs.inverse()
    scaled, radius = ours.at(theirs.points)
    linear[2, n:] = inverse * scaled
    linear[3, n:] = inverse * radius
    alone = np.where(radius == 0, inverse * theirs.depths / theirs.most, 0)
    points = np.concatenate([ours.points, theirs.points])
    return _Coefficients(points, linear, square, float(alone.sum()))


def _weighted_sums(
    items: list[_Coefficients], q: Float[Tensor, "b k *space"]
) -> Float[Tensor, "i 4"]:
    """Evaluate all polynomials at once; shorter items are filled up with zeros."""
    longest = max(item.points.size for item in items)
    points = np.zeros((len(items), longest), dtype=np.int64)
    linear, square = np.zeros((len(items), 4, longest)), np.zeros((len(items), longest))
    for k, item in enumerate(items):
        size = item.points.size
        points[k, :size] = item.points
        linear[k, :, :size], square[k, :size] = item.linear, item.square
    values = q.flatten(2).flatten(0, 1).gather(1, torch.from_numpy(points).to(q.device))
    sums = (torch.from_numpy(linear).to(q) * values[:, None]).sum(dim=2)
    extra = torch.zeros_like(sums)
    extra[:, 1] = (torch.from_numpy(square).to(q) * values**2).sum(dim=1)
    constants = torch.tensor([[0, 0, 0, item.constant] for item in items])
    return sums + extra + constants.to(q)
