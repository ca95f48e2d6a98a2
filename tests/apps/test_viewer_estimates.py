"""Expected times of jobs: guesses that earlier jobs correct."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from apps.job_files import end_job
from apps.jobs import Jobs
from apps.viewer import estimates, generate_job, scene_job, segment_job
from apps.viewer.course import course_of, left_s, whole_share
from apps.viewer.estimates import Estimate, Guess, estimate_note, expected, remembered
from apps.viewer.generate_job import Request
from apps.viewer.job_parts import Upload
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


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing else runs on this machine."""
    monkeypatch.setattr(estimates, "slowdown", lambda: 1.0)


def guess(seconds: float, kind: str = "scene", **like: Any) -> Guess:
    return Guess(kind, seconds, 1e9, like)


def test_without_a_history_the_guess_stands(jobs: Jobs) -> None:
    found = expected(jobs, guess(40.0, preset="demo"))
    assert found == Estimate(40.0, 1e9, False)
    assert "a guess" in estimate_note(found) and "0.9 GB" in estimate_note(found)


def test_one_job_tells_how_fast_the_machine_is(jobs: Jobs) -> None:
    """A machine three times as slow as guessed: after one run the estimate is right."""
    done(jobs, 120.0, kind="scene", guess_s=40.0, like={"preset": "demo"})
    found = expected(jobs, guess(80.0, preset="demo"))
    assert found.seconds == pytest.approx(240.0)
    assert found.learnt and "learnt" in estimate_note(found)


def test_a_busy_machine_is_no_slow_machine(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a job took among others is not expected of one that has a core of its own."""
    monkeypatch.setattr(estimates, "slowdown", lambda: 4.0)
    done(jobs, 160.0, kind="scene", **remembered(jobs, guess(40.0)))
    assert expected(jobs, guess(40.0)).seconds == pytest.approx(160.0)
    monkeypatch.setattr(estimates, "slowdown", lambda: 1.0)
    assert expected(jobs, guess(40.0)).seconds == pytest.approx(40.0)


def test_jobs_that_are_alike_count_first(jobs: Jobs) -> None:
    done(jobs, 30.0, kind="scene", guess_s=10.0, like={"preset": "smoke"})
    assert expected(jobs, guess(10.0, preset="demo")).seconds == pytest.approx(30.0)
    for seconds in (10.0, 20.0, 90.0):
        done(jobs, seconds, kind="scene", guess_s=10.0, like={"preset": "demo"})
    assert expected(jobs, guess(10.0, preset="demo")).seconds == pytest.approx(20.0)


def test_other_kinds_failures_and_old_jobs_tell_nothing(jobs: Jobs) -> None:
    done(jobs, 30.0, kind="generate", guess_s=10.0)
    done(jobs, 30.0, "failed", kind="scene", guess_s=10.0)
    done(jobs, 30.0, kind="scene")
    assert expected(jobs, guess(10.0)).seconds == 10.0


def test_guesses_grow_with_what_is_asked(jobs: Jobs) -> None:
    short, long = generate_street(30.0, 0, "straight"), generate_street(90.0, 0, "straight")
    costs = [scene_job.guess(s, p).seconds for s, p in ((short, "smoke"), (short, "demo"))]
    assert costs[0] < costs[1] < scene_job.guess(long, "demo").seconds
    few, many = (generate_job.guess(jobs, Request("shipped", n, 1, 4.0, 0)) for n in (5, 50))
    assert few is not None and many is not None and few.seconds < many.seconds
    assert generate_job.guess(jobs, Request("none", 5, 1, 4.0, 0)) is None
    small, large = (Upload("a", "", side, side) for side in (300, 3000))
    plain, mended = (segment_job.Request("shipped", "nothing", (), r) for r in (False, True))
    asked = ((small, plain), (large, plain), (large, mended))
    costs = [segment_job.guess(*given).seconds for given in asked]
    assert costs == sorted(costs) and costs[0] < costs[1] < costs[2]


def events(folder: Path, start: float, rows: Sequence[tuple[Any, ...]]) -> None:
    run = folder / "run" / "scene" / "a"
    run.mkdir(parents=True)
    lines = (
        json.dumps({"time": start + t, "stage": stage, "step": step, "total": total})
        for t, stage, step, total in rows
    )
    (run / "progress.jsonl").write_text("".join(f"{line}\n" for line in lines))
    (folder / "started.json").write_text(json.dumps({"time": start, "pid": 1, "created": 0}))


def test_one_bar_goes_along_as_the_last_job_did(jobs: Jobs) -> None:
    """A stage that took most of the time fills most of the bar; no stage sets it back."""
    first = jobs.submit(jobs.new_folder(), "job", ["scene"], {"kind": "scene", "guess_s": 10.0})
    rows = [(1, "quick", 1, 1), (2, "slow", 0, 10), (80, "slow", 10, 10), (90, "quick", 1, 1)]
    events(first.folder, 1000.0, [(float(t), *row) for t, *row in rows])
    end_job(first.folder, "done")
    ended = json.loads((first.folder / "ended.json").read_text())
    (first.folder / "ended.json").write_text(json.dumps({**ended, "seconds": 100.0}))
    course = course_of(jobs.get(first.id))
    assert course == [
        ["quick", 0, 0.01, 0.01],
        ["slow", 0, 0.02, 0.8],
        ["quick", 1, 0.9, 0.9],
    ]
    settings = {"kind": "scene", "expected_s": 100.0, "course": course}
    second = jobs.submit(jobs.new_folder(), "job", ["scene"], settings)
    shares = []
    for n in range(1, 5):
        folder = second.folder
        shutil.rmtree(folder / "run", ignore_errors=True)
        events(folder, 1000.0, [(float(t), *row) for t, *row in rows[:n]])
        job = replace(jobs.get(second.id), seconds=float(rows[n - 1][0]))
        shares.append(whole_share(job))
    assert None not in shares and shares == sorted(shares)
    assert shares[-1] == pytest.approx(0.9, abs=0.02) and shares[1] < 0.05


def test_a_job_that_takes_longer_never_seems_done(jobs: Jobs) -> None:
    settings = {"kind": "scene", "expected_s": 10.0}
    job = jobs.submit(jobs.new_folder(), "job", ["scene"], settings)
    late = replace(job, seconds=500.0)
    share, left = whole_share(late), left_s(late)
    assert share is not None and left is not None and share < 0.98 and left > 5
    assert left_s(replace(job, settings={})) is None
