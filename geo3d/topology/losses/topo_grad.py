"""Persistence loss: as many lasting features as wanted, and nothing else (TopologyLayer style).

Notation: u the probability of one class, features of its superlevel sets with levels b of birth and
d < b of death (0 for the component that never dies), sorted by persistence b - d; beta the wanted
number of features of a dimension.  A wanted feature that is missing has persistence 0, and there
is nothing to pull at.

    cost = sum over the beta most persistent of 1 - (b - d)  +  sum over the others of b - d
    loss = CE + Dice term + weight x mean over images and foreground classes of cost per 48^2 pixels

It knows how many components and holes there should be, not where: the overlap terms say that.
``betti`` fixes the wanted numbers, which needs no label of the topology (one organ, one hole);
without it they are counted in the target.

Sources: Gabrielsson et al., A topology layer for machine learning (AISTATS 2020); Clough et al., A
topological loss function for deep-learning based image segmentation (TPAMI 2020).  The TopoMortar
study lists TopologyLayer but could not run it, so there are no published numbers to reproduce.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from geo3d.errors import ConfigError
from geo3d.topology.grids import Pixels
from geo3d.topology.losses.features import (
    cut_patches,
    default_dimensions,
    find_features,
    foreground_maps,
    most_persistent,
    take,
)
from geo3d.topology.losses.inputs import check_inputs
from geo3d.topology.losses.overlap import ce_dice_loss

AREA = 48 * 48
"""Pixels to which the cost of an image is related, as in the Betti matching loss."""


def topo_grad_loss(
    logits: Float[Tensor, "b c *space"],
    target: Shaped[Tensor, "*any"],
    *,
    weight: float = 0.5,
    betti: Sequence[int] | None = None,
    dimensions: tuple[int, ...] | None = None,
    patch: int | None = None,
    pixels: Pixels = "cells",
    compat: bool = False,
) -> Float[Tensor, ""]:
    """Return CE + Dice plus ``weight`` times the mean cost of the module.

    Args:
        logits: raw scores.
        target: labels or a soft target, of which the most likely labels are taken.
        weight: of the cost.
        betti: wanted numbers of features, one per dimension; None counts them in the target.
        dimensions: which features; None: components and holes (3D: components and cavities).
        patch: side of patches to look at one by one; None takes whole images.
        pixels: which pixels touch.
        compat: for the overlap terms only, see `ce_dice_loss`.

    Raises:
        InputError: see `check_inputs`.
        ConfigError: "loss.bad_betti", "loss.bad_patch", "loss.bad_dimensions",
            "topology.unknown_pixels".
    """
    base = ce_dice_loss(logits, target, compat=compat)
    term = topo_grad_term(
        logits, target, betti=betti, dimensions=dimensions, patch=patch, pixels=pixels
    )
    return base + weight * term


def topo_grad_term(
    logits: Float[Tensor, "b c *space"],
    target: Shaped[Tensor, "*any"],
    *,
    betti: Sequence[int] | None = None,
    dimensions: tuple[int, ...] | None = None,
    patch: int | None = None,
    pixels: Pixels = "cells",
) -> Float[Tensor, ""]:
    """Return the cost alone; arguments and errors as `topo_grad_loss`."""
    check_inputs(logits, target)
    u, masks = foreground_maps(logits, target)
    dims = dimensions or default_dimensions(u.ndim - 1)
    patches = cut_patches(tuple(u.shape), patch)
    flat = u.reshape(-1)
    found = find_features(u.detach().cpu().numpy(), patches, dims, pixels)
    total = flat.sum() * 0
    for features, n in zip(found, _wanted(masks, patches, dims, pixels, betti), strict=True):
        lives = take(flat, features.birth_at) - take(flat, features.death_at)
        wanted = most_persistent(features, n)
        signs = torch.from_numpy(np.where(wanted, -1, 1)).to(flat)
        total = total + (signs * lives).sum() + int(n.sum())
    return total * (AREA / flat.numel())


def _wanted(
    masks: np.ndarray,
    patches: np.ndarray,
    dims: tuple[int, ...],
    pixels: Pixels,
    betti: Sequence[int] | None,
) -> list[np.ndarray]:
    """Return for each dimension how many features each patch should have."""
    if betti is None:
        true = find_features(masks, patches, dims, pixels)
        return [np.bincount(each.patch, minlength=len(patches)) for each in true]
    if len(betti) != len(dims) or any(n < 0 for n in betti):
        raise ConfigError(
            "loss.bad_betti",
            f"Wanted numbers {list(betti)} for features of dimensions {dims}.",
            "Give one number of at least 0 per dimension.",
        )
    return [np.full(len(patches), n) for n in betti]
