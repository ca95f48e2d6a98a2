"""Build many street scenes: in parallel, to the end, resumable (see `scenes.batch_plan`).

FOLDER/items/NAME.json holds the numbers of a finished scene, FOLDER/failures/NAME.json what went
wrong with another; FOLDER/items/NAME/scene/RUN is its run folder.  A scene that fails, hangs or
kills its process is tried again where that may help, and the others go on.  Killed at any moment,
the batch continues: finished scenes are not made again, and interrupted ones are resumed.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

from geo3d.files import atomic_write_json
from geo3d.progress import ProgressCallback, ignore_progress
from geo3d.work.pool import Limits, Outcome, Task
from geo3d.work.runner import Work, read_failure, run_items
from geo3d.work.slurm import engine_of
from scenes.batch_item import Build, ItemSetup, build_street, run_folders, run_item
from scenes.batch_plan import BatchConfig, Item, ItemRecord, expand
from scenes.batch_report import write_report


def run_batch(
    config: BatchConfig,
    folder: Path,
    *,
    build: Build = build_street,
    retry_failed: bool = False,
    progress: ProgressCallback = ignore_progress,
) -> dict[str, Any]:
    """Make all scenes that are not finished, write table and contact sheet, return the summary.

    Args:
        config: the batch.
        folder: of the batch; what is finished there stays.
        build: an importable function that makes one scene.
        retry_failed: try every failed scene again, also those whose input was at fault.
        progress: hears of every finished scene, and at least every second.

    Raises:
        BackendUnavailable: ``backend.unavailable``, ``work.no_slurm``.
        Cancelled: whatever ``progress`` raises passes through; finished scenes are kept.
    """
    items = {item.name: item for item in expand(config)}
    folder = folder.resolve()

    def record(outcome: Outcome) -> None:
        done = {**outcome.value, "attempts": outcome.attempt, "seconds": round(outcome.seconds, 2)}
        done["run"] = str(Path(done["run"]).relative_to(folder))
        atomic_write_json(_done_path(folder, outcome.task.name), done)

    work = Work(
        folder,
        [Task(name, item) for name, item in items.items()],
        partial(partial, run_item, ItemSetup(config, folder, build)),
        lambda name: _done_path(folder, name).is_file(),
        "scenes",
        config.retries,
        retry_failed,
        engine_of(config.engine, config.slurm, folder),
    )
    try:
        run_items(work, Limits(config.workers, config.timeout), progress, record)
    finally:
        summary = write_report(folder, [_read(folder, item) for item in items.values()])
    return summary


def _read(folder: Path, item: Item) -> ItemRecord:
    path = _done_path(folder, item.name)
    if path.is_file():
        return ItemRecord(item, "done", **json.loads(path.read_text("utf-8")))
    failure = read_failure(folder, item.name)
    if failure is None:
        return ItemRecord(item, "open")
    runs = [str(run.relative_to(folder)) for run in run_folders(folder, item)]
    attempts, seconds = failure["attempts"], failure["seconds"]
    return ItemRecord(item, "failed", attempts, seconds, (runs or [None])[0], error=failure)


def _done_path(folder: Path, name: str) -> Path:
    return folder / "items" / f"{name}.json"
