"""Estimates of real jobs against what they took: before this machine has a history, and after one.

``pytest -s -m slow tests/apps/test_estimates_come_true.py`` prints the factors, which depend on
what else runs; the test itself fails only where a guess is of another order.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from apps.job_files import Job
from apps.jobs import Jobs
from apps.viewer import generate_job, match_job, scene_job, segment_job, shapes
from apps.viewer.estimates import slowdown
from geo3d.synth.streets.generate import generate_street

pytestmark = pytest.mark.slow

BEFORE, AFTER = 2.0, 1.5
"""Most that expectation and truth should differ by, as a factor."""
OTHER_ORDER = 8.0
PATIENCE_S = 600.0


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    made = Jobs(tmp_path / "runs" / "jobs", worker=(sys.executable, "-m", "apps.viewer.worker"))
    yield made
    made.close()
    for child in made._children.values():
        child.wait()


def a_match(jobs: Jobs, scratch: Path) -> Job:
    names = next(iter(shapes.example_pairs().values()))
    source, target = (shapes.example_shape(name, scratch) for name in names)
    return match_job.submit(jobs, source, target, match_job.Settings("axiomatic", "fast", 0))


def a_mask(jobs: Jobs, scratch: Path) -> Job:
    image = segment_job.example(next(iter(segment_job.EXAMPLES)), scratch)
    return segment_job.submit(jobs, image, None, segment_job.Request("shipped", "nothing", ()))


def an_object(jobs: Jobs, scratch: Path) -> Job:
    image = generate_job.example(next(iter(generate_job.EXAMPLES)), scratch)
    request = generate_job.Request(next(iter(generate_job.models(jobs))), 10, 1, 3.0, 0)
    return generate_job.submit(jobs, image, request)


def a_street(jobs: Jobs, scratch: Path) -> Job:
    none = scene_job.NO_STYLE
    request = scene_job.Request("smoke", none, none, 0)
    return scene_job.submit(jobs, generate_street(30.0, 0, "straight"), request)


@pytest.mark.parametrize("submit", [a_match, a_mask, an_object, a_street])
def test_an_estimate_comes_true(
    jobs: Jobs, tmp_path: Path, submit: Callable[[Jobs, Path], Job]
) -> None:
    factors = []
    for limit in (BEFORE, AFTER):
        load = slowdown()
        job = submit(jobs, tmp_path)
        end = time.monotonic() + PATIENCE_S
        while not (job := jobs.get(job.id)).ended:
            assert time.monotonic() < end
            time.sleep(0.2)
        assert job.state == "done", job.error
        expected = float(job.settings["expected_s"])
        factor = max(job.seconds / expected, expected / job.seconds)
        factors.append(factor)
        sys.stdout.write(
            f"{submit.__name__}: expected {expected:.1f} s, took {job.seconds:.1f} s, factor "
            f"{factor:.2f} (wanted {limit}), slowed down {load:.1f} times, "
            f"{job.peak_bytes / 2**20:.0f} MB\n"
        )
    assert max(factors) < OTHER_ORDER
