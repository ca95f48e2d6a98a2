"""Losses on critical pixels, the few that decide the topology: warping and cavity loss.

Both find such pixels by rule, without gradient, and take the cross-entropy there.

Warping loss: penalise the pixels that block a continuous deformation of prediction into truth.

Notation: P predicted mask, T true mask of one class, d_M distance of each pixel of a mask M to its
outside.  T is warped towards P and P towards T by flipping pixels where they differ, nearest to the
edge first, but only *simple* pixels, whose flip changes no component and no hole.  What cannot be
flipped is *critical*: C = (P differs from the warped T) or (T differs from the warped P).  Where P
and T have the same topology C is (nearly) empty, however far apart their edges are.

    loss = Dice term + lambd x mean over C of the cross-entropy

* A pixel is simple if the foreground around it that touches it is one component and the background
  too, in the two readings of `geo3d.topology.grids` (8/4 and 4/8 neighbours, 26/6 and 6/26).
  Outside the array lies background.  Sweeps repeat until nothing flips.
* Several classes: each foreground class against all others, averaged.
* `compat` is the published code: the *background* is warped, both counts use 8 neighbours and every
  pixel of the patch, pixels at the border never flip, one sweep, and every pixel that is not
  critical adds the constant -log(1e-15) to the mean.  Its order of equal distances depends on the
  machine; here it is that of a stable sort.

Source: Hu, Structure-aware image segmentation with homotopy warping (NeurIPS 2022).

Cavity loss: close the leaks in walls around holes and cavities, open false walls.

Notation: T true and P predicted mask of a class, p its probability.  The barrier of a path is the
highest minus the lowest p on it; the minimum barrier distance of a pixel from a set of regions is
the smallest barrier of the paths to it.  Critical pixels, all of them wrongly predicted:

* missing pixels (T, not P): the components of the true background are flooded into them in order of
  barrier.  Where two regions meet the wall must be closed; what no region reaches is a hole that
  should not be there and must be filled.
* false pixels (P, not T): within each component of the true background, the parts that are
  predicted as background are flooded into them.  The path of least barrier between two parts must
  be opened; what no part reaches is a hole that was filled and must be dug out.

    loss = lambda_ce x cross-entropy + lambda_dice x Dice term
         + alpha x mean over the critical pixels of their cross-entropy (class against rest)

Only the background is judged, that is holes of images and cavities of volumes: a gap in a line
that encloses nothing is no leak.  Several classes: averaged over the foreground classes.

Source: the unfinished CavityLoss of the TopoMortar code gives the first kind of critical pixels by
a watershed; distance and quantisation to 256 levels follow Vu Ngoc et al., Introducing the
boundary-aware loss for deep image segmentation (BMVC 2021).  The second kind is its mirror image
and ours; there is no published behaviour to be compatible with.
"""

from __future__ import annotations

from functools import cache
from itertools import product
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, Shaped
from scipy import ndimage
from torch import Tensor
from typing_extensions import Unpack

from geo3d.errors import ConfigError
from geo3d.topology.grids import (
    Pixels,
    as_mask,
    check_pixels,
    distance_map,
    label_components,
    neighbourhood,
)
from geo3d.topology.kernels import joining_edges
from geo3d.topology.losses.batch import Batch
from geo3d.topology.losses.discrete_kernels import flip_simple, flood
from geo3d.topology.losses.inputs import is_soft
from geo3d.topology.losses.options import Options, eager, judge, published
from geo3d.topology.losses.overlap import TINY, ce_dice_items, dice_items

Rule = Literal["cells", "vertices", "counted 8/8", "counted 4/8"]
"""What a simple pixel is; "counted" looks at every component of the patch, the pixel included."""


