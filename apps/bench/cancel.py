"""How soon a generation that was started in the viewer is over, its process gone, once it is
cancelled."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from apps.job_files import Job, read_json
from apps.jobs import Jobs
from apps.viewer import generate_job
from geo3d.errors import InputError
from geo3d.progress import ProgressCallback, ignore_progress, tell_each

STEPS = 100
MOMENTS = (("structure", 10), ("structure", 60), ("latent", 5), ("latent", 20), ("latent", 50))
"""Stage of the sampler and step at which a job is cancelled."""
_PATIENCE_S = 300.0


def bench_cancel(
    moments: Sequence[tuple[str, int]] = MOMENTS, progress: ProgressCallback = ignore_progress
) -> list[dict[str, Any]]:
    """Return a row per moment: the stage, the step reached, the seconds until it was over.

    Raises:
        InputError: ``bench.not_cancelled`` (the job ended otherwise, or never came so far).
    """
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        jobs = Jobs(root / "jobs")
        try:
            image = generate_job.example("Chair", root)
            for stage, step in tell_each(moments, progress, "cancelled"):
                request = generate_job.Request(generate_job.SHIPPED, STEPS, 1, 3.0, len(rows))
                job = generate_job.submit(jobs, image, request)
                rows.append(_cancelled(jobs, job, stage, step))
        finally:
            jobs.close()
    return rows


def _cancelled(jobs: Jobs, job: Job, stage: str, step: int) -> dict[str, Any]:
    """Wait until a job is so far, cancel it, wait until it is over."""
    begun = time.monotonic()
    while (at := _reached(job, stage, step)) is None and not job.ended:
        if time.monotonic() - begun > _PATIENCE_S:
            break
        time.sleep(0.02)
        job = jobs.get(job.id)
    asked = time.monotonic()
    jobs.cancel(job.id)
    process = (read_json(job.folder / "started.json") or {}).get("pid", 0)
    while not job.ended or psutil.pid_exists(process):
        if time.monotonic() - asked > _PATIENCE_S:
            break
        time.sleep(0.01)
        job = jobs.get(job.id)
    spent = time.monotonic() - asked
    if at is None or job.state != "cancelled":
        raise InputError(
            "bench.not_cancelled",
            f"A generation that was to be cancelled at {stage} {step} is {job.state}: "
            f"{job.error or 'no error'}.",
            "Look whether `geo3d generate` works.",
        )
    return {"stage": stage, "step": at, "seconds": round(spent, 2)}


def _reached(job: Job, stage: str, step: int) -> int | None:
    """Return the step of a job that is in ``stage`` at ``step`` or later."""
    at = int(job.progress.get("step", 0))
    return at if job.progress.get("stage") == stage and at >= step else None
