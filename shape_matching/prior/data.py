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

from geo3d.errors import Geo3dError
from geo3d.progress import ProgressCallback, ignore_progress
from geo3d.synth.creatures import KINDS
from shape_matching.prior.families import COLUMNS, PriorDataConfig, empty_batch, family_maps
from shape_matching.prior.map_shards import (
    joined,
    load_maps,
    load_provenance,
    read_index,
    shard_key,
    write_shard,
)
from shape_matching.prior.shard_run import ShardRun, run_shards

__all__ = ["PriorDataConfig", "load_maps", "load_provenance", "make_prior_data", "read_index"]

logger = logging.getLogger(__name__)

FAMILIES_PER_SHARD = 10
FAMILY_SECONDS = 60.0
"""A shard whose families take longer than this each is given up."""


def make_prior_data(
    config: PriorDataConfig,
    out: str | Path,
    *,
    workers: int = 1,
    progress: ProgressCallback = ignore_progress,
) -> dict[str, Any]:
    """Generate the maps into folder ``out`` and return its index.

    Shards that are already there with the same settings are kept; a folder may be enlarged by more
    creatures.  A creature that fails is recorded in the index and left out.

    Raises:
        InputError: ``prior_data.other_folder`` when ``out`` is for other settings.
        Cancelled: from ``progress``.
    """
    settings = {name: _plain(value) for name, value in asdict(config).items()}
    settings = {"source": "creatures", "kinds": list(KINDS), **settings}
    starts = range(0, config.creatures, FAMILIES_PER_SHARD)
    jobs = [list(range(config.creatures)[i : i + FAMILIES_PER_SHARD]) for i in starts]
    # a shard does not depend on how many creatures come after its own
    keys = [shard_key({**settings, "creatures": job}, number) for number, job in enumerate(jobs)]
    return run_shards(
        ShardRun(settings, list(COLUMNS), jobs, keys, may_grow="creatures"),
        Path(out),
        partial(_handler, config),
        workers=workers,
        timeout=FAMILY_SECONDS * FAMILIES_PER_SHARD,
        progress=progress,
    )


def _handler(config: PriorDataConfig) -> Callable[[tuple[str, int, str, list[int]]], int]:
    return partial(_make_shard, config)


def _make_shard(config: PriorDataConfig, payload: tuple[str, int, str, list[int]]) -> int:
    folder, number, key, creatures = payload
    batches, failures = [], {}
    for creature in creatures:
        try:
            batches.append(family_maps(config, creature))
        except Geo3dError as error:
            failures[creature] = f"{error.code}: {error.message}"
        except Exception as error:
            # one creature's defect must not stop the others; it is recorded with its type
            logger.exception("unexpected error with creature %d", creature)
            failures[creature] = f"{type(error).__name__}: {error}"
    write_shard(Path(folder), number, joined(batches, failures, empty_batch(config.k)), key)
    return len(batches)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
