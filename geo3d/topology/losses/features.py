"""Features of probability maps, patch by patch, with the pixels that a loss can push.

Notation: u a probability map, superlevel sets {u >= t}, t from 1 to 0.  A feature of dimension 0 is
a component, of the last dimension a hole (3D: cavity), of dimension 1 in 3D a tunnel.  It is born
at a pixel with u = birth and dies at one with u = death < birth.  The component that never dies is
taken to die at level 0, without a pixel (-1).  Pixels are flat indices into all maps together.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import prod

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor

from geo3d.errors import ConfigError
from geo3d.topology.grids import Pixels, check_pixels
from geo3d.topology.merging import Stack, cavity_merges, component_merges, stack
from geo3d.topology.tunnels import births_and_deaths


@dataclass(frozen=True)
class Features:
    """Features of one dimension.

    Attributes:
        patch: number of the patch that holds each.
        birth_at: pixel of birth.
        death_at: pixel of death, -1 for the component that never dies.
        birth: level of birth.
        death: level of death, 0 for the component that never dies.
    """

    patch: Int[np.ndarray, " f"]
    birth_at: Int[np.ndarray, " f"]
    death_at: Int[np.ndarray, " f"]
    birth: Float[np.ndarray, " f"]
    death: Float[np.ndarray, " f"]

    @property
    def persistence(self) -> Float[np.ndarray, " f"]:
        """How far birth and death are apart."""
        return self.birth - self.death

    def chosen(self, which: np.ndarray) -> Features:
        """Return some of the features."""
        rows = (self.patch, self.birth_at, self.death_at, self.birth, self.death)
        return Features(*(row[which] for row in rows))


def cut_patches(
    shape: tuple[int, ...], patch: int | None, *, scrambled: bool = False
) -> Int64[np.ndarray, "p ..."]:
    """Return the pixels of each patch of maps (n, *space); -1 pads patches at the far ends.

    Args:
        shape: number of maps and size of one.
        patch: length of a side; None takes each map whole.
        scrambled: order pixels as the published code's persistence reads them: a patch with sides
            of different lengths is written row by row and read column by column.

    Raises:
        ConfigError: "loss.bad_patch".
    """
    if patch is not None and patch < 2:
        raise ConfigError("loss.bad_patch", f"A patch of {patch} pixels.", "Give 2 or more.")
    n, space = shape[0], shape[1:]
    one = _cut_one(space, patch or max(space), scrambled)
    start = np.arange(n).reshape(n, *(1 for _ in one.shape)) * prod(space)
    return np.where(one < 0, -1, one + start).reshape(-1, *one.shape[1:])


@lru_cache(maxsize=16)
def _cut_one(space: tuple[int, ...], patch: int, scrambled: bool) -> Int64[np.ndarray, "p ..."]:
    sides = tuple(min(patch, n) for n in space)
    counts = tuple(-(-n // side) for n, side in zip(space, sides, strict=True))
    wide = [(0, k * side - n) for k, side, n in zip(counts, sides, space, strict=True)]
    index = np.pad(np.arange(prod(space)).reshape(space), wide, constant_values=-1)
    split = index.reshape([m for pair in zip(counts, sides, strict=True) for m in pair])
    axes = [*range(0, 2 * len(space), 2), *range(1, 2 * len(space), 2)]
    patches = np.ascontiguousarray(split.transpose(axes)).reshape(-1, *sides)
    if scrambled:
        for each in patches:
            box = tuple(
                slice(int(np.any(each >= 0, axis=_but(k, each)).sum())) for k in range(each.ndim)
            )
            each[box] = each[box].ravel().reshape(each[box].shape, order="F")
    patches.setflags(write=False)
    return patches


def _but(axis: int, array: np.ndarray) -> tuple[int, ...]:
    return tuple(k for k in range(array.ndim) if k != axis)


def find_features(
    maps: Float[np.ndarray, "n ..."],
    patches: Int64[np.ndarray, "p ..."],
    dimensions: tuple[int, ...],
    pixels: Pixels = "cells",
    outside: Bool[np.ndarray, "n ..."] | None = None,
) -> tuple[Features, ...]:
    """Return the features of each dimension asked for.

    Args:
        maps: probability maps.
        patches: pixels of each patch, see `cut_patches`.
        dimensions: which features.
        pixels: which pixels touch.
        outside: pixels that are not looked at; they count as lying beyond the border.

    Raises:
        ConfigError: "topology.unknown_pixels"; "loss.bad_dimensions".
    """
    check_pixels(pixels)
    n_dims = patches.ndim - 1
    check_feature_dimensions(dimensions, n_dims)
    present = patches >= 0
    if outside is not None:
        present &= ~outside.reshape(-1)[patches]
    values = maps.reshape(-1)[patches]
    sorted_stack = stack(values, None if present.all() else present)
    found = []
    for dimension in dimensions:
        if dimension == 0:
            pairs = _components(values.reshape(-1), sorted_stack, pixels)
        elif dimension == n_dims - 1:
            merges = cavity_merges(sorted_stack, pixels)
            pairs = merges.at, merges.began()
        else:
            pairs = births_and_deaths(sorted_stack, pixels)
        found.append(_features(maps.reshape(-1), patches, *pairs))
    return tuple(found)


def check_feature_dimensions(dimensions: tuple[int, ...], n_dims: int) -> None:
    """Refuse dimensions that images or volumes do not have (code "loss.bad_dimensions")."""
    if not dimensions or any(k not in range(n_dims) for k in dimensions):
        raise ConfigError(
            "loss.bad_dimensions",
            f"Features of dimensions {tuple(dimensions)} in {n_dims}D.",
            "Images have 0 (components) and 1 (holes), volumes 0, 1 (tunnels) and 2 (cavities).",
        )


def _components(
    values: np.ndarray, sorted_stack: Stack, pixels: Pixels
) -> tuple[np.ndarray, np.ndarray]:
    """Return births and deaths in the stack of patches, those that never die included."""
    merges = component_merges(sorted_stack, pixels)
    eldest = sorted_stack.eldest()
    births = np.concatenate([merges.began(), eldest])
    return births, np.concatenate([merges.at, np.full(eldest.size, -1, dtype=np.int32)])


def _features(
    flat: np.ndarray, patches: np.ndarray, born: np.ndarray, died: np.ndarray
) -> Features:
    """Turn places in the stack of patches into pixels of the maps; drop what dies at once."""
    source = patches.reshape(-1)
    birth_at = source[born]
    death_at = np.where(died < 0, -1, source[died])
    birth = flat[birth_at]
    death = np.where(died < 0, np.zeros_like(birth), flat[death_at])
    every = Features(born // prod(patches.shape[1:]), birth_at, death_at, birth, death)
    return every.chosen(birth > death)


def most_persistent(features: Features, wanted: Int[np.ndarray, " p"]) -> Bool[np.ndarray, " f"]:
    """Say which features are among the ``wanted[patch]`` most persistent of their patch."""
    order = np.lexsort((-features.persistence, features.patch))
    patch = features.patch[order]
    first = np.searchsorted(patch, np.arange(len(wanted)))
    chosen = np.zeros(len(order), dtype=bool)
    chosen[order] = np.arange(len(order)) - first[patch] < wanted[patch]
    return chosen


def take(flat: Float[Tensor, " n"], places: Int[np.ndarray, "*f"]) -> Float[Tensor, "*f"]:
    """Return entries by index; index -1 gives 0."""
    index = torch.from_numpy(places.astype(np.int64)).to(flat.device)
    return torch.where(index < 0, 0.0, flat[index.clamp(min=0)])
