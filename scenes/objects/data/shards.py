"""Folders of procedural objects: what the small pipeline is trained on.

    objects-0000.npz ...  the arrays of `ObjectBatch`, the failures and a key
    index.json            settings, versions, counts and hashes; written last

Notation: n objects, m cells of all objects of a batch one after the other, s views, h pixels.
``key`` is a hash of settings and shard number: a shard with the same key is kept on resume.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int, Int8, UInt8

from geo3d import __version__
from geo3d.errors import FileFormatError, InputError
from geo3d.files import atomic_path, atomic_write_json, sha256_file
from geo3d.npz import read_npz
from scenes.objects.data.voxels import RESOLUTION, SurfaceVoxels

FORMAT = 1
"""Part of the key of every shard; raised when the generators or the format change."""
INDEX = "index.json"
SHARD_BYTES = 2 << 30


@dataclass(frozen=True, eq=False)
class ObjectBatch:
    """Objects as arrays."""

    kinds: np.ndarray
    """(n,) names."""
    seeds: Int[np.ndarray, " n"]
    occupancy: UInt8[np.ndarray, "n bytes"]
    """Cells of the 64^3 grid, eight per byte (`np.packbits`), x slowest."""
    counts: Int[np.ndarray, " n"]
    """Cells of each object; the rows below follow in the order of objects and of `np.argwhere`."""
    colors: UInt8[np.ndarray, "m 3"]
    normals: Int8[np.ndarray, "m 3"]
    offsets: Int8[np.ndarray, "m 3"]
    views: UInt8[np.ndarray, "n s h h 4"]
    """Pictures with opacity."""
    c2w: Float32[np.ndarray, "n s 4 4"]
    intrinsics: Float32[np.ndarray, "n s 4"]
    """fx, fy, cx, cy in pixels."""

    def __len__(self) -> int:
        return len(self.seeds)

    def voxels(self, i: int) -> SurfaceVoxels:
        """Return the cells of object ``i``."""
        grid = np.unpackbits(self.occupancy[i]).reshape((RESOLUTION,) * 3)
        start = int(self.counts[:i].sum())
        rows = slice(start, start + int(self.counts[i]))
        coords = np.argwhere(grid).astype(np.int16)
        parts = (self.colors[rows], self.normals[rows], self.offsets[rows])
        return SurfaceVoxels(RESOLUTION, coords, *parts)


ARRAYS = tuple(f.name for f in fields(ObjectBatch))


def join_batches(batches: Sequence[ObjectBatch]) -> ObjectBatch:
    """Return the objects of all batches in one."""
    return ObjectBatch(*(np.concatenate([getattr(b, name) for b in batches]) for name in ARRAYS))


def shard_path(folder: Path, number: int) -> Path:
    """Return the file of a shard."""
    return folder / f"objects-{number:04d}.npz"


def shard_key(settings: Mapping[str, Any], number: int) -> str:
    """Return the hash under which a shard of these settings is known."""
    text = json.dumps([FORMAT, dict(settings), number], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def write_shard(
    folder: Path, number: int, batch: ObjectBatch, failures: Mapping[int, str], key: str
) -> Path:
    """Write one shard whole or not at all; equal content gives equal bytes."""
    path, failed = shard_path(folder, number), sorted(failures)
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        np.savez_compressed(
            stream,
            failed_ids=np.array(failed, np.int64),
            failed_codes=np.array([failures[i] for i in failed], np.str_),
            key=np.array(key),
            **{name: getattr(batch, name) for name in ARRAYS},
        )
    return path


def read_shard(path: Path) -> tuple[ObjectBatch, dict[int, str], str]:
    """Return a shard, its failures and its key.

    Raises:
        ValueError: the file is no such shard.
        OSError: the file cannot be read.
    """
    arrays = read_npz(path, [*ARRAYS, "failed_ids", "failed_codes", "key"], SHARD_BYTES)
    n, cells = len(arrays["seeds"]), int(arrays["counts"].sum())
    shown = arrays["views"].shape[1:2]
    shapes: dict[str, tuple[int, ...]] = {"kinds": (n,), "counts": (n,)}
    shapes |= {"occupancy": (n, RESOLUTION**3 // 8)}
    shapes |= dict.fromkeys(("colors", "normals", "offsets"), (cells, 3))
    shapes |= {"c2w": (n, *shown, 4, 4), "intrinsics": (n, *shown, 4)}
    wrong = [name for name, shape in shapes.items() if arrays[name].shape != shape]
    views = arrays["views"]
    if wrong or views.ndim != 5 or len(views) != n or views.dtype != np.uint8:
        raise ValueError(f"its arrays do not fit each other ({', '.join(wrong) or 'views'})")
    failed = zip(arrays["failed_ids"].tolist(), arrays["failed_codes"].tolist(), strict=True)
    batch = ObjectBatch(**{name: arrays[name] for name in ARRAYS})
    return batch, dict(failed), str(arrays["key"])


def kept_shard(folder: Path, number: int, key: str) -> bool:
    """Return whether a sound shard with this key is already there."""
    try:
        return read_shard(shard_path(folder, number))[2] == key
    except (OSError, ValueError):
        return False


def write_index(
    folder: Path, settings: Mapping[str, Any], n_shards: int, lost: Mapping[int, str]
) -> dict[str, Any]:
    """Write ``index.json`` from the shards on disk and return it.

    Args:
        lost: shards that could not be made, with the reason.
    """
    shards, failures = [], {}
    for number in sorted(set(range(n_shards)) - set(lost)):
        path = shard_path(folder, number)
        batch, failed, _ = read_shard(path)
        shards.append({"file": path.name, "objects": len(batch), "sha256": sha256_file(path)})
        failures |= {str(item): text for item, text in failed.items()}
    index = {
        "format": FORMAT,
        "geo3d": __version__,
        "settings": dict(settings),
        "objects": sum(shard["objects"] for shard in shards),
        "shards": shards,
        "failures": failures,
        "lost_shards": {str(number): text for number, text in lost.items()},
    }
    atomic_write_json(folder / INDEX, index)
    return index


def read_index(folder: str | Path) -> dict[str, Any]:
    """Return the content of ``index.json``.

    Raises:
        InputError: ``objects_data.no_index``.
        FileFormatError: ``objects_data.bad_index``.
    """
    path = Path(folder) / INDEX
    if not path.is_file():
        raise InputError(
            "objects_data.no_index",
            f"{folder} has no {INDEX}: it is no finished folder of objects.",
            "Make one with `geo3d objects-data --out DIR`; the same command continues a broken-off "
            "one.",
        )
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        names = [(str(shard["file"]), str(shard["sha256"])) for shard in index["shards"]]
        if index["format"] != FORMAT:
            raise ValueError(f"format {index['format']} is not {FORMAT}")
        if any(Path(name).name != name for name, _ in names):
            raise ValueError("a shard lies outside the folder")
    except (KeyError, TypeError, ValueError) as error:
        raise FileFormatError(
            "objects_data.bad_index",
            f"{path} is not an index of objects: {error}.",
            "Run the command that made the folder again.",
        ) from error
    return index


def read_batches(folder: str | Path) -> Iterator[ObjectBatch]:
    """Yield the shards of a finished folder one by one, in order.

    Raises:
        InputError: ``objects_data.no_index``.
        FileFormatError: ``objects_data.bad_index``, ``objects_data.bad_shard``.
    """
    for entry in read_index(folder)["shards"]:
        path = Path(folder) / entry["file"]
        try:
            if sha256_file(path) != entry["sha256"]:
                raise ValueError("its content is not what the index says")
            yield read_shard(path)[0]
        except (OSError, ValueError) as error:
            raise FileFormatError(
                "objects_data.bad_shard",
                f"{path} cannot be used: {error}.",
                "Run the command that made the folder again; it replaces damaged shards.",
            ) from error
