"""Training data for spectral priors without a single scan: maps between generated creatures.

make_prior_data(PriorDataConfig(creatures=1500), "data/prior", workers=2)
maps = load_maps("data/prior", 30)      # (n, 30, 30) absolute values

The content of a shard depends on the settings and its number alone, not on the number of workers
or on what happened before; a broken-off run is continued by the same call.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from geo3d.errors import Geo3dError, InputError
from geo3d.mesh.creatures import KINDS
from geo3d.progress import ProgressCallback, ignore_progress, report
from shape_matching.map_shards import (
    INDEX,
    joined,
    kept_shard,
    load_maps,
    load_provenance,
    read_index,
    shard_key,
    write_index,
    write_shard,
)
from shape_matching.pool import Task, run_pool
from shape_matching.prior_families import COLUMNS, PriorDataConfig, empty_batch, family_maps

__all__ = ["PriorDataConfig", "load_maps", "load_provenance", "make_prior_data", "read_index"]

logger = logging.getLogger(__name__)

FAMILIES_PER_SHARD = 10
FAMILY_SECONDS = 60.0
"""A shard whose families take longer than this each is given up."""
_STAGE = "maps of generated shapes"


def make_prior_data(
    config: PriorDataConfig,
    out: str | Path,
    *,
    workers: int = 1,
    progress: ProgressCallback = ignore_progress,
) -> dict[str, Any]:
    """Generate the maps into folder ``out`` and return its index.

    Shards that are already there with the same settings are kept.  A creature that fails is
    recorded in the index and left out.

    Raises:
        InputError: ``prior_data.other_folder`` when ``out`` holds maps of other settings.
        Cancelled: from ``progress``.
    """
    folder, settings = Path(out), _settings(config)
    _check_folder(folder, settings)
    folder.mkdir(parents=True, exist_ok=True)
    n_shards = -(-config.creatures // FAMILIES_PER_SHARD)
    # an index beside shards that are being replaced would promise too much
    keys = {number: _key(config, settings, number) for number in range(n_shards)}
    open_shards = [n for n, key in keys.items() if not kept_shard(folder, n, key, list(COLUMNS))]
    if open_shards:
        (folder / INDEX).unlink(missing_ok=True)
    tasks = [Task(number, number, (number, keys[number])) for number in open_shards]
    made, lost = n_shards - len(tasks), {}

    def tell() -> None:
        report(progress, _STAGE, made, n_shards, lost=len(lost))

    tell()
    timeout = FAMILY_SECONDS * FAMILIES_PER_SHARD
    handler = partial(_shard_maker, config, str(folder))
    # told all the time, so that the listener may cancel between shards
    for outcome in run_pool(tasks, handler, workers, timeout, tell, threads=1) if tasks else ():
        made += 1
        if outcome.error is not None:
            lost[outcome.task.index] = f"{outcome.error['code']}: {outcome.error['message']}"
        tell()
    return write_index(folder, settings, n_shards, list(COLUMNS), lost)


def _key(config: PriorDataConfig, settings: dict[str, Any], number: int) -> str:
    """Return a shard's key, which does not depend on how many creatures come after its own."""
    return shard_key({**settings, "creatures": list(_creatures(config, number))}, number)


def _creatures(config: PriorDataConfig, number: int) -> range:
    first = number * FAMILIES_PER_SHARD
    return range(first, min(first + FAMILIES_PER_SHARD, config.creatures))


def _settings(config: PriorDataConfig) -> dict[str, Any]:
    settings = {name: _plain(value) for name, value in asdict(config).items()}
    return {"source": "creatures", "kinds": list(KINDS), **settings}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _check_folder(folder: Path, settings: dict[str, Any]) -> None:
    """Refuse a finished folder of other settings; more creatures of the same are welcome."""
    if not (folder / INDEX).is_file():
        return
    found = read_index(folder)["settings"]
    names = {*found, *settings} - {"creatures"}
    different = sorted(name for name in names if found.get(name) != settings.get(name))
    if different:
        raise InputError(
            "prior_data.other_folder",
            f"{folder} holds maps of other settings ({', '.join(different)}).",
            "Choose another --out.",
        )


def _shard_maker(config: PriorDataConfig, folder: str) -> Callable[[tuple[int, str]], int]:
    return partial(_make_shard, config, Path(folder))


def _make_shard(config: PriorDataConfig, folder: Path, payload: tuple[int, str]) -> int:
    number, key = payload
    batches, failures = [], {}
    for creature in _creatures(config, number):
        try:
            batches.append(family_maps(config, creature))
        except Geo3dError as error:
            failures[creature] = f"{error.code}: {error.message}"
        except Exception as error:
            # one creature's defect must not stop the others; it is recorded with its type
            logger.exception("unexpected error with creature %d", creature)
            failures[creature] = f"{type(error).__name__}: {error}"
    write_shard(folder, number, joined(batches, failures, empty_batch(config.k)), key)
    return len(batches)
