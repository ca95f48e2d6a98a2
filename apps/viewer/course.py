"""How far a job is as a whole: one bar from its beginning to its end, and the time that is left.

A verb tells stages, each with steps of its own; how long each takes is known from the last job that
was like this one (its course: stages in their order, with the shares of the whole at which each
began and ended).  Without one, time alone tells.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from apps.job_files import Job, read_json

MOST_BYTES = 1 << 20
"""Of a file of progress that is read whole."""
NEARLY = 0.97
"""Where the bar waits while a job takes longer than expected."""
Course = list[list[Any]]
"""Rows of a stage, its how-manieth run, and the shares of the whole at its first and last event."""


class Position(NamedTuple):
    """Where a job is."""

    stage: str
    run: int
    """The how-manieth run of the stage, from 0: stages may come again."""
    done: float
    """Share of the stage."""
    time: float
    """Seconds since the epoch."""


def course_of(job: Job) -> Course:
    """Return how a finished job went along; empty where nothing is known."""
    started = read_json(job.folder / "started.json")
    if started is None or job.seconds <= 0:
        return []
    rows: dict[tuple[str, int], list[float]] = {}
    for at in _positions(job):
        share = (at.time - float(started["time"])) / job.seconds
        rows.setdefault((at.stage, at.run), [share, share])[1] = share
    return [[stage, run, *map(_rounded, ends)] for (stage, run), ends in rows.items()]


def left_s(job: Job) -> float | None:
    """Return the seconds that a running job still needs; None where nothing is expected."""
    expected = float(job.settings.get("expected_s") or 0.0)
    if not expected:
        return None
    by_time = expected - job.seconds
    share = _share(job)
    if share:
        by_course = job.seconds / share - job.seconds
        by_time = share * by_course + (1 - share) * by_time
    return max(by_time, job.seconds * (1 / NEARLY - 1), 1.0)


def whole_share(job: Job) -> float | None:
    """Return how much of a running job is done, 0 to 1; None where nothing is known."""
    left = left_s(job)
    return None if left is None else job.seconds / (job.seconds + left)


def _share(job: Job) -> float | None:
    """Return the share of the whole that an earlier job says belongs to this position."""
    course: Course = job.settings.get("course") or []
    positions = list(_positions(job)) if course else []
    if not positions:
        return None
    last = positions[-1]
    for stage, run, begin, end in course:
        if stage == last.stage and run == last.run:
            return min(max(begin + last.done * (end - begin), 0.01), 0.99)
    return None


def _positions(job: Job) -> Iterator[Position]:
    run = job.run_folder
    path = run / "progress.jsonl" if run else None
    try:
        if path is None or path.stat().st_size > MOST_BYTES:
            return
        lines = path.read_text("utf-8").splitlines()
    except OSError:
        return
    runs: dict[str, int] = {}
    before, done_before = "", 0.0
    for line in lines:
        try:
            event = json.loads(line)
            stage, time = str(event["stage"]), float(event["time"])
            total = event.get("total")
            done = float(event["step"]) / total if total else 0.0
        except (ValueError, KeyError, TypeError):
            continue
        if stage != before or done < done_before:
            runs[stage] = runs.get(stage, -1) + 1
        before, done_before = stage, done
        yield Position(stage, runs[stage], done, time)


def _rounded(share: float) -> float:
    return round(min(max(share, 0.0), 1.0), 4)
