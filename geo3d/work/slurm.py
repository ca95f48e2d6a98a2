"""Tasks as jobs of a Slurm cluster, in place of processes of this machine; needs submitit."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from geo3d.backends import require
from geo3d.errors import BackendUnavailable, Geo3dError
from geo3d.work.pool import Handler, Limits, Outcome, Task, answer, failure

POLL_S = 2.0
"""How often jobs of the cluster are looked at."""


@dataclass(frozen=True)
class SlurmConfig:
    """What to ask a cluster for, per task."""

    partition: str | None = None
    minutes: int = 120
    cpus: int = 4
    memory_gb: int = 16
    gpus: int = 0


def run_slurm(
    folder: Path,
    wanted: SlurmConfig,
    tasks: Sequence[Task],
    make_handler: Callable[[], Handler],
    limits: Limits,
    idle: Callable[[], None],
) -> Iterator[Outcome]:
    """Yield an outcome per task, each made by a job of an array; see `run_pool`.

    ``folder`` gets the cluster's logs; it and what handlers use must be seen by all machines.  Of
    ``limits`` only the number of workers counts.  Jobs that still wait or run when this generator
    is closed are cancelled.

    Raises:
        BackendUnavailable: ``backend.unavailable`` without submitit, ``work.no_slurm``.
    """
    submitit = require("submitit")
    if shutil.which("sbatch") is None:
        raise BackendUnavailable(
            "work.no_slurm",
            "This machine has no sbatch: it cannot hand jobs to a Slurm cluster.",
            "Start on a login node of the cluster, or with --engine local.",
        )
    executor = submitit.AutoExecutor(folder=folder, cluster="slurm")
    partition = {"slurm_partition": wanted.partition} if wanted.partition else {}
    executor.update_parameters(
        name="geo3d",
        timeout_min=wanted.minutes,
        cpus_per_task=wanted.cpus,
        mem_gb=wanted.memory_gb,
        gpus_per_node=wanted.gpus,
        slurm_array_parallelism=limits.workers,
        **partition,
    )
    found = executor.map_array(partial(_answer, make_handler), [task.payload for task in tasks])
    jobs, begun = dict(zip(tasks, found, strict=True)), time.monotonic()
    try:
        while jobs:
            idle()
            finished = [task for task, job in jobs.items() if job.done()]
            for task in finished:
                value, error = _ended(jobs.pop(task), folder)
                yield Outcome(task, value, error, time.monotonic() - begun)
            if not finished:
                time.sleep(POLL_S)
    finally:
        for job in jobs.values():
            job.cancel()


def _answer(make_handler: Callable[[], Handler], payload: Any) -> tuple[Any, Any]:
    return answer(make_handler(), payload)


def _ended(job: Any, folder: Path) -> tuple[Any, Any]:
    error = job.exception()
    if error is None:
        return job.result()
    text = " ".join(str(error).split())[:500]
    message = f"Job {job.job_id} of the cluster ended early: {text}"
    return None, failure(Geo3dError("work.worker_died", message, f"Its log lies in {folder}."))
