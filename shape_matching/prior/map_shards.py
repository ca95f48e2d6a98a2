"""Folders of functional maps: what spectral priors are trained on.

    maps-0000.npz ...   fmaps (n, k, k) float16 with signs, evals_source and evals_target (n, k)
                        float32, one array of length n per provenance column, failures, key
    index.json          see `geo3d.work.shards`, and the names of the columns

Row m of ``fmaps`` carries functions from its source to its target (`geo3d.spectral.fmap`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from geo3d.errors import InputError
from geo3d.work import shards
from geo3d.work.shards import BOOKKEEPING, ShardKind

_MAPS = ("fmaps", "evals_source", "evals_target")


@dataclass(frozen=True, eq=False)
class MapBatch:
    """Functional maps with where they come from."""

    fmaps: np.ndarray
    """(n, k, k) float16, with signs."""
    evals_source: np.ndarray
    """(n, k) float32, of shapes of unit area."""
    evals_target: np.ndarray
    columns: Mapping[str, np.ndarray]
    """Provenance: arrays of length n."""

    def __len__(self) -> int:
        return len(self.fmaps)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return all arrays by name."""
        return {**{name: getattr(self, name) for name in _MAPS}, **self.columns}


def map_shards(columns: Iterable[str]) -> ShardKind[MapBatch]:
    """Return how shards of maps with these columns are stored."""
    names = (*_MAPS, *BOOKKEEPING, *columns)
    return ShardKind("maps", "maps", 1, names, MapBatch.arrays, _build, False, 1 << 30)


def joined(batches: Sequence[MapBatch]) -> MapBatch:
    """Return the batches one after the other."""
    every = [batch.arrays() for batch in batches]
    return _batch({name: np.concatenate([one[name] for one in every]) for name in every[0]})


def read_index(folder: str | Path) -> dict[str, Any]:
    """Return the content of ``index.json``; see `geo3d.work.shards.read_index`."""
    return shards.read_index(map_shards(()), folder)


def load_maps(folder: str | Path, size: int) -> Float32[np.ndarray, "n s s"]:
    """Return the absolute values of all maps, cropped to ``size``.

    Raises:
        InputError: ``prior_data.bad_size``, and those of `geo3d.work.shards.read_all`.
    """
    batches = _read(folder)
    k = min(batch.fmaps.shape[-1] for batch in batches)
    if not 1 <= size <= k:
        raise InputError(
            "prior_data.bad_size", f"Maps of {size} rows are asked for; {folder} has {k}.", ""
        )
    return np.concatenate([np.abs(s.fmaps[:, :size, :size]).astype(np.float32) for s in batches])


def load_provenance(folder: str | Path) -> dict[str, np.ndarray]:
    """Return the provenance columns and both eigenvalue tables, one row per map.

    Raises:
        As `geo3d.work.shards.read_all`.
    """
    tables = [batch.arrays() for batch in _read(folder)]
    names = [name for name in tables[0] if name != "fmaps"]
    return {name: np.concatenate([table[name] for table in tables]) for name in names}


def _read(folder: str | Path) -> list[MapBatch]:
    columns = read_index(folder).get("columns", ())
    return shards.read_all(map_shards(map(str, columns)), folder)


def _build(arrays: dict[str, np.ndarray]) -> MapBatch:
    n, k = len(arrays["fmaps"]), arrays["fmaps"].shape[-1] if arrays["fmaps"].ndim == 3 else 0
    shapes = {**dict.fromkeys(arrays, (n,)), "fmaps": (n, k, k)}
    shapes |= {"evals_source": (n, k), "evals_target": (n, k)}
    wrong = [name for name, shape in shapes.items() if arrays[name].shape != shape]
    if wrong or arrays["fmaps"].dtype != np.float16:
        raise ValueError(f"its arrays do not fit each other ({', '.join(wrong) or 'fmaps'})")
    return _batch(arrays)


def _batch(arrays: dict[str, np.ndarray]) -> MapBatch:
    columns = {name: array for name, array in arrays.items() if name not in _MAPS}
    return MapBatch(*(arrays[name] for name in _MAPS), columns=columns)
