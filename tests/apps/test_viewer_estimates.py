"""Expected times of jobs: guesses that earlier jobs correct."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from apps.job_files import end_job
from apps.jobs import Jobs
from apps.viewer import generate_job, scene_job
from apps.viewer.estimates import estimate_note, expected_s, has_history
from apps.viewer.generate_job import Request
from geo3d.synth.streets.generate import generate_street


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    made = Jobs(tmp_path / "runs" / "jobs", max_running=0)
    yield made
    made.close()


def done(jobs: Jobs, seconds: float, state: str = "done", **settings: Any) -> None:
    """Add a job that took so many seconds."""
    job = jobs.submit(jobs.new_folder(), "job", ["match"], settings)
    end_job(job.folder, state)
    ended = json.loads((job.folder / "ended.json").read_text())
    (job.folder / "ended.json").write_text(json.dumps({**ended, "seconds": seconds}))


def test_without_a_history_the_guess_stands(jobs: Jobs) -> None:
    assert expected_s(jobs, "scene", 40.0, {"preset": "demo"}) == 40.0
    assert not has_history(jobs, "scene")
    assert "a guess" in estimate_note(40.0, False)


def test_one_job_tells_how_fast_the_machine_is(jobs: Jobs) -> None:
    """A machine three times as slow as guessed: after one run the estimate is right."""
    done(jobs, 120.0, kind="scene", guess_s=40.0, preset="demo")
    assert expected_s(jobs, "scene", 80.0, {"preset": "demo"}) == pytest.approx(240.0)
    assert has_history(jobs, "scene") and "learnt" in estimate_note(240.0, True)


def test_jobs_that_are_alike_count_first(jobs: Jobs) -> None:
    done(jobs, 30.0, kind="scene", guess_s=10.0, preset="smoke")
    assert expected_s(jobs, "scene", 10.0, {"preset": "demo"}) == pytest.approx(30.0)
    for seconds in (10.0, 20.0, 90.0):
        done(jobs, seconds, kind="scene", guess_s=10.0, preset="demo")
    assert expected_s(jobs, "scene", 10.0, {"preset": "demo"}) == pytest.approx(20.0)


def test_other_kinds_failures_and_old_jobs_tell_nothing(jobs: Jobs) -> None:
    done(jobs, 30.0, kind="generate", guess_s=10.0)
    done(jobs, 30.0, "failed", kind="scene", guess_s=10.0)
    done(jobs, 30.0, kind="scene")
    assert expected_s(jobs, "scene", 10.0, {}) == 10.0


def test_guesses_grow_with_what_is_asked(jobs: Jobs) -> None:
    short, long = generate_street(30.0, 0, "straight"), generate_street(90.0, 0, "straight")
    assert scene_job.guess_s(short, "smoke") < scene_job.guess_s(short, "demo")
    assert scene_job.guess_s(short, "demo") < scene_job.guess_s(long, "demo")
    assert scene_job.estimate_s(jobs, long, "demo") == scene_job.guess_s(long, "demo")
    few, many = (generate_job.estimate_s(jobs, Request("shipped", n, 1, 4.0, 0)) for n in (5, 50))
    assert few is not None and many is not None and few < many
    assert generate_job.estimate_s(jobs, Request("none", 5, 1, 4.0, 0)) is None
