"""Evaluate a matching method on the pairs of a dataset: in parallel, to the end, resumable.

Every finished pair is on disk before the next is reported.  A pair that fails, hangs or kills its
process is recorded and the others go on.  Killed at any moment, the run continues where it was, and
its tables are byte-equal to those of an uninterrupted run (times are kept in files of their own).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from geo3d.config import config_to_dict
from geo3d.files import cache_dir
from geo3d.progress import ProgressCallback, ignore_progress, report
from geo3d.work.pool import Outcome, Task, run_pool
from shape_matching.evaluate.config import EvaluationConfig
from shape_matching.evaluate.datasets import Dataset
from shape_matching.evaluate.pairs import JobSetup, Method, PairStore, find_method, make_pair_job
from shape_matching.evaluate.protocols import Pair
from shape_matching.evaluate.report import write_report


def evaluate(
    dataset: Dataset,
    pairs: Sequence[Pair],
    config: EvaluationConfig,
    folder: Path,
    *,
    method: Method | None = None,
    protocol: str = "custom",
    pictures: Path | None = None,
    progress: ProgressCallback = ignore_progress,
) -> dict[str, Any]:
    """Match and score all pairs, write tables and pictures into ``folder``, return the summary.

    Args:
        dataset: the shapes.
        pairs: (source, target) names; maps go from target vertices to source vertices.
        config: settings; ``data``, ``protocol``, ``pairs`` and ``max_pairs`` are taken as recorded
            and not read again.
        folder: results; pairs that are finished there already are kept.
        method: an importable callable (see `shape_matching.evaluate.pairs`); default: the one
            that ``config.method`` names.
        protocol: name to report the numbers under.
        pictures: where curve.png and worst.png go (default ``folder``).
        progress: hears of every finished pair, and at least every second.

    Raises:
        ConfigError: ``evaluate.unknown_method``.
        InputError: ``evaluate.other_run``.
        Cancelled: whatever ``progress`` raises passes through; finished pairs are kept.
    """
    if method is None:
        find_method(config.method)
    store = PairStore(folder, _identity(dataset, config, protocol), pairs)
    todo = store.open_indices()
    setup = JobSetup(
        dataset,
        method or config.method,
        config.match,
        config.device,
        config.geodesics,
        cache_dir() / "geodesics" if config.cache_geodesics else None,
        config.pair_seed if config.random_rotations else None,
    )
    if todo:
        _run_pairs(store, pairs, todo, setup, config, progress)
    return write_report(folder, dataset, store, config, protocol, pictures or folder)


def _run_pairs(
    store: PairStore,
    pairs: Sequence[Pair],
    todo: Sequence[int],
    setup: JobSetup,
    config: EvaluationConfig,
    progress: ProgressCallback,
) -> None:
    # A source's distances are costly, so its pairs go to one worker.
    tasks = [Task(index, pairs[index][0], pairs[index]) for index in todo]
    state = _Progress(progress, len(pairs) - len(todo), len(pairs))
    state.tell()
    handler = functools.partial(make_pair_job, setup)
    for outcome in run_pool(tasks, handler, config.workers, config.pair_timeout, state.tell):
        if outcome.error is None:
            store.put_result(outcome.task.index, outcome.value)
        else:
            store.put_error(outcome.task.index, outcome.error)
        state.count(outcome)
        state.tell()


@dataclass
class _Progress:
    """Counts finished pairs and tells the listener."""

    listener: ProgressCallback
    done: int
    total: int
    failed: int = 0
    errors: list[float] = field(default_factory=list)

    def count(self, outcome: Outcome) -> None:
        self.done += 1
        if outcome.error is None:
            self.errors.append(outcome.value.score["error"])
        else:
            self.failed += 1

    def tell(self) -> None:
        numbers: dict[str, float | int] = {"failed": self.failed} if self.failed else {}
        if self.errors:
            numbers["error"] = round(sum(self.errors) / len(self.errors), 3)
        report(self.listener, "pairs", self.done, self.total, **numbers)


def _identity(dataset: Dataset, config: EvaluationConfig, protocol: str) -> dict[str, Any]:
    """Return what must agree for two runs to be the same evaluation."""
    return {
        "data": str(dataset.root.resolve()),
        "protocol": protocol,
        "method": config.method,
        "device": config.device,
        "geodesics": config.geodesics,
        "rotation_seed": config.pair_seed if config.random_rotations else None,
        "shared_ground_truth": dataset.shared_ground_truth,
        "match": config_to_dict(config.match),
    }
