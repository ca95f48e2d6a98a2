"""Filling a folder of maps shard by shard: in several processes, continued after an interruption.

``settings.json`` is written first and says what the folder is for; shards follow in any order;
``index.json`` (`shape_matching.prior.map_shards`) comes last.  A shard is known by the key of its
settings, so the content of a folder does not depend on workers, order or interruptions.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geo3d.errors import InputError
from geo3d.files import atomic_write_json
from geo3d.progress import ProgressCallback, report
from geo3d.work.pool import Task, run_pool
from shape_matching.prior.map_shards import INDEX, kept_shard, write_index

SETTINGS = "settings.json"


@dataclass(frozen=True)
class ShardRun:
    """What a folder is to hold."""

    settings: Mapping[str, Any]
    """Everything the maps depend on, as JSON."""
    columns: Sequence[str]
    """Provenance columns."""
    jobs: Sequence[Any]
    """What each shard is made of; picklable."""
    keys: Sequence[str]
    """The key of each shard."""
    may_grow: str = ""
    """A setting in which an earlier run in the same folder may differ."""


def run_shards(
    run: ShardRun,
    folder: Path,
    make_handler: Callable[[], Callable[[Any], Any]],
    *,
    workers: int,
    timeout: float,
    progress: ProgressCallback,
) -> dict[str, Any]:
    """Make the shards that are not there yet, write the index and return it.

    Args:
        make_handler: called in each worker; its handler gets (folder, number, key, job) and writes
            the shard.
        timeout: seconds per shard, after which it is given up and noted in the index.

    Raises:
        InputError: ``prior_data.other_folder`` when ``folder`` is for other settings.
        Cancelled: from ``progress``.
    """
    _claim(folder, run)
    columns = list(run.columns)
    todo = [n for n, key in enumerate(run.keys) if not kept_shard(folder, n, key, columns)]
    if todo:
        # an index beside shards that are being replaced would promise too much
        (folder / INDEX).unlink(missing_ok=True)
    tasks = [Task(n, n, (str(folder), n, run.keys[n], run.jobs[n])) for n in todo]
    made, lost = len(run.keys) - len(tasks), {}

    def tell() -> None:
        report(progress, "shards of maps", made, len(run.keys), lost=len(lost))

    tell()
    # told all the time, so that the listener may cancel between shards
    for outcome in run_pool(tasks, make_handler, workers, timeout, tell, 1) if tasks else ():
        made += 1
        if outcome.error is not None:
            lost[outcome.task.index] = f"{outcome.error['code']}: {outcome.error['message']}"
        tell()
    return write_index(folder, run.settings, len(run.keys), columns, lost)


def _claim(folder: Path, run: ShardRun) -> None:
    """Refuse a folder of other settings; more of the same is welcome."""
    path = folder / SETTINGS
    wanted = json.loads(json.dumps(dict(run.settings)))
    if path.is_file():
        try:
            found = dict(json.loads(path.read_text(encoding="utf-8")))
        except (TypeError, ValueError):
            found = {"source": "a damaged settings.json"}
        names = {*found, *wanted} - {run.may_grow}
        different = sorted(name for name in names if found.get(name) != wanted.get(name))
        if different:
            raise InputError(
                "prior_data.other_folder",
                f"{folder} is for maps of other settings ({', '.join(different)} differ).",
                "Choose another --out.",
            )
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write_json(path, wanted)
