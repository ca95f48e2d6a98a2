"""Evaluate a matching method on the pairs of a dataset: in parallel, to the end, resumable.

Every finished pair is on disk before the next is reported.  A pair that fails, hangs or kills its
process is recorded and the others go on.  Killed at any moment, the run continues where it was, and
its tables are byte-equal to those of an uninterrupted run (times are kept in files of their own).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from geo3d.config import config_to_dict
from geo3d.files import cache_dir
from geo3d.progress import ProgressCallback, ignore_progress
from geo3d.work.pool import Limits, Outcome, Task
from geo3d.work.runner import Work, claim, run_items
from geo3d.work.slurm import engine_of
from shape_matching.evaluate.config import EvaluationConfig
from shape_matching.evaluate.datasets import Dataset
from shape_matching.evaluate.pairs import (
    JobSetup,
    Method,
    PairStore,
    find_method,
    make_pair_job,
    pair_name,
)
from shape_matching.evaluate.protocols import Pair
from shape_matching.evaluate.report import write_report
from shape_matching.evaluate.truth import require_truth


def evaluate(
    dataset: Dataset,
    pairs: Sequence[Pair],
    config: EvaluationConfig,
    folder: Path,
    *,
    method: Method | None = None,
    protocol: str = "custom",
    previews: Path | None = None,
    progress: ProgressCallback = ignore_progress,
) -> dict[str, Any]:
    """Match and score all pairs, write tables and figures into ``folder``, return the summary.

    Args:
        dataset: the shapes.
        pairs: (source, target) names; maps go from target vertices to source vertices.
        config: settings; ``data``, ``protocol``, ``pairs`` and ``max_pairs`` are taken as recorded
            and not read again.
        folder: results; pairs that are finished there already are kept.
        method: an importable callable (see `shape_matching.evaluate.pairs`); default: the one
            that ``config.method`` names.
        protocol: name to report the numbers under.
        previews: where curve.png and worst.png go (default ``folder``).
        progress: hears of every finished pair, and at least every second.

    Raises:
        ConfigError: ``evaluate.unknown_method``.
        InputError: ``work.other_folder``; ``dataset.no_ground_truth`` and
            ``dataset.unrelated_ground_truth`` where no pair can be scored.
        Cancelled: whatever ``progress`` raises passes through; finished pairs are kept.
    """
    if method is None:
        find_method(config.method)
    require_truth(dataset, pairs)
    claim(folder, {**_identity(dataset, config, protocol), "pairs": list(pairs)})
    store = PairStore(folder, pairs)
    setup = JobSetup(
        dataset,
        method or config.method,
        config.match,
        config.device,
        config.geodesics,
        cache_dir() / "geodesics" if config.cache_geodesics else None,
        config.pair_seed if config.random_rotations else None,
    )
    # A source's distances are costly, so its pairs go to one worker.
    tasks = [Task(pair_name(i), pair, pair[0]) for i, pair in enumerate(pairs)]
    make_handler = functools.partial(make_pair_job, setup)
    errors: list[float] = []

    def record(outcome: Outcome) -> Mapping[str, float]:
        store.put(int(outcome.task.name), outcome.value)
        errors.append(outcome.value.score["error"])
        return {"error": round(sum(errors) / len(errors), 3)}

    engine = engine_of(config.engine, config.slurm, folder)
    work = Work(folder, tasks, make_handler, store.is_scored, "pairs", engine=engine)
    run_items(work, Limits(config.workers, config.pair_timeout), progress, record)
    return write_report(folder, dataset, store, config, protocol, previews or folder)


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
