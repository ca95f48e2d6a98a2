"""Signed-distance topology loss: the score as a distance to the edge, exact where topology is made.

Notation: p probability of a class, m = 2 p - 1 in [-1, 1] (of two classes: tanh of half the
difference of their scores), d the signed distance of a pixel to the edge of the label in pixels,
positive inside, cut at R and divided by R; K the ridges of d inside and outside: the skeletons of
the label and of its background, where sublevel sets of d are born and meet.

    distance = mean over pixels of h(m - d),   ridges = mean over K of h(m - sign d)
    loss = CE + Dice term + lambd (distance + ridges) / 2,      h(u) = Huber with bend 1/2

A distance tells a network how far a gap reaches before there is one, and a map that falls steadily
from its ridge has no false component or hole at any level.  On ridges the full value is asked for:
a thin line never is far from its edge, and its d alone would leave p near 1/2.

Source: the signed distance as a carrier of topology is that of SDF-TopoNet (2025), which trains it
as a task of its own before a persistence loss; the form here, one term and no second stage, is
ours.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Shaped
from torch import Tensor
from torch.nn.functional import huber_loss
from typing_extensions import Unpack

from geo3d.errors import ConfigError
from geo3d.topology.grids import distance_map
from geo3d.topology.losses.batch import Batch
from geo3d.topology.losses.memory import in_threads, once_per_content
from geo3d.topology.losses.options import Options, judge
from geo3d.topology.losses.overlap import ce_dice_items
from geo3d.topology.skeleton import hard_skeleton

REACH = 5.0
BEND = 0.5


def signed_distance_loss(
    logits: Float[Tensor, "b c *space"],
    target: Shaped[Tensor, "*any"],
    *,
    lambd: float = 1.0,
    reach: float = REACH,
    **options: Unpack[Options],
) -> Float[Tensor, "*b"]:
    """Return cross-entropy + Dice term + lambd x distance term.

    Args:
        logits: scores.
        target: labels or soft target, whose likeliest labels have the distances.
        lambd: weight of the distance term.
        reach: where distances are cut, in pixels (the smallest side of one, with `spacing`).
        options: see `Options`; `spacing` counts.

    Raises:
        InputError, ConfigError: see `geo3d.topology.losses.options.judge`; "loss.bad_reach".
    """
    if not reach > 0:
        raise ConfigError("loss.bad_reach", f"A reach of {reach} pixels.", "Give more than 0.")

    def items(batch: Batch) -> Tensor:
        return ce_dice_items(batch) + lambd * signed_distance_items(batch, reach)

    return judge(items, logits, target, options)


def signed_distance_items(batch: Batch, reach: float = REACH) -> Float[Tensor, " b"]:
    """Return the mean of the distance and the ridge part of each item."""
    masks = batch.true_masks
    unknown = np.zeros_like(masks[:, :1]) if batch.outside is None else batch.outside[:, None]
    known = _known_maps(np.concatenate([masks, unknown], axis=1), batch.spacing, reach)
    maps = torch.from_numpy(known).to(batch.own)
    distance, ridge = maps[:, :, 0], batch.within((maps[:, :, 1] > 0).to(batch.own))
    margin = 2 * batch.own - 1
    every = batch.within(huber_loss(margin, distance, reduction="none", delta=BEND))
    sign = torch.sign(distance)
    strict = ridge * huber_loss(margin, sign, reduction="none", delta=BEND)
    ridges = strict.sum(dim=batch.space) / ridge.sum(dim=batch.space).clamp(min=1)
    return batch.channel_mean((batch.pixel_mean(every) + ridges) / 2)


def _maps(
    masks: Bool[np.ndarray, "b more *space"], spacing: tuple[float, ...], reach: float
) -> Float32[np.ndarray, "b k 2 *space"]:
    """Return the signed distance in [-1, 1] and the ridges of each mask but the last.

    The last one of each item is what is not annotated: it is neither inside nor outside.
    """
    pairs = [(mask, item[-1]) for item in masks for mask in item[:-1]]
    found = in_threads(partial(_maps_of, spacing=spacing, reach=reach), pairs)
    return np.stack(found).reshape(len(masks), -1, 2, *masks.shape[2:])


def _maps_of(
    pair: tuple[Bool[np.ndarray, "*space"], Bool[np.ndarray, "*space"]],
    spacing: tuple[float, ...],
    reach: float,
) -> Float32[np.ndarray, " 2 *space"]:
    mask, ground = pair[0], ~pair[0] & ~pair[1]
    inside, outside = distance_map(~ground, spacing), distance_map(~mask, spacing)
    # The edge lies half a pixel from the middles of both pixels beside it.
    signed = np.where(mask, inside - 0.5, 0.5 - outside)
    ridge = hard_skeleton(mask) | hard_skeleton(ground)
    return np.stack([np.clip(signed / reach, -1, 1), ridge]).astype(np.float32)


_known_maps = once_per_content(_maps)
