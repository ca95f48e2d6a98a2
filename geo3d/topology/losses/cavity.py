"""Cavity loss: close the leaks in walls around holes and cavities, open false walls.

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

Only the background is judged, that is holes of pictures and cavities of volumes: a gap in a line
that encloses nothing is no leak.  Several classes: averaged over the foreground classes.

Source: the unfinished CavityLoss of the TopoMortar code gives the first kind of critical pixels by
a watershed; distance and quantisation to 256 levels follow Vu Ngoc et al., Introducing the
boundary-aware loss for deep image segmentation (BMVC 2021).  The second kind is its mirror image
and ours; there is no published behaviour to be compatible with.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor

from geo3d.errors import ConfigError
from geo3d.topology.grids import Pixels, check_pixels, label_components, neighbourhood
from geo3d.topology.kernels import joining_edges
from geo3d.topology.losses.critical import class_against_rest
from geo3d.topology.losses.discrete_kernels import flood
from geo3d.topology.losses.inputs import (
    check_inputs,
    foreground_classes,
    hard_labels,
    one_hot,
    probabilities,
    working,
)
from geo3d.topology.losses.overlap import ce_dice_loss


def cavity_loss(
    logits: Float[Tensor, "b c *space"],
    target: Shaped[Tensor, ...],
    *,
    alpha: float = 1.0,
    lambda_ce: float = 1.0,
    lambda_dice: float = 1.0,
    pixels: Pixels = "cells",
    compat: bool = False,
) -> Float[Tensor, ""]:
    """Return cross-entropy + Dice term + alpha x cross-entropy of the critical pixels.

    Args:
        logits: scores.
        target: labels or a soft target, whose most likely labels are the true mask.
        alpha: weight of the critical pixels.
        lambda_ce: weight of the cross-entropy of all pixels.
        lambda_dice: weight of the Dice term.
        pixels: how pixels touch, see `geo3d.topology.grids`.
        compat: refused, there is no published behaviour.

    Raises:
        InputError: see `check_inputs`.
        ConfigError: "loss.not_published" for `compat`; "topology.unknown_pixels".
    """
    if compat:
        raise ConfigError(
            "loss.not_published",
            "The published CavityLoss cannot be run, so there is nothing to be compatible with.",
            "Leave `compat` off.",
        )
    check_inputs(logits, target)
    check_pixels(pixels)
    labels, truth = hard_labels(target), one_hot(target, logits)
    guess, p = logits.argmax(dim=1), probabilities(logits.detach())
    terms = []
    for k in foreground_classes(logits):
        maps = (guess == k, labels == k, p[:, k])
        items = zip(*(m.cpu().numpy() for m in maps), strict=True)
        critical = np.stack([leaks_and_walls(g, t, u, pixels) for g, t, u in items])
        terms.append(class_against_rest(logits, truth, k, torch.from_numpy(critical)))
    overlap = working(logits[:0]).sum()
    if lambda_ce or lambda_dice:
        overlap = ce_dice_loss(logits, target, lambda_ce=lambda_ce, lambda_dice=lambda_dice)
    return overlap + alpha * torch.stack(terms).mean()


def leaks_and_walls(
    predicted: Bool[np.ndarray, "*space"],
    true: Bool[np.ndarray, "*space"],
    probability: Float[np.ndarray, "*space"],
    pixels: Pixels = "cells",
) -> Bool[np.ndarray, "*space"]:
    """Return the critical pixels of one picture or volume."""
    steps = neighbourhood(true.ndim, pixels, background=True)
    p, t = np.pad(predicted, 1), np.pad(true, 1)
    # Padding is neither seed nor allowed: regions at the border stay apart.
    inside = np.pad(np.ones_like(true), 1)
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
