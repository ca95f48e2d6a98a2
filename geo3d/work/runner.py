"""Many items of work in one folder: shards, examples, pairs, cells, scenes.

    claim(folder, settings)
    failures = run_items(Work(folder, tasks, make_handler, is_finished), Limits(workers=4))

What is finished is skipped, the rest runs in the pool, and every item is on disk before the next is
told.  Killed at any moment, the same call continues; nothing depends on workers or order.

    settings.json            what the folder is for: others' work is refused
    failures/NAME.json       code, message and hint of an item that failed, its attempts, seconds
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from geo3d.errors import InputError
from geo3d.files import atomic_write_json
from geo3d.progress import ProgressCallback, ignore_progress, report
from geo3d.work.pool import Handler, Limits, Outcome, Task, run_pool

SETTINGS, FAILURES = "settings.json", "failures"
Engine = Callable[
    [Sequence[Task], Callable[[], Handler], Limits, Callable[[], None]], Iterator[Outcome]
]
Failure = dict[str, Any]
_FINAL = (2, 3, 4, 6)
"""Exit codes of errors of settings, input and backends, and of limits: trying again is in vain."""


@dataclass(frozen=True)
class Work:
    """What is to be done in a folder."""

    folder: Path
    tasks: Sequence[Task]
    make_handler: Callable[[], Handler]
    """Called in each worker; importable."""
    is_finished: Callable[[str], bool]
    """Whether the result of the task of this name is there."""
    label: str = "items"
    """Of the progress."""
    retries: int = 0
    """How often an item is tried again after a failure that may have been the machine's."""
    retry_all: bool = False
    """Whether failures of an earlier call that are the item's own are tried again, too."""
    engine: Engine = run_pool
    """Where tasks are run (see `geo3d.work.slurm`)."""


def claim(folder: Path, settings: Mapping[str, Any], may_grow: Iterable[str] = ()) -> None:
    """Take a folder for these settings; those in ``may_grow`` may differ from an earlier call's.

    Raises:
        InputError: ``work.other_folder`` when the folder was begun with other settings.
    """
    path = folder / SETTINGS
    wanted = json.loads(json.dumps(dict(settings), default=str))
    if path.is_file():
        try:
            found = dict(json.loads(path.read_text(encoding="utf-8")))
        except (TypeError, ValueError):
            found = {SETTINGS: "damaged"}
        names = {*found, *wanted} - set(may_grow)
        different = sorted(name for name in names if found.get(name) != wanted.get(name))
        if different:
            raise InputError(
                "work.other_folder",
                f"{folder} was begun with other settings: {', '.join(different)}.",
                f"Choose another folder, or the values in its {SETTINGS}.",
            )
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write_json(path, wanted)


def run_items(
    work: Work,
    limits: Limits | None = None,
    progress: ProgressCallback = ignore_progress,
    record: Callable[[Outcome], Mapping[str, float] | None] | None = None,
) -> dict[str, Failure]:
    """Do what is not finished; return the failures by name, in the order of the tasks.

    Args:
        work: what is to be done.
        limits: of the processes.
        progress: told of every finished item and at least every second; what it raises ends the
            work.
        record: called here with every success, for results that the worker has not written itself;
            returns numbers to report.

    Raises:
        Cancelled: from ``progress``; what is finished is kept.
    """
    failures, todo, numbers = {}, [], {}
    for task in work.tasks:
        if not work.is_finished(task.name):
            if (known := read_failure(work.folder, task.name)) is not None:
                failures[task.name] = known
            if known is None or work.retry_all or not is_final(known):
                todo.append(task)
    left = {task.name for task in todo}

    def tell() -> None:
        failed = {"failed": n} if (n := len(failures.keys() - left)) else {}
        done = len(work.tasks) - len(left)
        report(progress, work.label, done, len(work.tasks), **failed, **numbers)

    tell()
    for _ in range(work.retries + 1 if todo else 0):
        for outcome in work.engine(todo, work.make_handler, limits or Limits(), tell):
            name = outcome.task.name
            earlier = failures.pop(name, None)
            outcome = replace(outcome, attempt=1 + (earlier or {}).get("attempts", 0))
            path = _failure_path(work.folder, name)
            if outcome.error is not None:
                spent = {"attempts": outcome.attempt, "seconds": round(outcome.seconds, 1)}
                failures[name] = {**outcome.error, **spent}
                atomic_write_json(path, failures[name])
            else:
                numbers |= (record and record(outcome)) or {}
                path.unlink(missing_ok=True)
            left.discard(name)
            tell()
        todo = [t for t in todo if t.name in failures and not is_final(failures[t.name])]
        if not todo:
            break
    return {task.name: failures[task.name] for task in work.tasks if task.name in failures}


def read_failure(folder: Path, name: str) -> Failure | None:
    """Return what went wrong with an item, if it failed."""
    path = _failure_path(folder, name)
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def is_final(failure: Failure) -> bool:
    """Tell whether trying again would not help: the item's settings or input are at fault."""
    return failure["exit_code"] in _FINAL and failure["code"] != "run.busy"


def failure_text(failure: Failure) -> str:
    """Return a failure in one line."""
    return f"{failure['code']}: {failure['message']}"


def _failure_path(folder: Path, name: str) -> Path:
    return folder / FAILURES / f"{name}.json"
