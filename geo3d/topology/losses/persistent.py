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
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor
from typing_extensions import Unpack

from geo3d.errors import ConfigError
from geo3d.topology.grids import Pixels
from geo3d.topology.losses.batch import Batch
from geo3d.topology.losses.features import (
    Features,
    cut_patches,
    find_features,
    most_persistent,
    take,
)
from geo3d.topology.losses.options import Options, eager, judge, published
from geo3d.topology.losses.overlap import ce_dice_items, cross_entropy_items


@eager
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
    **options: Unpack[Options],
) -> Float[Tensor, "*b"]:
    """Return cross-entropy plus ``lambd`` times the topology term of the module.

    Args:
        logits: raw scores.
        target: labels or a soft target, of which the most likely labels are taken.
        lambd: weight of the topology term.
        patch: side of the patches; None takes whole images.
        dimensions: which features; None: components and holes (3D: tunnels and cavities too).
        minimum: least persistence of a feature to remove.
        pixels: which pixels touch.
        compat: reproduce the published code.
        options: see `Options`.

    Raises:
        InputError, ConfigError: see `geo3d.topology.losses.options.judge`; "loss.bad_patch",
            "loss.bad_dimensions", "topology.unknown_pixels".
    """
    if compat:
        published(options)

    def items(batch: Batch) -> Tensor:
        base = cross_entropy_items(batch, compat=compat)
        if compat:
            return base + lambd * _published_items(batch, patch, minimum)
        return base + lambd * _topo_items(batch, patch, dimensions, minimum, pixels)

    return judge(items, logits, target, options)


@eager
def topo_term(
    logits: Float[Tensor, "b c *space"],
    target: Shaped[Tensor, "*any"],
    patch: int | None = 50,
    dimensions: tuple[int, ...] | None = None,
    *,
    minimum: float = 0.03,
    pixels: Pixels = "cells",
    **options: Unpack[Options],
) -> Float[Tensor, "*b"]:
    """Return the topology term alone; arguments and errors as `topo_loss`."""
    items = partial(_topo_items, patch=patch, dimensions=dimensions, minimum=minimum, pixels=pixels)
    return judge(items, logits, target, options)


def _topo_items(
    batch: Batch,
    patch: int | None,
    dimensions: tuple[int, ...] | None,
    minimum: float,
    pixels: Pixels,
) -> Float[Tensor, " b"]:
    """Return the cost of each item per pixel, averaged over the judged channels."""
    maps = _Maps.of(batch, patch, dimensions, pixels)
    total = maps.flat.new_zeros(maps.n)
    for features, true in zip(maps.found(), maps.true(), strict=True):
        wanted = most_persistent(features, np.bincount(true.patch, minlength=len(maps.patches)))
        surplus = ~wanted & (features.persistence > minimum)
        for chosen, cost in ((wanted, _pull), (surplus, _push)):
            kept = features.chosen(chosen)
            total = total + maps.sums(kept, cost(maps.flat, kept))
    return batch.channel_mean(total.reshape(batch.own.shape[:2]) / batch.count)


