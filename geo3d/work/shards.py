"""Folders of shards: training data made piece by piece, in several processes, continued when cut.

    maps-0000.npz ...   arrays of a few items, and the key of settings and number
    settings.json       what the folder is for (`geo3d.work.runner`)
    index.json          settings, versions, counts and hashes; written last

The content of a shard depends on the settings and its number alone.  A sound shard with the same
key is kept on resume; a damaged one is made again.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from geo3d import __version__
from geo3d.errors import FileFormatError, Geo3dError, InputError
from geo3d.files import atomic_path, atomic_write_json, sha256_file
from geo3d.npz import read_npz
from geo3d.progress import ProgressCallback, ignore_progress
from geo3d.work.pool import Limits, Task
from geo3d.work.runner import Work, claim, failure_text, run_items

log = logging.getLogger(__name__)

INDEX = "index.json"
BOOKKEEPING = ("failed_ids", "failed_codes", "key")
"""Arrays of every shard: items that failed, why, and the key."""
T = TypeVar("T", bound=Sized)
Item = TypeVar("Item")
Failed = dict[int, str]
"""Items of a shard that gave nothing, with the code and text of their errors."""


@dataclass(frozen=True)
class ShardKind(Generic[T]):
    """How shards of one kind are written and read; its functions are importable."""

    stem: str
    """Of the names of files."""
    name: str
    """What the items are, in words and in the index."""
    format: int
    """Part of every key; raised when the generators or the format change."""
    arrays: tuple[str, ...]
    """Names in the order in the file, `BOOKKEEPING` among them."""
    pack: Callable[[T], Mapping[str, np.ndarray]]
    build: Callable[[dict[str, np.ndarray]], T]
    """Raises ValueError where arrays do not fit each other."""
    is_compressed: bool = True
    max_bytes: int = 2 << 30


@dataclass(frozen=True)
class Plan:
    """What the shards of a folder are made of."""

    settings: Mapping[str, Any]
    """Everything the content depends on, as JSON."""
    jobs: Sequence[Any]
    """What each shard is made of: picklable, and JSON where the folder may grow."""
    grows: str = ""
    """A setting in which an earlier call may differ; a shard depends on its own job instead."""
    about: Mapping[str, Any] | None = None
    """Further entries of the index."""


Maker = Callable[[int, Any], tuple[T, Failed]]


def fill_folder(
    kind: ShardKind[T],
    folder: Path,
    plan: Plan,
    make_maker: Callable[[], Maker[T]],
    limits: Limits,
    progress: ProgressCallback = ignore_progress,
) -> dict[str, Any]:
    """Make the shards that are not there yet, write the index and return it.

    Args:
        kind: of the shards.
        folder: where to.
        plan: what they are made of.
        make_maker: called in each worker; returns the function that makes the content of a shard
            from its number and its job: ``partial(partial, make, config)`` where a worker has
            nothing to keep.
        limits: of a shard; one over its time is given up and noted in the index.

    Raises:
        InputError: ``work.other_folder`` when ``folder`` is for other settings.
        Cancelled: from ``progress``.
    """
    settings = json.loads(json.dumps(dict(plan.settings)))
    claim(folder, settings, [plan.grows])
    keys = [
        shard_key(kind, {**settings, plan.grows: job} if plan.grows else settings, number)
        for number, job in enumerate(plan.jobs)
    ]
    names = [shard_path(kind, folder, number).stem for number in range(len(keys))]
    kept = {n for i, n in enumerate(names) if is_kept(kind, folder, i, keys[i])}
    if len(kept) < len(names):
        # an index beside shards that are being replaced would promise too much
        (folder / INDEX).unlink(missing_ok=True)
    payloads = zip(range(len(keys)), keys, plan.jobs, strict=True)
    tasks = [Task(n, payload) for n, payload in zip(names, payloads, strict=True)]
    handler = partial(_make_handler, kind, folder, make_maker)
    label = f"shards of {kind.name}"
    work = Work(folder, tasks, handler, kept.__contains__, label, retry_all=True)
    failures = run_items(work, limits, progress)
    lost = {i: failure_text(failures[n]) for i, n in enumerate(names) if n in failures}
    return write_index(kind, folder, settings, len(keys), lost, plan.about)


def collect(items: Iterable[Item], make: Callable[[Item], T]) -> tuple[list[T], dict[Item, str]]:
    """Return what is made of items, and the failures of others; a failure stops no other item."""
    made, failures = [], {}
    for item in items:
        try:
            made.append(make(item))
        except Geo3dError as error:
            failures[item] = f"{error.code}: {error.message}"
        except Exception as error:
            # recorded with its type
            log.exception("unexpected error with item %s", item)
            failures[item] = f"{type(error).__name__}: {error}"
    return made, failures


def shard_path(kind: ShardKind[T], folder: Path, number: int) -> Path:
    """Return the file of a shard."""
    return folder / f"{kind.stem}-{number:04d}.npz"


def shard_key(kind: ShardKind[T], settings: Mapping[str, Any], number: int) -> str:
    """Return the hash under which a shard of these settings is known."""
    text = json.dumps([kind.format, dict(settings), number], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def write_shard(
    kind: ShardKind[T], folder: Path, number: int, batch: T, failed: Failed, key: str
) -> Path:
    """Write one shard whole or not at all; equal content gives equal bytes."""
    path, ids = shard_path(kind, folder, number), sorted(failed)
    arrays = {
        "failed_ids": np.array(ids, np.int64),
        "failed_codes": np.array([failed[i] for i in ids], np.str_),
        "key": np.array(key),
        **kind.pack(batch),
    }
    save = np.savez_compressed if kind.is_compressed else np.savez
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        save(stream, **{name: arrays[name] for name in kind.arrays})
    return path


def read_shard(kind: ShardKind[T], path: Path) -> tuple[T, Failed, str]:
    """Return the content of a shard, its failures and its key.

    Raises:
        ValueError: the file is no such shard.
        OSError: the file cannot be read.
    """
    arrays = read_npz(path, kind.arrays, kind.max_bytes)
    key = str(arrays.pop("key"))
    ids, texts = (arrays.pop(name, np.array([])).tolist() for name in BOOKKEEPING[:2])
    return kind.build(arrays), dict(zip(ids, texts, strict=True)), key


def is_kept(kind: ShardKind[T], folder: Path, number: int, key: str) -> bool:
    """Return whether a sound shard with this key is already there."""
    try:
        return read_shard(kind, shard_path(kind, folder, number))[2] == key
    except (OSError, ValueError):
        return False


def write_index(
    kind: ShardKind[T],
    folder: Path,
    settings: Mapping[str, Any],
    n_shards: int,
    lost: Mapping[int, str] | None = None,
    about: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write ``index.json`` from the shards on disk and return it.

    Args:
        lost: shards that could not be made, with the reason.
        about: further entries.
    """
    shards, failures = [], {}
    for number in sorted(set(range(n_shards)) - set(lost or {})):
        path = shard_path(kind, folder, number)
        batch, failed, _ = read_shard(kind, path)
        entry = {"file": path.name, kind.name: len(batch), "sha256": sha256_file(path)}
        shards.append(entry)
        failures |= {str(item): text for item, text in failed.items()}
    index = {
        "format": kind.format,
        "geo3d": __version__,
        "settings": dict(settings),
        **(about or {}),
        kind.name: sum(shard[kind.name] for shard in shards),
        "shards": shards,
        "failures": failures,
        "lost_shards": {str(number): text for number, text in (lost or {}).items()},
    }
    atomic_write_json(folder / INDEX, index)
    return index


