"""Tasks as jobs of a Slurm cluster, in place of processes of this machine; needs submitit.

    engine = engine_of(config.engine, config.slurm, folder)
    run_items(Work(folder, tasks, make_handler, is_finished, engine=engine))

Tasks of one group are one job, which makes its handler once.  All that runs through
`geo3d.work.runner` chooses its engine here.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from geo3d.backends import require
from geo3d.errors import BackendUnavailable, Geo3dError
from geo3d.work.pool import Handler, Limits, Outcome, Task, answer, failure, run_pool
from geo3d.work.runner import Engine

EngineName = Literal["local", "slurm"]
CLUSTER = "slurm"
"""Of submitit's executors."""

POLL_S = 2.0
"""How often jobs of the cluster are looked at."""


@dataclass(frozen=True)
class SlurmConfig:
    """What to ask a cluster for, per job."""

    partition: str | None = None
    minutes: int = 120
    cpus: int = 4
    memory_gb: int = 16
    gpus: int = 0


def engine_of(engine: EngineName, wanted: SlurmConfig, folder: Path) -> Engine:
    """Return what runs the tasks of a folder: processes of this machine, or jobs of a cluster."""
    if engine == "local":
        return run_pool
    return partial(run_slurm, folder.resolve() / "slurm", wanted)


def run_slurm(
    folder: Path,
    wanted: SlurmConfig,
    tasks: Sequence[Task],
    make_handler: Callable[[], Handler],
    limits: Limits,
    idle: Callable[[], None],
) -> Iterator[Outcome]:
    """Yield an outcome per task, made by the jobs of an array; see `run_pool`.

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
    executor = submitit.AutoExecutor(folder=folder, cluster=CLUSTER)
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
    parcels = _parcels(tasks)
    payloads = [[task.payload for task in parcel] for parcel in parcels]
    found = executor.map_array(partial(_answers, make_handler), payloads)
    jobs, begun = list(zip(parcels, found, strict=True)), time.monotonic()
    try:
        while jobs:
            idle()
            finished = [entry for entry in jobs if entry[1].done()]
            for entry in finished:
                jobs.remove(entry)
                for task, (value, error) in zip(entry[0], _ended(*entry, folder), strict=True):
                    yield Outcome(task, value, error, time.monotonic() - begun)
            if not finished:
                time.sleep(POLL_S)
    finally:
        for _, job in jobs:
            job.cancel()


def _parcels(tasks: Sequence[Task]) -> list[list[Task]]:
    """Return the tasks of each job: those of a group together, others alone."""
    parcels: dict[Any, list[Task]] = {}
    for number, task in enumerate(tasks):
        key = (number,) if task.group is None else task.group
        parcels.setdefault((task.group is None, key), []).append(task)
    return list(parcels.values())


def _answers(make_handler: Callable[[], Handler], payloads: Sequence[Any]) -> list[Any]:
    handler = make_handler()
    return [answer(handler, payload) for payload in payloads]


def _ended(parcel: Sequence[Task], job: Any, folder: Path) -> Sequence[tuple[Any, Any]]:
    error = job.exception()
    if error is None:
        return job.result()
    text = " ".join(str(error).split())[:500]
    message = f"Job {job.job_id} of the cluster ended early: {text}"
    died = failure(Geo3dError("work.worker_died", message, f"Its log lies in {folder}."))
    return [(None, died)] * len(parcel)
