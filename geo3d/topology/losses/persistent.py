"""TopoLoss: push birth and death of features until as many stay as the truth has.

Notation: u the probability of one class, g its true mask, both cut into patches.  A patch of g with
n features of a dimension (components; holes) wants the n most persistent ones of u:

* wanted: (1 - u(birth))^2 + u(death)^2, so the feature is born at 1 and dies at 0;
  a wanted feature that is missing has nothing to pull at and costs nothing;
* all others with persistence above ``minimum``: (u(birth) - u(death))^2, so both move together; the
  component that never dies counts as dying at 0, without a pixel.

    loss = cross-entropy + lambd x (sum over features) / (number of pixels of all foreground maps)

which for several classes is the mean over foreground classes, each against the rest.

``compat`` is the published code: u is softmax applied twice, g the *background*, components only
and without the one that never dies, birth pushed to 0 and death to 1, the death of a feature to be
removed looked up in the first patch, patches with unequal sides scrambled; a later feature
overwrites an earlier one at the same pixel; patches where u or g has a single component are left
out.  Features that die at the same pixel come in the order in which the published persistence code
meets its edges, which `geo3d.topology.merging.FIRST_MET` reproduces.

Source: Hu et al., Topology-preserving deep image segmentation (NeurIPS 2019).

Persistence loss: as many lasting features as wanted, and nothing else (TopologyLayer style).

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
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from geo3d.errors import ConfigError
from geo3d.topology.grids import Pixels
from geo3d.topology.losses.features import (
    Features,
    cut_patches,
    default_dimensions,
    find_features,
    foreground_maps,
    most_persistent,
    take,
)
from geo3d.topology.losses.inputs import check_inputs, one_hot, probabilities
from geo3d.topology.losses.overlap import ce_dice_loss, cross_entropy


def topo_loss(
    logits: Float[Tensor, "b c *space"],
    target: Shaped[Tensor, "*any"],
    *,
    lambd: float = 100.0,
    patch: int | None = 50,
    dimensions: tuple[int, ...] | None = None,
    minimum: float = 0.03,
    pixels: Pixels = "cells",
    compat: bool = False,
) -> Float[Tensor, ""]:
    """Return cross-entropy plus ``lambd`` times the topology term of the module.

    Args:
        logits: raw scores.
        target: labels or a soft target, of which the most likely labels are taken.
        lambd: weight of the topology term.
        patch: side of the patches; None takes whole images.
        dimensions: which features; None: components and holes (3D: components and cavities; add 1
            for tunnels, whose matrix reduction takes 4 to 8 times as long: 0.4 s for 48^3 voxels).
        minimum: least persistence of a feature to remove.
        pixels: which pixels touch.
        compat: reproduce the published code.

    Raises:
        InputError: see `check_inputs`.
        ConfigError: "loss.bad_patch", "loss.bad_dimensions", "topology.unknown_pixels".
    """
    base = cross_entropy(logits, target, compat=compat)
    if compat:
        return base + lambd * published_term(logits, target, patch, minimum)
    term = topo_term(logits, target, patch, dimensions, minimum=minimum, pixels=pixels)
    return base + lambd * term


def topo_term(
    logits: Float[Tensor, "b c *space"],
    target: Shaped[Tensor, "*any"],
    patch: int | None = 50,
    dimensions: tuple[int, ...] | None = None,
    *,
    minimum: float = 0.03,
    pixels: Pixels = "cells",
) -> Float[Tensor, ""]:
    """Return the topology term alone; arguments and errors as `topo_loss`."""
    check_inputs(logits, target)
    u, masks = foreground_maps(logits, target)
    dims = dimensions or default_dimensions(u.ndim - 1)
    flat = u.reshape(-1)
    patches = cut_patches(tuple(u.shape), patch)
    total = flat.sum() * 0
    found = find_features(u.detach().cpu().numpy(), patches, dims, pixels)
    for features, true in zip(found, find_features(masks, patches, dims, pixels), strict=True):
        wanted = most_persistent(features, np.bincount(true.patch, minlength=len(patches)))
        surplus = ~wanted & (features.persistence > minimum)
        total = total + _pull(flat, features.chosen(wanted)) + _push(flat, features.chosen(surplus))
    return total / flat.numel()


def _pull(flat: Float[Tensor, " n"], features: Features) -> Float[Tensor, ""]:
    born, died = take(flat, features.birth_at), take(flat, features.death_at)
    return ((1 - born) ** 2).sum() + (died**2).sum()


def _push(flat: Float[Tensor, " n"], features: Features) -> Float[Tensor, ""]:
    return ((take(flat, features.birth_at) - take(flat, features.death_at)) ** 2).sum()


def published_term(
    logits: Float[Tensor, "b c *space"],
    target: Shaped[Tensor, "*any"],
    patch: int | None = 50,
    minimum: float = 0.03,
) -> Float[Tensor, ""]:
    """Return the term of the published code; see the module for what is odd about it.

    Raises:
        InputError: see `check_inputs`.
        ConfigError: "loss.bad_patch".
    """
    u = torch.softmax(probabilities(logits), dim=1)[:, 1]
    weight, reference = published_maps(u, one_hot(target, logits)[:, 0], patch, minimum)
    return ((u * weight - reference) ** 2).mean()


def published_maps(
    u: Float[Tensor, "b ..."],
    g: Float[Tensor, "b ..."],
    patch: int | None = 50,
    minimum: float = 0.03,
) -> tuple[Float[Tensor, "b ..."], Float[Tensor, "b ..."]]:
    """Return which pixels the published code pushes, and to what."""
    values = u.detach().cpu().numpy()
    patches = cut_patches(values.shape, patch, scrambled=True)
    mine, theirs = (
        _mortal(find_features(maps, patches, (0,))[0])
        for maps in (values, g.detach().cpu().numpy())
    )
    wanted = np.bincount(theirs.patch, minlength=len(patches))
    mine = mine.chosen(wanted[mine.patch] > 0)
    # Its list of features is sorted by death; of equal persistence the later one counts as larger.
    mine = mine.chosen(np.lexsort((1 - mine.death, mine.patch)))
    back = np.arange(len(mine.patch))[::-1]
    keep = np.empty(len(back), dtype=bool)
    keep[back] = most_persistent(mine.chosen(back), wanted)
    lasting = mine.persistence
    fixed, removed = keep & (lasting <= 0.99), ~keep & (lasting > minimum)
    rows = np.flatnonzero(fixed | removed)
    rows = rows[np.lexsort((removed[rows], mine.patch[rows]))]
    return _published_points(values, mine.chosen(rows), removed[rows], patch, like=u)


def _mortal(features: Features) -> Features:
    return features.chosen(features.death_at >= 0)


def _published_points(
    values: np.ndarray, features: Features, removed: np.ndarray, patch: int | None, like: Tensor
) -> tuple[Tensor, Tensor]:
    """Write births and deaths, feature by feature, into maps of weights and of levels."""
    death_at = np.where(
        removed, _in_first_patch(features.death_at, values.shape, patch), features.death_at
    )
    places = np.stack([features.birth_at, death_at], axis=1).ravel()
    births, deaths = np.where(removed, features.death, 0), np.where(removed, features.birth, 1)
    weight, reference = np.zeros(values.size), np.zeros(values.size)
    weight[places] = 1
    reference[places] = np.stack([births, deaths], axis=1).ravel()
    maps = (torch.from_numpy(each.reshape(values.shape)).to(like) for each in (weight, reference))
    return next(maps), next(maps)


def _in_first_patch(
    places: Int64[np.ndarray, " f"], shape: tuple[int, ...], patch: int | None
) -> Int64[np.ndarray, " f"]:
    """Move pixels of any patch of an image to the same place of its first patch."""
    item, *at = np.unravel_index(places, shape)
    if patch is not None:
        at = [axis % patch for axis in at]
    return np.ravel_multi_index((item, *at), shape).astype(np.int64)


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