@dataclass(frozen=True, eq=False)
class _Maps:
    """The judged maps of a batch, cut into patches.

    Attributes:
        flat: probabilities of all maps in a row.
        n: number of maps.
        values: the same maps without gradient, (n, *space).
        masks: the true masks, as numbers.
        patches: pixels of each patch.
        dims: which features are looked for.
        pixels: which pixels touch.
        outside: what is not annotated in each map.
    """

    flat: Float[Tensor, " m"]
    n: int
    values: Float[np.ndarray, "n ..."]
    masks: Float[np.ndarray, "n ..."]
    patches: Int64[np.ndarray, "p ..."]
    dims: tuple[int, ...]
    pixels: Pixels
    outside: Bool[np.ndarray, "n ..."] | None

    @staticmethod
    def of(
        batch: Batch, patch: int | None, dimensions: tuple[int, ...] | None, pixels: Pixels
    ) -> _Maps:
        """Cut the maps of a batch."""
        u = batch.own.flatten(0, 1)
        outside = None
        if batch.outside is not None:
            outside = np.repeat(batch.outside, len(batch.judged), axis=0)
        return _Maps(
            u.reshape(-1),
            len(u),
            u.detach().cpu().numpy(),
            batch.true_masks.reshape(u.shape).astype(np.float32),
            cut_patches(tuple(u.shape), patch),
            dimensions or tuple(range(batch.n_dims)),
            pixels,
            outside,
        )

    def found(self) -> tuple[Features, ...]:
        """Return the features of the prediction."""
        return find_features(self.values, self.patches, self.dims, self.pixels, self.outside)

    def true(self) -> tuple[Features, ...]:
        """Return the features of the truth."""
        return find_features(self.masks, self.patches, self.dims, self.pixels, self.outside)

    def sums(self, features: Features, costs: Float[Tensor, " f"]) -> Float[Tensor, " n"]:
        """Add up a cost per feature, map by map."""
        of_map = torch.from_numpy(features.birth_at // (self.flat.numel() // self.n))
        return self.flat.new_zeros(self.n).index_add(0, of_map.to(self.flat.device), costs)


def _pull(flat: Float[Tensor, " n"], features: Features) -> Float[Tensor, " f"]:
    return (1 - take(flat, features.birth_at)) ** 2 + take(flat, features.death_at) ** 2


def _push(flat: Float[Tensor, " n"], features: Features) -> Float[Tensor, " f"]:
    return (take(flat, features.birth_at) - take(flat, features.death_at)) ** 2


@eager
def published_term(
    logits: Float[Tensor, "b c *space"],
    target: Shaped[Tensor, "*any"],
    patch: int | None = 50,
    minimum: float = 0.03,
) -> Float[Tensor, ""]:
    """Return the term of the published code; see the module for what is odd about it.

    Raises:
        InputError, ConfigError: see `geo3d.topology.losses.options.judge`; "loss.bad_patch".
    """
    items = partial(_published_items, patch=patch, minimum=minimum)
    return judge(items, logits, target, {})


def _published_items(batch: Batch, patch: int | None, minimum: float) -> Float[Tensor, " b"]:
    u = torch.softmax(batch.p, dim=1)[:, 1]
    weight, reference = published_maps(u, batch.truth[:, 0], patch, minimum)
    return ((u * weight - reference) ** 2).flatten(1).mean(dim=1)


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


@eager
def topo_grad_loss(
    logits: Float[Tensor, "b c *space"],
    target: Shaped[Tensor, "*any"],
    *,
    lambd: float = 0.5,
    betti: Sequence[int] | None = None,
    dimensions: tuple[int, ...] | None = None,
    patch: int | None = None,
    pixels: Pixels = "cells",
    compat: bool = False,
    **options: Unpack[Options],
) -> Float[Tensor, "*b"]:
    """Return CE + Dice plus ``lambd`` times the mean cost of the module.

    Args:
        logits: raw scores.
        target: labels or a soft target, of which the most likely labels are taken.
        lambd: weight of the cost.
        betti: wanted numbers of features, one per dimension; None counts them in the target.
        dimensions: which features; None: components and holes (3D: tunnels and cavities too).
        patch: side of patches to look at one by one; None takes whole images.
        pixels: which pixels touch.
        compat: for the overlap terms only, see `ce_dice_loss`.
        options: see `Options`.

    Raises:
        InputError, ConfigError: see `geo3d.topology.losses.options.judge`; "loss.bad_betti",
            "loss.bad_patch", "loss.bad_dimensions", "topology.unknown_pixels".
    """

    def items(batch: Batch) -> Tensor:
        maps = _Maps.of(batch, patch, dimensions, pixels)
        return ce_dice_items(batch, compat=compat) + lambd * _grad_items(batch, maps, betti)

    return judge(items, logits, target, options)


def _grad_items(batch: Batch, maps: _Maps, betti: Sequence[int] | None) -> Float[Tensor, " b"]:
    """Return the cost of each item per `AREA` pixels, averaged over the judged channels."""
    total = maps.flat.new_zeros(maps.n)
    for features, n in zip(maps.found(), _wanted(maps, betti), strict=True):
        lives = take(maps.flat, features.birth_at) - take(maps.flat, features.death_at)
        wanted = most_persistent(features, n)
        signs = torch.from_numpy(np.where(wanted, -1, 1)).to(maps.flat)
        missing = torch.from_numpy(n.reshape(maps.n, -1).sum(axis=1)).to(maps.flat)
        total = total + maps.sums(features, signs * lives) + missing
    return batch.channel_mean(total.reshape(batch.own.shape[:2]) * (AREA / batch.count))


def _wanted(maps: _Maps, betti: Sequence[int] | None) -> list[np.ndarray]:
    """Return for each dimension how many features each patch should have."""
    n = len(maps.patches)
    if betti is None:
        return [np.bincount(each.patch, minlength=n) for each in maps.true()]
    if len(betti) != len(maps.dims) or any(number < 0 for number in betti):
        raise ConfigError(
            "loss.bad_betti",
            f"Wanted numbers {list(betti)} for features of dimensions {maps.dims}.",
            "Give one number of at least 0 per dimension.",
        )
    return [np.full(n, number) for number in betti]
