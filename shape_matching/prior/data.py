"""Training data for spectral priors without a single scan: maps between generated creatures.

make_prior_data(PriorDataConfig(creatures=1500), "data/prior", workers=2)
maps = load_maps("data/prior", 30)      # (n, 30, 30) absolute values

The content of a shard depends on the settings and its number alone, not on the number of workers
or on what happened before; a broken-off run is continued by the same call.
"""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from geo3d.progress import ProgressCallback, ignore_progress
from geo3d.synth.creatures import KINDS
from geo3d.work.pool import Limits
from geo3d.work.shards import Failed, Plan, collect, fill_folder
from shape_matching.prior.families import COLUMNS, PriorDataConfig, empty_batch, family_maps
from shape_matching.prior.map_shards import (
    MapBatch,
    joined,
    load_maps,
    load_provenance,
    map_shards,
    read_index,
)

__all__ = ["PriorDataConfig", "load_maps", "load_provenance", "make_prior_data", "read_index"]

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
        InputError: ``work.other_folder`` when ``out`` is for other settings.
        Cancelled: from ``progress``.
    """
    settings = {"source": "creatures", "kinds": list(KINDS), **asdict(config)}
    starts = range(0, config.creatures, FAMILIES_PER_SHARD)
    jobs = [list(range(config.creatures)[i : i + FAMILIES_PER_SHARD]) for i in starts]
    return fill_folder(
        map_shards(COLUMNS),
        Path(out),
        Plan(settings, jobs, grows="creatures", about={"columns": list(COLUMNS)}),
        partial(partial, _shard, config),
        Limits(workers, timeout=FAMILY_SECONDS * FAMILIES_PER_SHARD, threads=1),
        progress,
    )


def _shard(config: PriorDataConfig, number: int, creatures: list[int]) -> tuple[MapBatch, Failed]:
    batches, failures = collect(creatures, partial(family_maps, config))
    return joined([empty_batch(config.k), *batches]), failures