@eager
def warping_loss(
    logits: Float[Tensor, "b c *space"],
    target: Shaped[Tensor, ...],
    *,
    lambd: float = 0.1,
    lambda_dice: float = 1.0,
    pixels: Pixels = "cells",
    compat: bool = False,
    **options: Unpack[Options],
) -> Float[Tensor, "*b"]:
    """Return lambda_dice x Dice term + lambd x cross-entropy over the critical pixels.

    Args:
        logits: scores.
        target: labels or soft target; a soft one is warped by its most likely labels.
        lambd: weight of the warping term (0.1 as published; its mean is over critical pixels only,
            so the default acts more strongly than the published code's mean over all pixels).
        lambda_dice: weight of the Dice term.
        pixels: how pixels touch, see `geo3d.topology.grids`.
        compat: the published code, images only.
        options: see `Options`; `spacing` counts.

    Raises:
        InputError, ConfigError: see `geo3d.topology.losses.options.judge`;
            "topology.unknown_pixels".
    """
    check_pixels(pixels)
    if compat:
        published(options)

    def items(batch: Batch) -> Tensor:
        total = batch.logits.new_zeros(len(batch.logits))
        if lambda_dice:
            total = total + lambda_dice * dice_items(batch)
        if not lambd:
            return total
        return total + lambd * (_published_term(batch) if compat else _warping_items(batch, pixels))

    return judge(items, logits, target, options)


def _warping_items(batch: Batch, pixels: Pixels) -> Float[Tensor, " b"]:
    """Return the mean cross-entropy, class against rest, over the critical pixels of a class."""
    critical = np.empty(batch.true_masks.shape, dtype=bool)
    for at in np.ndindex(critical.shape[:2]):
        hidden = None if batch.outside is None else batch.outside[at[0]]
        masks = batch.guesses[at], batch.true_masks[at]
        critical[at] = critical_pixels(*masks, pixels, batch.spacing, hidden)
    return batch.channel_mean(batch.entropy_at(critical))


def _published_term(batch: Batch) -> Float[Tensor, " b"]:
    """Return the published term: masked probabilities against masked labels, mean over pixels."""
    p, truth = batch.p, batch.truth
    # Whole numbers cut off what a soft target holds below one.
    background = truth[:, 0].long() == 1
    critical = critical_batch(p.argmax(dim=1) == 1, background, "counted 8/8")
    wanted = (truth[:, 1] if is_soft(batch.target) else batch.labels).long() * critical
    masked = p * critical[:, None]
    chosen = masked.double().gather(1, wanted[:, None])
    return -torch.log(chosen + TINY).flatten(1).mean(dim=1)


def critical_batch(
    predicted: Bool[Tensor, "b ..."], true: Bool[Tensor, "b ..."], rule: Rule
) -> Bool[Tensor, "b ..."]:
    """Return the critical pixels of every item of a batch, on the device of the batch."""
    pairs = zip(predicted.cpu().numpy(), true.cpu().numpy(), strict=True)
    return torch.from_numpy(np.stack([critical_pixels(p, t, rule) for p, t in pairs])).to(
        predicted.device
    )


def critical_pixels(
    predicted: Shaped[np.ndarray, "*space"],
    true: Shaped[np.ndarray, "*space"],
    rule: Rule = "cells",
    spacing: tuple[float, ...] | None = None,
    outside: Bool[np.ndarray, "*space"] | None = None,
) -> Bool[np.ndarray, "*space"]:
    """Return the pixels where either mask cannot be warped into the other.

    Args:
        predicted: one mask.
        true: the other.
        rule: what a simple pixel is.
        spacing: size of a pixel along each axis, for the order of flips.
        outside: pixels beyond the image, at which no mask has an edge.

    Raises:
        ShapeError: "topology.bad_dimensions", "topology.not_a_mask".
    """
    p, t = as_mask(predicted), as_mask(true)
    false, missed = p & ~t, t & ~p
    # Each mask first shrinks, then grows.
    warped_true = warp(t, missed, false, rule, spacing, outside)
    warped_guess = warp(p, false, missed, rule, spacing, outside)
    return (p != warped_true) | (t != warped_guess)


