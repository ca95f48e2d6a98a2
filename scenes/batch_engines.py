"""Where the scenes of a batch are made: processes of this machine, or jobs of a Slurm cluster."""

from __future__ import annotations

import functools
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from geo3d.backends import require
from geo3d.errors import BackendUnavailable
from geo3d.work.pool import Outcome, Task, run_pool
from scenes.batch_item import ItemSetup, make_item_job, run_item

POLL_S = 2.0
"""How often jobs of the cluster are looked at."""
_CODES = {
    "evaluate.worker_died": "batch.worker_died",
    "evaluate.pair_timeout": "batch.timeout",
    "evaluate.unexpected_error": "batch.unexpected_error",
}


def run_local(
    tasks: Sequence[Task], setup: ItemSetup, tell: Callable[[], None]
) -> Iterator[Outcome]:
    """Yield what became of scenes, made by processes of this machine.

    Args:
        tasks: one per scene.
        setup: what they share.
        tell: called at least every second; what it raises ends all.
    """
    config = setup.config
    handler = functools.partial(make_item_job, setup)
    for outcome in run_pool(tasks, handler, config.workers, config.timeout, tell):
        yield _renamed(outcome)


def run_slurm(
    tasks: Sequence[Task], setup: ItemSetup, tell: Callable[[], None]
) -> Iterator[Outcome]:
    """Yield what became of scenes, each made by a job of an array; see `run_local`.

    The folder of the batch must be seen by all machines.  Jobs that still wait or run when this
    generator is closed are cancelled.

    Raises:
        BackendUnavailable: ``backend.unavailable`` without submitit, ``batch.no_slurm``.
    """
    submitit = require("submitit")
    if shutil.which("sbatch") is None:
        raise BackendUnavailable(
            "batch.no_slurm",
            "This machine has no sbatch: it cannot hand jobs to a Slurm cluster.",
            "Start the batch on a login node of the cluster, or with --engine local.",
        )
    wanted = setup.config.slurm
    executor = submitit.AutoExecutor(folder=setup.folder / "slurm", cluster="slurm")
    partition = {"slurm_partition": wanted.partition} if wanted.partition else {}
    executor.update_parameters(
        name="geo3d-scenes",
        timeout_min=wanted.minutes,
        cpus_per_task=wanted.cpus,
        mem_gb=wanted.memory_gb,
        gpus_per_node=wanted.gpus,
        slurm_array_parallelism=setup.config.workers,
        **partition,
    )
    jobs = executor.map_array(functools.partial(run_item, setup), [t.payload for t in tasks])
    yield from _collect(dict(zip(tasks, jobs, strict=True)), tell)


def _collect(jobs: dict[Task, Any], tell: Callable[[], None]) -> Iterator[Outcome]:
    try:
        while jobs:
            tell()
            finished = [task for task, job in jobs.items() if job.done()]
            for task in finished:
                yield _ended(task, jobs.pop(task))
            if not finished:
                time.sleep(POLL_S)
    finally:
        for job in jobs.values():
            job.cancel()


def _ended(task: Task, job: Any) -> Outcome:
    error = job.exception()
    if error is None:
        return Outcome(task, value=job.result())
    text = " ".join(str(error).split())[:500]
    return Outcome(task, error=_died(f"Job {job.job_id} of the cluster ended early: {text}"))


def _died(message: str) -> dict[str, str]:
    hint = "Its log lies in the folder slurm of the batch."
    return {"code": "batch.worker_died", "message": message, "hint": hint}


def _renamed(outcome: Outcome) -> Outcome:
    """Return the outcome with the codes of a batch in place of those of the pool."""
    if outcome.error is None:
        return outcome
    code = outcome.error["code"]
    return replace(outcome, error={**outcome.error, "code": _CODES.get(code, code)})