def read_index(kind: ShardKind[T], folder: str | Path) -> dict[str, Any]:
    """Return the content of ``index.json``.

    Raises:
        InputError: ``shards.no_index``.
        FileFormatError: ``shards.bad_index``.
    """
    path = Path(folder) / INDEX
    if not path.is_file():
        raise InputError(
            "shards.no_index",
            f"{folder} has no {INDEX}: it is no finished folder of {kind.name}.",
            "Run the command that makes it again; it continues a broken-off run.",
        )
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        names = [(str(shard["file"]), str(shard["sha256"])) for shard in index["shards"]]
        if index["format"] != kind.format:
            raise ValueError(f"format {index['format']} is not {kind.format}")
        if any(Path(name).name != name for name, _ in names):
            raise ValueError("a shard lies outside the folder")
    except (KeyError, TypeError, ValueError) as error:
        raise FileFormatError(
            "shards.bad_index",
            f"{path} is not an index of {kind.name}: {error}.",
            "Run the command that made the folder again.",
        ) from error
    return index


def read_batches(kind: ShardKind[T], folder: str | Path) -> Iterator[T]:
    """Yield the shards of a finished folder one by one, in order.

    Raises:
        InputError: ``shards.no_index``.
        FileFormatError: ``shards.bad_index``, ``shards.bad_shard``.
    """
    for entry in read_index(kind, folder)["shards"]:
        yield read_sound(kind, Path(folder) / entry["file"], entry["sha256"])


def read_all(kind: ShardKind[T], folder: str | Path) -> list[T]:
    """Return the shards of a finished folder that holds something.

    Raises:
        InputError: ``shards.empty``, and those of `read_batches`.
    """
    batches = list(read_batches(kind, folder))
    if not any(len(batch) for batch in batches):
        raise InputError(
            "shards.empty",
            f"{folder} holds no {kind.name}.",
            f"See the failures in its {INDEX}.",
        )
    return batches


def read_sound(kind: ShardKind[T], path: Path, sha256: str | None = None) -> T:
    """Return the content of a shard, which has this hash if one is given.

    Raises:
        FileFormatError: ``shards.bad_shard``.
    """
    try:
        if sha256 not in (None, sha256_file(path)):
            raise ValueError("its content is not what the index says")
        return read_shard(kind, path)[0]
    except (OSError, ValueError) as error:
        raise FileFormatError(
            "shards.bad_shard",
            f"{path} cannot be used: {error}.",
            "Run the command that made the folder again; it replaces damaged shards.",
        ) from error


def _make_handler(
    kind: ShardKind[T], folder: Path, make_maker: Callable[[], Maker[T]]
) -> Callable[[tuple[int, str, Any]], None]:
    return partial(_make_shard, kind, folder, make_maker())


def _make_shard(
    kind: ShardKind[T], folder: Path, make: Maker[T], payload: tuple[int, str, Any]
) -> None:
    number, key, job = payload
    batch, failed = make(number, job)
    write_shard(kind, folder, number, batch, failed, key)