def warp(
    mask: Bool[np.ndarray, "*space"],
    shrink: Bool[np.ndarray, "*space"],
    grow: Bool[np.ndarray, "*space"],
    rule: Rule = "cells",
    spacing: tuple[float, ...] | None = None,
    outside: Bool[np.ndarray, "*space"] | None = None,
) -> Bool[np.ndarray, "*space"]:
    """Return a mask of the same topology with the simple ones of the listed pixels flipped.

    Args:
        mask: what is warped.
        shrink: pixels of the mask to take away.
        grow: pixels outside the mask to add.
        rule: what a simple pixel is.
        spacing: size of a pixel along each axis, for the order of flips.
        outside: pixels beyond the image, at which no mask has an edge.
    """
    if not (shrink.any() or grow.any()):
        return mask.copy()
    counted = rule.startswith("counted")
    order = np.concatenate(
        [
            _nearest_first(m if outside is None else m | outside, at, spacing, published=counted)
            for m, at in ((mask, shrink), (~mask, grow))
        ]
    )
    padded = np.pad(mask, 1).astype(np.uint8)
    at = np.stack(np.unravel_index(order, mask.shape))
    if counted:
        size = np.array(mask.shape)[:, None]
        at = at[:, ((at > 0) & (at < size - 1)).all(axis=0)]
    flat, patch = padded.reshape(-1), _patch(mask.ndim, rule)
    order = np.asarray(np.ravel_multi_index(tuple(at + 1), padded.shape))
    steps = patch[0] @ np.array(padded.strides)
    wanted = 1 - flat[order]
    while flip_simple(flat, order, steps, *patch[1:]) and not counted:
        waits = flat[order] != wanted
        order, wanted = order[waits], wanted[waits]
    return padded[(slice(1, -1),) * mask.ndim].astype(bool)


def _nearest_first(
    mask: Bool[np.ndarray, "*space"],
    at: Bool[np.ndarray, "*space"],
    spacing: tuple[float, ...] | None,
    *,
    published: bool,
) -> Int64[np.ndarray, " n"]:
    """Return flat indices by distance to the edge; of equals the last comes first."""
    chosen = np.flatnonzero(at)
    if not len(chosen):
        return chosen
    distance = ndimage.distance_transform_edt(mask) if published else distance_map(mask, spacing)
    depth = np.asarray(distance).ravel()[chosen]
    return chosen[np.argsort(-depth, kind="stable")[::-1]]


