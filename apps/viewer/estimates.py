"""How long a job will take, learnt from the jobs that this machine has done.

A tab's own guess knows how time grows with what was chosen; how fast the machine is, the guess
does not know.  The ratio of seconds to guess of earlier jobs does: its median scales the guess.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any

from apps.jobs import Jobs
from apps.viewer import fragments

HISTORY = 12
"""How many earlier jobs are looked at, newest first."""


def expected_s(jobs: Jobs, kind: str, guess: float, like: Mapping[str, Any]) -> float:
    """Return the expected seconds of a job.

    Args:
        kind: of the job; others tell nothing.
        guess: seconds before this machine has a history.
        like: settings that change what a second buys; where earlier jobs have the same, only these
            are looked at.
    """
    ratios: dict[bool, list[float]] = {True: [], False: []}
    for job in jobs.all():
        earlier = job.settings.get("guess_s")
        if job.state != "done" or job.settings.get("kind") != kind or not earlier:
            continue
        same = all(job.settings.get(key) == value for key, value in like.items())
        ratios[same].append(job.seconds / float(earlier))
    told = ratios[True] or ratios[False]
    return guess * median(told[:HISTORY]) if told else guess


def estimate_note(seconds: float, learnt: bool) -> str:
    """Return the line that tells an expected time."""
    how = "learnt from earlier jobs" if learnt else "a guess: no job of this kind was done here yet"
    return fragments.note(f"Expected time: about {fragments.age(max(seconds, 1.0))} ({how}).")


def has_history(jobs: Jobs, kind: str) -> bool:
    """Return whether an estimate of this kind is more than a guess."""
    return any(
        job.state == "done" and job.settings.get("kind") == kind and job.settings.get("guess_s")
        for job in jobs.all()
    )
