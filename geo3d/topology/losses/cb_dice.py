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
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64, Shaped
from torch import Tensor
from typing_extensions import Unpack

from geo3d.errors import ConfigError
from geo3d.topology.grids import distance_map
from geo3d.topology.losses.batch import Batch
from geo3d.topology.losses.memory import in_threads, once_per_content
from geo3d.topology.losses.options import Options, eager, judge, published
from geo3d.topology.losses.overlap import cross_entropy_items, dice_items
from geo3d.topology.losses.skeleton_kernels import depths_at
from geo3d.topology.skeleton import hard_skeleton, rounds_needed, thin

PUBLISHED_ROUNDS = 5
MOST_ROUNDS = 20
"""Where the automatic choice stops: an all-foreground prediction must not cost hundreds."""
TINY = 1e-7


@eager
def cb_dice_loss(
    logits: Float[Tensor, "b c *space"],
    target: Shaped[Tensor, "*any"],
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    rounds: int | None = None,
    compat: bool = False,
    **options: Unpack[Options],
) -> Float[Tensor, "*b"]:
    """Return half the cross-entropy and half a blend of Dice and centreline boundary Dice.

    Args:
        logits: scores.
        target: labels or soft target; of a soft target the likeliest labels are thinned.
        alpha: weight of the Dice term.
        beta: weight of the centreline boundary term.
        rounds: rounds of thinning in 2D; None: as many as a mask needs (at most `MOST_ROUNDS`), or
            the published 5 with ``compat``.
        compat: published rounds, sums over the batch, foreground classes lumped together.
        options: see `Options`; `spacing` counts.

    Raises:
        InputError, ConfigError: see `geo3d.topology.losses.options.judge`; "topology.bad_rounds";
            "loss.bad_weights" for negative or no weights.
    """
    if min(alpha, beta) < 0 or alpha + beta == 0:
        raise ConfigError(
            "loss.bad_weights",
            f"Weights {alpha} and {beta} of the two Dice terms are no blend.",
            "Give two numbers of at least 0, one of them more.",
        )
    if compat:
        published(options)
        rounds = PUBLISHED_ROUNDS if rounds is None else rounds
    share = beta / (alpha + beta)
    return judge(
        partial(_cb_dice_items, share=share, rounds=rounds, compat=compat), logits, target, options
    )


def _cb_dice_items(
    batch: Batch, *, share: float, rounds: int | None, compat: bool
) -> Float[Tensor, " b"]:
    """Return the loss of each item; if published, with the harmonic mean of the whole batch."""
    total = cross_entropy_items(batch, compat=compat) / 2
    if share < 1:
        total = total + (1 - share) / 2 * dice_items(batch)
    if not compat:
        sums = _sums(batch, rounds)
        lines = batch.channel_mean(_harmonic(sums).reshape(batch.own.shape[:2]))
        return total - share / 2 * lines
    z = batch.logits
    lumped = torch.stack([z[:, 0], z[:, 1:].amax(dim=1)], dim=1)
    sums = _sums(Batch(lumped, (batch.labels > 0).long(), spacing=batch.spacing), rounds)
    return total - share / 2 * _harmonic(sums.sum(dim=0))


def _harmonic(sums: Float[Tensor, "*i 4"]) -> Float[Tensor, "*i"]:
    precision = (sums[..., 0] + 1) / (sums[..., 1] + 1)
    recall = (sums[..., 2] + 1) / (sums[..., 3] + 1)
    return 2 * precision * recall / (precision + recall)


def _sums(batch: Batch, rounds: int | None) -> Float[Tensor, "i 4"]:
    q = batch.own
    how = _How(rounds, batch.spacing)
    known = _known_lines(_with_outside(batch.true_masks, batch.outside), how)
    predicted = (q.detach() > 0.5).cpu().numpy()
    masks = _with_outside(predicted, batch.outside)
    pairs = list(zip(masks, known, strict=True))
    return _weighted_sums(in_threads(lambda pair: _coefficients(*pair, how), pairs), q)


def _with_outside(
    masks: Bool[np.ndarray, "b k *space"], outside: Bool[np.ndarray, "b ..."] | None
) -> Bool[np.ndarray, "i 2 *space"]:
    """Return each mask, and the mask with all that is not annotated."""
    wide = masks if outside is None else masks | outside[:, None]
    return np.stack([masks, wide], axis=2).reshape(-1, 2, *masks.shape[2:])


@dataclass(frozen=True)
class _How:
    """Rounds of thinning in 2D (None: as many as needed), and the relative size of pixels."""

    rounds: int | None
    spacing: tuple[float, ...]


@dataclass(frozen=True)
class _Lines:
    """A mask (with what is not annotated) and the skeleton of its annotated part.

    Points are row-major indices, depths their distances d.
    """

    mask: Bool[np.ndarray, "*space"]
    spacing: tuple[float, ...]
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
        scaled = np.minimum(_depths(self.mask, points, self.spacing) / self.most, 1)
        return scaled, np.where(np.isin(points, self.points, assume_unique=True), scaled, 0)


@once_per_content
def _known_lines(masks: Bool[np.ndarray, "i 2 *space"], how: _How) -> list[_Lines]:
    """Return the lines of each mask."""
    return in_threads(lambda mask: _lines(mask, how), masks)


def _lines(mask: Bool[np.ndarray, "2 ..."], how: _How) -> _Lines:
    inner, wide = mask
    if inner.ndim == 3:
        skeleton = hard_skeleton(inner)
    else:
        rounds = how.rounds
        if rounds is None:
            rounds = rounds_needed(wide, most=MOST_ROUNDS - 1) + 1
        skeleton = thin(inner, rounds)
    points = np.flatnonzero(skeleton)
    return _Lines(wide, how.spacing, points, _depths(wide, points, how.spacing))


def _depths(
    mask: Bool[np.ndarray, "*space"], points: Int64[np.ndarray, " n"], spacing: tuple[float, ...]
) -> Float64[np.ndarray, " n"]:
    """Return distances at some points; a mask that fills its array ends at the border of it."""
    if mask.all():
        inner = tuple(slice(1, -1) for _ in mask.shape)
        return distance_map(np.pad(mask, 1), spacing)[inner].ravel()[points]
    if mask.ndim == 3 or max(spacing) > 1:
        return distance_map(mask, spacing).ravel()[points]
    return depths_at(mask, points)


@dataclass(frozen=True)
class _Coefficients:
    """The four sums of one item as polynomials of q at some points: rows are sums, as below."""

    points: Int64[np.ndarray, " n"]
    linear: Float64[np.ndarray, "4 n"]
    square: Float64[np.ndarray, " n"]
    constant: float


def _coefficients(mask: Bool[np.ndarray, "2 ..."], theirs: _Lines, how: _How) -> _Coefficients:
    """Return numerator and denominator of Tp, then of Ts, without the ones."""
    ours = _lines(mask, how)
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
