"""Same-class neighbour penalisation: train each pixel on the worst score among its neighbours.

Notation: z scores of one class, t its target, W the k^d window around a pixel.

    z'(x) = min of z over the pixels of W(x) with t = 1, if t(x) = 1
            max of z over the pixels of W(x) with t = 0, if t(x) = 0

Any loss of z' then pays for a pixel as much as for its worst neighbour of the same class, so gaps
and false bridges weigh most.  Source: Valverde et al., Same-Class Neighbor Penalization (2026).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn.functional import max_pool2d, max_pool3d

from geo3d.errors import ConfigError
from geo3d.topology.losses.inputs import check_inputs, hard_labels, one_hot, working
from geo3d.topology.losses.overlap import ce_dice_loss


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
