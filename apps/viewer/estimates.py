"""What a job will cost, learnt from the jobs that this machine has done.

A tab's own guess knows how time grows with what was chosen; how fast the machine is, the guess does
not know.  The ratio of seconds to guess of earlier jobs does: its median scales the guess.  How
much else is going on is asked of the machine, before and after there is a history.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import psutil

from apps.job_files import Job
from apps.jobs import Jobs
from apps.viewer import fragments
from apps.viewer.course import course_of
from geo3d.threads import usable_cores

HISTORY = 5
"""How many earlier jobs are looked at, newest first."""
CROWDING = 0.85
"""Not all that is counted by the load runs all the time; fitted to jobs at loads of 0 to 9."""
ALIKE = 1.25
"""Most that the guesses of two jobs differ for one to tell how the other goes along."""


@dataclass(frozen=True)
class Estimate:
    """What a job is expected to take."""

    seconds: float
    memory: float
    """Bytes, the most at any time."""
    learnt: bool
    """From earlier jobs of this kind here; else a guess."""


@dataclass(frozen=True)
class Guess:
    """What a tab knows of a job before this machine has a history."""

    kind: str
    """Of the job; other kinds tell nothing."""
    seconds: float
    """On a core of its own."""
    memory: float
    """Bytes."""
    like: Mapping[str, Any]
    """Settings that change what a second buys; earlier jobs with the same count first."""


def slowdown() -> float:
    """Return how many times longer a job takes because of what else runs on this machine."""
    return max(1.0, (psutil.getloadavg()[0] + 1.0) / usable_cores()) ** CROWDING


def expected(jobs: Jobs, guess: Guess) -> Estimate:
    """Return what a job is expected to take."""
    earlier = _earlier(jobs, guess)
    if not earlier:
        return Estimate(guess.seconds * slowdown(), guess.memory, False)
    newest = earlier[:HISTORY]
    ratio = median(job.seconds / float(job.settings["guess_s"]) for job in newest)
    peaks = [job.peak_bytes for job in newest if job.peak_bytes]
    memory = float(median(peaks)) if peaks else guess.memory
    return Estimate(guess.seconds * slowdown() * ratio, memory, True)


def remembered(jobs: Jobs, guess: Guess) -> dict[str, Any]:
    """Return what the record of a job keeps, for its bar and for the estimates of later ones."""
    found = expected(jobs, guess)
    record: dict[str, Any] = {
        "guess_s": guess.seconds * slowdown(),
        "plain_guess_s": guess.seconds,
        "like": dict(guess.like),
        "expected_s": found.seconds,
    }
    for job in _earlier(jobs, guess):
        plain = float(job.settings.get("plain_guess_s") or 0.0)
        if plain and 1 / ALIKE <= guess.seconds / plain <= ALIKE and _same(job, guess):
            record["course"] = course_of(job)
            break
    return record


def estimate_note(found: Estimate) -> str:
    """Return the line that tells what a job will take."""
    how = "learnt from earlier jobs" if found.learnt else "a guess: none was done here yet"
    memory = f"{found.memory / 2**30:.1f} GB of memory"
    text = f"Expected: about {fragments.age(max(found.seconds, 1.0))}, {memory} ({how})."
    free = psutil.virtual_memory().available
    if found.memory > free:
        text += f" Only {free / 2**30:.1f} GB are free: it may fail."
    return fragments.note(text)


def _earlier(jobs: Jobs, guess: Guess) -> list[Job]:
    """Return finished jobs that tell something, newest first: those alike, if there are any."""
    done = [
        job
        for job in jobs.all()
        if job.state == "done"
        and job.settings.get("kind") == guess.kind
        and job.settings.get("guess_s")
    ]
    return [job for job in done if _same(job, guess)] or done


def _same(job: Job, guess: Guess) -> bool:
    return job.settings.get("like") == dict(guess.like)
