"""Warping loss: penalise the pixels that block a continuous deformation of prediction into truth.

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

from geo3d.topology.distance import distance_map
from geo3d.topology.grids import Pixels, as_mask, check_pixels
from geo3d.topology.losses.critical import class_against_rest
from geo3d.topology.losses.discrete_kernels import flip_simple
from geo3d.topology.losses.inputs import (
    check_inputs,
    foreground_classes,
    hard_labels,
    is_soft,
    one_hot,
    probabilities,
    working,
)
from geo3d.topology.losses.overlap import TINY, dice_term

Rule = Literal["cells", "vertices", "counted 8/8", "counted 4/8"]
"""What a simple pixel is; "counted" looks at every component of the patch, the pixel included."""


def warping_loss(
    logits: Float[Tensor, "b c *space"],
    target: Shaped[Tensor, ...],
    *,
    lambd: float = 0.1,
    lambda_dice: float = 1.0,
    pixels: Pixels = "cells",
    compat: bool = False,
) -> Float[Tensor, ""]:
    """Return lambda_dice x Dice term + lambd x cross-entropy over the critical pixels.

    Args:
        logits: scores.
        target: labels or soft target; a soft one is warped by its most likely labels.
        lambd: weight of the warping term (0.1 as published; its mean is over critical pixels only,
            so the default acts more strongly than the published code's mean over all pixels).
        lambda_dice: weight of the Dice term.
        pixels: how pixels touch, see `geo3d.topology.grids`.
        compat: the published code, pictures only.

    Raises:
        InputError: see `check_inputs`.
        ConfigError: "topology.unknown_pixels".
    """
    check_inputs(logits, target)
    check_pixels(pixels)
    overlap = lambda_dice * dice_term(logits, target) if lambda_dice else working(logits[:0]).sum()
    if lambd == 0:
        return overlap
    term = _published_term(logits, target) if compat else _warping_term(logits, target, pixels)
    return overlap + lambd * term


def _warping_term(
    logits: Float[Tensor, "b c *space"], target: Shaped[Tensor, ...], pixels: Pixels
) -> Float[Tensor, ""]:
    """Return the mean cross-entropy, class against rest, over all critical pixels of a class."""
    truth, labels, guess = one_hot(target, logits), hard_labels(target), logits.argmax(dim=1)
    terms = [
        class_against_rest(logits, truth, k, critical_batch(guess == k, labels == k, pixels))
        for k in foreground_classes(logits)
    ]
    return torch.stack(terms).mean()


def _published_term(
    logits: Float[Tensor, "b c h w"], target: Shaped[Tensor, ...]
) -> Float[Tensor, ""]:
    """Return the published term: masked probabilities against masked labels, mean over pixels."""
    p, truth = probabilities(logits), one_hot(target, logits)
    # Whole numbers cut off what a soft target holds below one.
    background = truth[:, 0].long() == 1
    critical = critical_batch(p.argmax(dim=1) == 1, background, "counted 8/8")
    wanted = (truth[:, 1] if is_soft(target) else hard_labels(target)).long() * critical
    masked = p * critical[:, None]
    chosen = masked.double().gather(1, wanted[:, None])
    return -torch.log(chosen + TINY).mean()


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
) -> Bool[np.ndarray, "*space"]:
    """Return the pixels where either mask cannot be warped into the other.

    Raises:
        ShapeError: "topology.bad_dimensions", "topology.not_a_mask".
    """
    p, t = as_mask(predicted), as_mask(true)
    false, missed = p & ~t, t & ~p
    # Each mask first shrinks, then grows.
    warped_true = warp(t, missed, false, rule)
    warped_guess = warp(p, false, missed, rule)
    return (p != warped_true) | (t != warped_guess)


def warp(
    mask: Bool[np.ndarray, "*space"],
    shrink: Bool[np.ndarray, "*space"],
    grow: Bool[np.ndarray, "*space"],
    rule: Rule = "cells",
) -> Bool[np.ndarray, "*space"]:
    """Return a mask of the same topology with the simple ones of the listed pixels flipped.

    Args:
        mask: what is warped.
        shrink: pixels of the mask to take away.
        grow: pixels outside the mask to add.
        rule: what a simple pixel is.
    """
    if not (shrink.any() or grow.any()):
        return mask.copy()
    counted = rule.startswith("counted")
    order = np.concatenate(
        [_nearest_first(m, at, counted) for m, at in ((mask, shrink), (~mask, grow))]
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
    mask: Bool[np.ndarray, "*space"], at: Bool[np.ndarray, "*space"], published: bool
) -> Int64[np.ndarray, " n"]:
    """Return flat indices by distance to the edge; of equals the last comes first."""
    chosen = np.flatnonzero(at)
    if not len(chosen):
        return chosen
    distance = ndimage.distance_transform_edt(mask) if published else distance_map(mask)
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