@cache
def _patch(n_dims: int, rule: Rule) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the steps of a 3^n patch and the sets of bits that `flip_simple` asks for."""
    steps = np.array(list(product((-1, 0, 1), repeat=n_dims)), dtype=np.int64)
    apart = np.abs(steps[:, None] - steps[None])
    along = apart.sum(axis=2) == 1
    around = apart.max(axis=2) == 1
    reach = np.abs(steps).sum(axis=1)
    whole = np.ones(len(steps), dtype=bool)
    if rule.startswith("counted"):
        touching = {"counted 8/8": (around, around), "counted 4/8": (around, along)}[rule]
        cells = starts = (whole, whole)
    else:
        # Along the axes, corners of the patch lead nowhere: neighbours in two steps at most.
        wide, narrow = reach > 0, (reach > 0) & (reach <= 2)
        sides = reach == 1
        touching, cells, starts = (along, around), (narrow, wide), (sides, wide)
        if rule == "vertices":
            touching, cells, starts = touching[::-1], cells[::-1], starts[::-1]
    beside = np.array([[_bits(row) for row in table] for table in touching])
    return steps, beside, np.array([_bits(c) for c in cells]), np.array([_bits(s) for s in starts])


def _bits(chosen: Bool[np.ndarray, " n"]) -> int:
    return sum(1 << int(k) for k in np.flatnonzero(chosen))


@eager
def cavity_loss(
    logits: Float[Tensor, "b c *space"],
    target: Shaped[Tensor, ...],
    *,
    alpha: float = 1.0,
    lambda_ce: float = 1.0,
    lambda_dice: float = 1.0,
    pixels: Pixels = "cells",
    compat: bool = False,
    **options: Unpack[Options],
) -> Float[Tensor, "*b"]:
    """Return cross-entropy + Dice term + alpha x cross-entropy of the critical pixels.

    Args:
        logits: scores.
        target: labels or a soft target, whose most likely labels are the true mask.
        alpha: weight of the critical pixels.
        lambda_ce: weight of the cross-entropy of all pixels.
        lambda_dice: weight of the Dice term.
        pixels: how pixels touch, see `geo3d.topology.grids`.
        compat: refused, there is no published behaviour.
        options: see `Options`.

    Raises:
        InputError, ConfigError: see `geo3d.topology.losses.options.judge`; "loss.not_published" for
            `compat`; "topology.unknown_pixels".
    """
    if compat:
        raise ConfigError(
            "loss.not_published",
            "The published CavityLoss cannot be run, so there is nothing to be compatible with.",
            "Leave `compat` off.",
        )
    check_pixels(pixels)

    def items(batch: Batch) -> Tensor:
        base = ce_dice_items(batch, lambda_ce=lambda_ce, lambda_dice=lambda_dice)
        return base + alpha * batch.channel_mean(batch.entropy_at(_cavities(batch, pixels)))

    return judge(items, logits, target, options)


def _cavities(batch: Batch, pixels: Pixels) -> Bool[np.ndarray, "b k *space"]:
    """Return the critical pixels of each item and judged channel."""
    p = batch.own.detach().cpu().numpy()
    found = np.empty(p.shape, dtype=bool)
    for at in np.ndindex(p.shape[:2]):
        inside = None if batch.outside is None else ~batch.outside[at[0]]
        found[at] = leaks_and_walls(batch.guesses[at], batch.true_masks[at], p[at], pixels, inside)
    return found


def leaks_and_walls(
    predicted: Bool[np.ndarray, "*space"],
    true: Bool[np.ndarray, "*space"],
    probability: Float[np.ndarray, "*space"],
    pixels: Pixels = "cells",
    inside: Bool[np.ndarray, "*space"] | None = None,
) -> Bool[np.ndarray, "*space"]:
    """Return the critical pixels of one image or volume, or of its annotated part."""
    steps = neighbourhood(true.ndim, pixels, background=True)
    p, t = np.pad(predicted, 1), np.pad(true, 1)
    # Padding is neither seed nor allowed: regions at the border stay apart.
    inside = np.pad(np.ones_like(true) if inside is None else inside, 1)
    levels = np.pad(np.rint(np.clip(probability, 0, 1) * 255).astype(np.int64), 1)
    strides = np.array(levels.strides) // levels.itemsize
    corners = pixels == "vertices"
    rooms, parts = (
        label_components(m, corners=corners)[0].astype(np.int64)
        for m in (~t & inside, ~t & ~p & inside)
    )
    critical = _leaks(levels, rooms, t & ~p, steps @ strides)
    critical |= _walls(levels, parts, rooms, p & ~t, steps @ strides)
    return critical[(slice(1, -1),) * true.ndim]


def _leaks(
    levels: np.ndarray, rooms: np.ndarray, missing: np.ndarray, steps: np.ndarray
) -> Bool[np.ndarray, "*space"]:
    """Return missing pixels where two regions meet, and those that no region reaches."""
    if not missing.any():
        return missing
    region, _, _ = flood(levels.ravel(), rooms.ravel(), missing.ravel(), steps)
    at = np.flatnonzero(missing)
    own, beside = region[at, None], region[at[:, None] + steps]
    meets = ((own > 0) & (beside > 0) & (beside != own)).any(axis=1)
    return _marked(at[meets | (region[at] == 0)], missing.shape)


def _walls(
    levels: np.ndarray, parts: np.ndarray, rooms: np.ndarray, false: np.ndarray, steps: np.ndarray
) -> Bool[np.ndarray, "*space"]:
    """Return the paths that join the parts of each region, and the pixels that no part reaches."""
    if not false.any():
        return false
    part, source, barrier = flood(levels.ravel(), parts.ravel(), false.ravel(), steps)
    at = np.flatnonzero(false)
    one = np.repeat(at, len(steps))
    two = (at[:, None] + steps).ravel()
    room = rooms.ravel()
    meets = (part[one] != part[two]) & (part[one] > 0) & (part[two] > 0) & (room[one] == room[two])
    one, two = one[meets], two[meets]
    order = np.argsort(np.maximum(barrier[one], barrier[two]), kind="stable")
    one, two = one[order], two[order]
    joins = joining_edges(np.stack((part[one], part[two]), axis=1), int(part.max()) + 1)
    path = [at[part[at] == 0]]
    now = np.concatenate((one[joins], two[joins]))
    while len(now):
        # Seeds have no source: the walk ends there.
        now = np.unique(now[source[now] >= 0])
        path.append(now)
        now = source[now]
    return _marked(np.concatenate(path), false.shape)


def _marked(at: Int64[np.ndarray, " n"], shape: tuple[int, ...]) -> Bool[np.ndarray, "*space"]:
    mask = np.zeros(shape, dtype=bool)
    mask.reshape(-1)[at] = True
    return mask
