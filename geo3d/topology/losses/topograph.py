"""Topograph: the regions where prediction and label differ, and which of them matter.

Notation: P predicted and T true mask of a class.  The image falls into connected regions of four
kinds: both (P and T), neither, false (P alone), missed (T alone).  A false or missed region may
change sides without any effect on the topology if it touches exactly one region of "both" and
exactly one of "neither": then it only moves an edge.  All other such regions are *critical*: they
join, cut, fill, open, or stand alone.

    loss = CE + Dice term + lambd x mean over critical regions of their mean cross-entropy

Nothing but labels of regions and a table of neighbours is needed, so the time is linear in the
pixels.  Where no region is critical, no single difference changes the topology; only differences
that touch each other may, in 3 of 60 random pairs of a test.  Images only.

Source: Lux, Berger, Weers et al., Topograph: an efficient graph-based framework for strictly
topology preserving image segmentation (ICLR 2025).  Here "both" touches over corners and "neither"
over sides (8 and 4 neighbours, as everywhere), and a region's mean is that of its cross-entropy,
which keeps a gradient where the network is sure.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor
from typing_extensions import Unpack

from geo3d.errors import InputError
from geo3d.topology.grids import Pixels, check_pixels, label_components
from geo3d.topology.losses.batch import Batch
from geo3d.topology.losses.memory import in_threads
from geo3d.topology.losses.options import Options, judge
from geo3d.topology.losses.overlap import ce_dice_items


def topograph_loss(
    logits: Float[Tensor, "b c *space"],
    target: Shaped[Tensor, "*any"],
    *,
    lambd: float = 0.1,
    pixels: Pixels = "cells",
    **options: Unpack[Options],
) -> Float[Tensor, "*b"]:
    """Return cross-entropy + Dice term + lambd x critical regions.

    Args:
        logits: scores of images.
        target: labels or soft target, whose likeliest labels are the true mask.
        lambd: weight of the critical regions.
        pixels: how pixels touch, see `geo3d.topology.grids`.
        options: see `Options`.

    Raises:
        InputError, ConfigError: see `geo3d.topology.losses.options.judge`; "loss.images_only";
            "topology.unknown_pixels".
    """
    check_pixels(pixels)

    def items(batch: Batch) -> Tensor:
        return ce_dice_items(batch) + lambd * topograph_items(batch, pixels)

    return judge(items, logits, target, options)


def topograph_items(batch: Batch, pixels: Pixels = "cells") -> Float[Tensor, " b"]:
    """Return the mean cross-entropy of the critical regions of each item; 0 where there is none."""
    if batch.n_dims != 2:
        raise InputError(
            "loss.images_only", "Topograph judges images, not volumes.", "Take warping for volumes."
        )
    shape = batch.own.shape
    pairs = zip(
        batch.guesses.reshape(-1, *shape[2:]), batch.true_masks.reshape(-1, *shape[2:]), strict=True
    )
    found = in_threads(lambda pair: critical_regions(*pair, pixels), list(pairs))
    regions = torch.from_numpy(np.stack(found).reshape(shape)).to(batch.logits.device)
    yes, no = (part[:, batch.judged.start :] for part in batch.log_p)
    entropy = batch.within(-(batch.wanted * yes + (1 - batch.wanted) * no))
    rows = [
        torch.stack([_region_mean(e, r) for e, r in zip(es, rs, strict=True)])
        for es, rs in zip(entropy, regions, strict=True)
    ]
    return batch.channel_mean(torch.stack(rows))


def _region_mean(entropy: Float[Tensor, "h w"], regions: Int64[Tensor, "h w"]) -> Float[Tensor, ""]:
    count = int(regions.max())
    if count == 0:
        return entropy.sum() * 0
    flat = entropy.flatten()
    total = flat.new_zeros(count + 1).index_add(0, regions.flatten(), flat)
    size = torch.bincount(regions.flatten(), minlength=count + 1).to(flat)
    return (total[1:] / size[1:]).mean()


def critical_regions(
    predicted: Bool[np.ndarray, "h w"], true: Bool[np.ndarray, "h w"], pixels: Pixels = "cells"
) -> Int64[np.ndarray, "h w"]:
    """Return the critical regions, numbered from 1; 0 elsewhere."""
    corners = pixels == "cells"
    p, t = np.pad(predicted, 1), np.pad(true, 1)
    both = label_components(p & t, corners=corners)[0]
    neither = label_components(~p & ~t, corners=not corners)[0]
    wrong = np.zeros(p.shape, np.int64)
    count = 0
    for part in (p & ~t, t & ~p):
        # A false region belongs to P, where it hangs together as the foreground does; a missed one
        # to the background of P and to T, so that it hangs together as the foreground does, too.
        labels, n = label_components(part, corners=corners)
        wrong[part] = labels[part] + count
        count += n
    touched = _neighbours(wrong, both, count, corners=corners)
    touched_out = _neighbours(wrong, neither, count, corners=not corners)
    is_critical = (touched != 1) | (touched_out != 1)
    is_critical[0] = False
    numbers = np.where(is_critical, np.cumsum(is_critical), 0)
    return numbers[wrong][1:-1, 1:-1]


def _neighbours(
    regions: Int64[np.ndarray, "h w"], others: np.ndarray, count: int, *, corners: bool
) -> Int64[np.ndarray, " n"]:
    """Return for each region how many different other regions it touches."""
    steps = [(0, 1), (1, 0), *(((1, 1), (1, -1)) if corners else ())]
    pairs = []
    for dy, dx in steps:
        one = (slice(0, -1 if dy else None), slice(0, -1) if dx > 0 else slice(-dx, None))
        two = (slice(dy, None), slice(dx, None) if dx >= 0 else slice(0, dx))
        for a, b in ((regions[one], others[two]), (regions[two], others[one])):
            meets = (a > 0) & (b > 0)
            pairs.append(np.stack([a[meets], b[meets].astype(np.int64)]))
    found = np.unique(np.concatenate(pairs, axis=1), axis=1)
    return np.bincount(found[0], minlength=count + 1)
