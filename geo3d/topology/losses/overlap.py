"""Losses of overlap: cross-entropy, Dice, their sum, the region-wise loss, and SCNP around them.

Notation: z scores, p = softmax(z), t one map per class (or soft target), N pixels.

* `cross_entropy`: -sum_c w_c mean over b, x of t_c log p_c.
* `dice_term`: -mean over b, c of w_c (2 sum p t + e) / (sum t + sum p + e), e = 1e-5, in [-1, 0].
* `region_wise_loss`: mean over b, c, x of p R with R from `geo3d.topology.grids`.

None of them knows about topology: they are the base that topology terms are added to.
Sources: Milletari et al., V-Net (2016); Valverde & Tohka, Region-wise loss for biomedical image
segmentation (2023).

Same-class neighbour penalisation (`scnp_loss`): train each pixel on the worst score among its
neighbours.

Notation: z scores of one class, t its target, W the k^d window around a pixel.

    z'(x) = min of z over the pixels of W(x) with t = 1, if t(x) = 1
            max of z over the pixels of W(x) with t = 0, if t(x) = 0

Any loss of z' then pays for a pixel as much as for its worst neighbour of the same class, so gaps
and false bridges weigh most.  Source: Valverde et al., Same-Class Neighbor Penalization (2026).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn.functional import max_pool2d, max_pool3d

from geo3d.errors import ConfigError
from geo3d.topology.grids import region_wise_map
from geo3d.topology.losses.inputs import (
    check_inputs,
    hard_labels,
    in_threads,
    is_soft,
    once_per_target,
    one_hot,
    probabilities,
    working,
)

TINY = 1e-15
"""Added to probabilities before the logarithm in the published cross-entropy."""


def cross_entropy(
    logits: Float[Tensor, "b c *space"],
    target: Shaped[Tensor, "*any"],
    *,
    weights: Sequence[float] | None = None,
    compat: bool = False,
) -> Float[Tensor, ""]:
    """Return the cross-entropy per pixel; ``weights`` multiply per class.

    The default takes the logarithm of the softmax in one step, so a very wrong pixel keeps its
    gradient; ``compat`` adds 1e-15 to the probability and takes its logarithm.

    Raises:
        InputError: see `check_inputs`.
        ConfigError: "loss.bad_weights".
    """
    check_inputs(logits, target)
    truth = one_hot(target, logits)
    if compat:
        log_p = torch.log(probabilities(logits) + TINY)
    else:
        log_p = torch.log_softmax(working(logits), dim=1)
    axes = [0, *range(2, logits.ndim)]
    return -(class_weights(weights, truth) * (truth * log_p).mean(dim=axes)).sum()


def dice_term(
    logits: Float[Tensor, "b c *space"],
    target: Shaped[Tensor, "*any"],
    *,
    weights: Sequence[float] | None = None,
    smooth: float = 1e-5,
) -> Float[Tensor, ""]:
    """Return minus the mean soft Dice over items and all classes, the background too; -1 is best.

    Raises:
        InputError: see `check_inputs`.
        ConfigError: "loss.bad_weights".
    """
    check_inputs(logits, target)
    truth, p = one_hot(target, logits), probabilities(logits)
    axes = list(range(2, logits.ndim))
    shared = (p * truth).sum(dim=axes)
    total = p.sum(dim=axes) + truth.sum(dim=axes)
    return -(class_weights(weights, truth) * (2 * shared + smooth) / (total + smooth)).mean()


def ce_dice_loss(
    logits: Float[Tensor, "b c *space"],
    target: Shaped[Tensor, "*any"],
    *,
    lambda_ce: float = 1.0,
    lambda_dice: float = 1.0,
    weights: Sequence[float] | None = None,
    compat: bool = False,
) -> Float[Tensor, ""]:
    """Return lambda_ce x cross-entropy + lambda_dice x Dice term; the best value is -lambda_dice.

    Raises:
        InputError: see `check_inputs`.
        ConfigError: "loss.bad_weights".
    """
    ce = cross_entropy(logits, target, weights=weights, compat=compat)
    return lambda_ce * ce + lambda_dice * dice_term(logits, target, weights=weights)


def region_wise_loss(
    logits: Float[Tensor, "b c *space"], target: Shaped[Tensor, "*any"], *, compat: bool = False
) -> Float[Tensor, ""]:
    """Return the mean of probability times region-wise map: far from the edge weighs more.

    A class that is absent has the map +1, one that fills its image -1.  A soft target t mixes the
    maps of its most likely labels with itself: R_c = 1 - t_c (1 - R_c), so that an unsure pixel
    pulls less.  ``compat`` for soft targets is the published code, whose branch is the wrong way
    round: the map is the same for every class and the gradient is zero.

    Raises:
        InputError: see `check_inputs`.
    """
    check_inputs(logits, target)
    p = probabilities(logits)
    return (p * region_maps(target, p, compat=compat)).mean()


def region_maps(
    target: Shaped[Tensor, "*any"], like: Float[Tensor, "b c *space"], *, compat: bool = False
) -> Float[Tensor, "b c *space"]:
    """Return the region-wise maps of every item and class, without gradient."""
    soft = is_soft(target)
    region = _label_maps(target, like.shape[1], soft and compat).to(like)
    if not soft or compat:
        return region
    truth = one_hot(target, like).detach()
    return 1 - truth * (1 - region)


@once_per_target
def _label_maps(target: Tensor, n_classes: int, nonzero: bool) -> Float[Tensor, "b c ..."]:
    """Return the maps of the labels, or of where each class of a soft target is not zero."""
    if nonzero:
        masks = (target != 0).cpu().numpy()
    else:
        labels = hard_labels(target).cpu().numpy()
        masks = np.stack([labels == c for c in range(n_classes)], axis=1)
    maps = in_threads(region_wise_map, masks.reshape(-1, *masks.shape[2:]))
    return torch.from_numpy(np.stack(maps).reshape(masks.shape))


def class_weights(
    weights: Sequence[float] | None, like: Float[Tensor, "b c *space"]
) -> Float[Tensor, " c"]:
    """Return one weight per class (ones if none are given) beside a tensor.

    Raises:
        ConfigError: "loss.bad_weights" unless there is one finite weight of at least 0 per class.
    """
    n = like.shape[1]
    if weights is None:
        return like.new_ones(n)
    found = torch.as_tensor(list(weights), dtype=torch.float64)
    if found.numel() != n or not bool(torch.isfinite(found).all()) or bool((found < 0).any()):
        raise ConfigError(
            "loss.bad_weights",
            f"Weights {list(weights)} do not fit {n} classes.",
            "Give one number of at least 0 per class, the background first.",
        )
    return found.to(like)


def worst_neighbour_logits(
    logits: Float[Tensor, "b c *space"], target: Shaped[Tensor, "*any"], size: int = 3
) -> Float[Tensor, "b c *space"]:
    """Return for each pixel and class the worst score in a window of odd ``size``.

    The gradient goes to the pixel that was worst.  A soft target counts as its likeliest labels.

    Raises:
        InputError: see `check_inputs`.
        ConfigError: "loss.bad_window".
    """
    check_inputs(logits, target)
    if size < 1 or size % 2 == 0:
        raise ConfigError(
            "loss.bad_window", f"A window of {size} pixels has no middle.", "Give 1, 3, 5 ..."
        )
    z = working(logits)
    inside = one_hot(hard_labels(target), logits).bool()
    # One pooling serves both: scores of the other kind of pixel never win the maximum.
    lowest = -_pool(torch.where(inside, -z, -torch.inf), size)
    highest = _pool(torch.where(inside, -torch.inf, z), size)
    return torch.where(inside, lowest, highest)


def scnp_loss(
    logits: Float[Tensor, "b c *space"],
    target: Shaped[Tensor, "*any"],
    *,
    size: int = 3,
    loss: Callable[..., Tensor] = ce_dice_loss,
    **settings: Any,
) -> Float[Tensor, ""]:
    """Return a loss of the worst neighbours' scores; ``settings`` go to that loss.

    Raises:
        InputError: see `check_inputs`.
        ConfigError: "loss.bad_window".
    """
    return loss(worst_neighbour_logits(logits, target, size), target, **settings)


def _pool(values: Tensor, size: int) -> Tensor:
    pool = max_pool2d if values.ndim == 4 else max_pool3d
    return pool(values, size, stride=1, padding=size // 2)
