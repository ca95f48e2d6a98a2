"""Build many street scenes: in parallel, to the end, resumable (see `scenes.batch_plan`).

FOLDER/items/NAME.json says what became of a scene and is written when it ended;
FOLDER/items/NAME/scene/RUN is its run folder.  A scene that fails, hangs or kills its process is
recorded, tried again where that may help, and the others go on.  Killed at any moment, the batch
goes on where it was: finished scenes are not made again, and interrupted ones continue.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from geo3d.files import atomic_write_json
from geo3d.progress import ProgressCallback, ignore_progress, report
from geo3d.work.pool import Outcome, Task
from scenes.batch_engines import run_local, run_slurm
from scenes.batch_item import Build, ItemSetup, build_street
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
        BackendUnavailable: ``backend.unavailable``, ``batch.no_slurm``.
        Cancelled: whatever ``progress`` raises passes through; finished scenes are kept.
    """
    items = expand(config)
    store = _Store(folder, items)
    setup = ItemSetup(config, folder.resolve(), build)
    todo = [r for r in store.records() if r.status == "open" or _again(r, retry_failed)]
    for record in todo:
        store.forget(record.item)
    try:
        waiting = [record.item for record in todo]
        for _ in range(config.retries + 1):
            _run(setup, waiting, store, progress)
            waiting = [r.item for r in store.records() if r.item in waiting and _again(r)]
            if not waiting:
                break
    finally:
        summary = write_report(folder, store.records())
    return summary


def _again(record: ItemRecord, also_final: bool = False) -> bool:
    return record.status == "failed" and (also_final or not record.is_final)


def _run(
    setup: ItemSetup, items: Sequence[Item], store: _Store, progress: ProgressCallback
) -> None:
    def tell() -> None:
        known = [r.status for r in store.records(cached=True)]
        counts = {"failed": failed} if (failed := known.count("failed")) else {}
        report(progress, "scenes", len(known) - known.count("open"), len(known), **counts)

    if not items:
        return
    tell()
    engine = run_slurm if setup.config.engine == "slurm" else run_local
    for outcome in engine([Task(item.index, item.index, item) for item in items], setup, tell):
        store.put(outcome)
        tell()


class _Store:
    """The records of a batch on disk."""

    def __init__(self, folder: Path, items: Sequence[Item]) -> None:
        self._folder = folder
        self._items = items
        self._attempts: dict[str, int] = {}
        self._known: dict[int, ItemRecord] = {}
        (folder / "items").mkdir(parents=True, exist_ok=True)
        self.records()

    def records(self, cached: bool = False) -> list[ItemRecord]:
        """Return what became of every scene, in the order of the batch."""
        if not cached:
            self._known = {item.index: self._read(item) for item in self._items}
        return [self._known[item.index] for item in self._items]

    def forget(self, item: Item) -> None:
        """Let a scene count as open again; how often it was tried is remembered."""
        self._attempts[item.name] = self._known[item.index].attempts
        self._path(item).unlink(missing_ok=True)
        self._known[item.index] = ItemRecord(item, "open")

    def put(self, outcome: Outcome) -> None:
        """Record the end of an attempt."""
        item: Item = outcome.task.payload
        answer: dict[str, Any] = outcome.value or {"error": outcome.error}
        run = answer.get("run")
        attempts = max(self._attempts.get(item.name, 0), self._known[item.index].attempts) + 1
        record = {
            "item": item.name,
            "status": "failed" if answer.get("error") else "done",
            "attempts": attempts,
            "seconds": answer.get("seconds", 0.0),
            "run": None if run is None else str(Path(run).relative_to(self._folder.resolve())),
            "metrics": answer.get("metrics"),
            "error": answer.get("error"),
            "is_final": bool(answer.get("is_final")),
        }
        atomic_write_json(self._path(item), record)
        self._known[item.index] = self._read(item)

    def _read(self, item: Item) -> ItemRecord:
        path = self._path(item)
        if not path.is_file():
            return ItemRecord(item, "open")
        stored = json.loads(path.read_text("utf-8"))
        return ItemRecord(**{**stored, "item": item})

    def _path(self, item: Item) -> Path:
        return self._folder / "items" / f"{item.name}.json"
