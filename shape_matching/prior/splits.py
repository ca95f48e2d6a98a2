"""Maps for training and maps held out, split by creature: no animal is on both sides.

Notation: n maps, k their size.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from geo3d.device import item_generator
from geo3d.errors import ConfigError, InputError
from shape_matching.prior.map_shards import load_maps, load_provenance

GROUP = "creature"
"""Provenance column that tells which maps are of the same creature."""


@dataclass(frozen=True, eq=False)
class MapSplit:
    """Absolute functional maps on the CPU."""

    train: Float[Tensor, "n 1 k k"]
    validation: Float[Tensor, "m 1 k k"]


def load_split(folder: str, size: int, share: float, seed: int) -> MapSplit:
    """Read a folder of maps and hold out all maps of a ``share`` of its creatures.

    Raises:
        ConfigError: ``prior_training.no_data``.
        InputError: ``prior_training.one_creature``; errors of `load_maps`.
    """
    if not folder:
        raise ConfigError(
            "prior_training.no_data",
            "There is no folder of functional maps to learn from.",
            "Name it with --data; `geo3d data prior` makes one.",
        )
    maps = torch.from_numpy(load_maps(folder, size))[:, None]
    columns = load_provenance(folder)
    # Maps without this column (of registered scans, say) are split one by one.
    groups = columns.get(GROUP, np.arange(len(maps)))
    held_out = torch.from_numpy(held_out_rows(groups, share, seed))
    return MapSplit(maps[~held_out], maps[held_out])


def maps_digest(split: MapSplit) -> str:
    """Return a hash of all maps and of which are held out."""
    digest = hashlib.sha256(split.train.numpy().tobytes())
    digest.update(split.validation.numpy().tobytes())
    return digest.hexdigest()


def held_out_rows(
    groups: Shaped[np.ndarray, " n"], share: float, seed: int
) -> Shaped[np.ndarray, " n"]:
    """Return a mask of the rows of a random ``share`` of the groups, at least one and not all.

    Raises:
        InputError: ``prior_training.one_creature``.
    """
    names = np.unique(groups)
    if len(names) < 2:
        raise InputError(
            "prior_training.one_creature",
            "All maps are of one creature, so none can be held out.",
            "Make maps of more creatures.",
        )
    order = torch.randperm(len(names), generator=item_generator(seed, "held out")).numpy()
    count = min(max(1, round(share * len(names))), len(names) - 1)
    return np.isin(groups, names[order[:count]])
