"""Folders of functional maps: what spectral priors are trained on.

    maps-0000.npz ...   fmaps (n, k, k) float16 with signs, evals_source and evals_target (n, k)
                        float32, one array of length n per provenance column, failures, key
    index.json          settings, versions, counts and hashes; written last

Row m of ``fmaps`` carries functions from its source to its target (`geo3d.spectral.fmap`).  ``key``
is a hash of settings and shard number: an existing shard with the same key is kept on resume.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from geo3d import __version__
from geo3d.errors import FileFormatError, InputError
from geo3d.files import atomic_path, atomic_write_json
from geo3d.npz import read_npz

FORMAT = 1
"""Part of the key of every shard; raised when the generators or the format change."""
INDEX = "index.json"
SHARD_BYTES = 1 << 30
_ARRAYS = ("fmaps", "evals_source", "evals_target", "failed_ids", "failed_codes", "key")


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
    failures: Mapping[int, str] = field(default_factory=dict)
    """Items that gave no maps, with the code and text of their error."""

    def __len__(self) -> int:
        return len(self.fmaps)


def joined(batches: Sequence[MapBatch], failures: Mapping[int, str], empty: MapBatch) -> MapBatch:
    """Return the batches one after the other; ``empty`` gives dtypes and columns."""
    parts = [empty, *batches]
    return MapBatch(
        *(
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("fmaps", "evals_source", "evals_target")
        ),
        {name: np.concatenate([part.columns[name] for part in parts]) for name in empty.columns},
        failures,
    )


def shard_path(folder: Path, number: int) -> Path:
    """Return the file of a shard."""
    return folder / f"maps-{number:04d}.npz"


def shard_key(settings: Mapping[str, Any], number: int) -> str:
    """Return the hash under which a shard of these settings is known."""
    text = json.dumps([FORMAT, dict(settings), number], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def write_shard(folder: Path, number: int, batch: MapBatch, key: str) -> Path:
    """Write one shard whole or not at all; equal content gives equal bytes."""
    path = shard_path(folder, number)
    failed = sorted(batch.failures)
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        np.savez(
            stream,
            fmaps=batch.fmaps,
            evals_source=batch.evals_source,
            evals_target=batch.evals_target,
            failed_ids=np.array(failed, np.int64),
            failed_codes=np.array([batch.failures[i] for i in failed], np.str_),
            key=np.array(key),
            **batch.columns,
        )
    return path


def read_shard(path: Path, columns: Sequence[str]) -> tuple[MapBatch, str]:
    """Return a shard and its key.

    Raises:
        ValueError: the file is no such shard.
        OSError: the file cannot be read.
    """
    arrays = read_npz(path, [*_ARRAYS, *columns], SHARD_BYTES)
    fmaps = arrays["fmaps"]
    n, k = len(fmaps), fmaps.shape[-1] if fmaps.ndim == 3 else 0
    shapes = {"fmaps": (n, k, k), "evals_source": (n, k), "evals_target": (n, k)}
    shapes |= dict.fromkeys(columns, (n,))
    wrong = [name for name, shape in shapes.items() if arrays[name].shape != shape]
    if wrong or fmaps.dtype != np.float16:
        raise ValueError(f"its arrays do not fit each other ({', '.join(wrong) or 'fmaps'})")
    failures = dict(
        zip(arrays["failed_ids"].tolist(), arrays["failed_codes"].tolist(), strict=True)
    )
    batch = MapBatch(
        fmaps,
        arrays["evals_source"],
        arrays["evals_target"],
        {name: arrays[name] for name in columns},
        failures,
    )
    return batch, str(arrays["key"])


def kept_shard(folder: Path, number: int, key: str, columns: Sequence[str]) -> bool:
    """Return whether a sound shard with this key is already there."""
    try:
        _, found = read_shard(shard_path(folder, number), columns)
    except (OSError, ValueError):
        return False
    return found == key


def write_index(
    folder: Path,
    settings: Mapping[str, Any],
    n_shards: int,
    columns: Sequence[str],
    lost: Mapping[int, str] | None = None,
) -> dict[str, Any]:
    """Write ``index.json`` from the shards on disk and return it.

    Args:
        lost: shards that could not be made, with the reason.
    """
    shards, failures = [], {}
    lost = lost or {}
    for number in range(n_shards):
        if number in lost:
            continue
        path = shard_path(folder, number)
        batch, _ = read_shard(path, columns)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        shards.append({"file": path.name, "maps": len(batch), "sha256": digest})
        failures |= {str(item): text for item, text in batch.failures.items()}
    index = {
        "format": FORMAT,
        "geo3d": __version__,
        "settings": dict(settings),
        "columns": list(columns),
        "maps": sum(shard["maps"] for shard in shards),
        "shards": shards,
        "failures": failures,
        "lost_shards": {str(number): text for number, text in lost.items()},
    }
    atomic_write_json(folder / INDEX, index)
    return index


def read_index(folder: str | Path) -> dict[str, Any]:
    """Return the content of ``index.json``.

    Raises:
        InputError: ``prior_data.no_index``.
        FileFormatError: ``prior_data.bad_index``.
    """
    path = Path(folder) / INDEX
    if not path.is_file():
        raise InputError(
            "prior_data.no_index",
            f"{folder} has no {INDEX}: it is no finished folder of maps.",
            "Make one with `geo3d prior-data --out DIR`; the same command continues a broken-off "
            "one.",
        )
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        names = [(str(shard["file"]), str(shard["sha256"])) for shard in index["shards"]]
        columns = [str(name) for name in index["columns"]]
    except (KeyError, TypeError, ValueError) as error:
        raise _bad_index(path, repr(error)) from error
    if index["format"] != FORMAT:
        raise _bad_index(path, f"format {index['format']} is not {FORMAT}")
    if any(Path(name).name != name for name, _ in names):
        raise _bad_index(path, "a shard lies outside the folder")
    return {**index, "columns": columns}


def load_maps(folder: str | Path, size: int) -> Float32[np.ndarray, "n s s"]:
    """Return the absolute values of all maps, cropped to ``size``.

    Raises:
        InputError: ``prior_data.no_index``, ``prior_data.bad_size``, ``prior_data.no_maps``.
        FileFormatError: ``prior_data.bad_index``, ``prior_data.bad_shard``.
    """
    shards = _checked_shards(Path(folder))
    k = min((shard.fmaps.shape[-1] for shard in shards), default=0)
    if sum(map(len, shards)) == 0:
        raise InputError(
            "prior_data.no_maps", f"{folder} holds no maps.", "See the failures in its index.json."
        )
    if not 1 <= size <= k:
        raise InputError(
            "prior_data.bad_size", f"Maps of {size} rows are asked for; {folder} has {k}.", ""
        )
    return np.concatenate([np.abs(s.fmaps[:, :size, :size]).astype(np.float32) for s in shards])


def load_provenance(folder: str | Path) -> dict[str, np.ndarray]:
    """Return the provenance columns and both eigenvalue tables, one row per map.

    Raises:
        InputError: ``prior_data.no_index``.
        FileFormatError: ``prior_data.bad_index``, ``prior_data.bad_shard``.
    """
    shards = _checked_shards(Path(folder))
    tables = [
        {"evals_source": s.evals_source, "evals_target": s.evals_target, **s.columns}
        for s in shards
    ]
    return {name: np.concatenate([t[name] for t in tables]) for name in tables[0]} if tables else {}


def _checked_shards(folder: Path) -> list[MapBatch]:
    index = read_index(folder)
    shards = []
    for entry in index["shards"]:
        path = folder / entry["file"]
        try:
            if hashlib.sha256(path.read_bytes()).hexdigest() != entry["sha256"]:
                raise ValueError("its content is not what the index says")
            shards.append(read_shard(path, index["columns"])[0])
        except (OSError, ValueError) as error:
            raise FileFormatError(
                "prior_data.bad_shard",
                f"{path} cannot be used: {error}.",
                "Run the command that made the folder again; it replaces damaged shards.",
            ) from error
    return shards


def _bad_index(path: Path, reason: str) -> FileFormatError:
    return FileFormatError(
        "prior_data.bad_index",
        f"{path} is not an index of maps: {reason}.",
        "Run the command that made the folder again.",
    )
