"""Jobs of the viewer are cancelled, and those that are not are no result."""

from __future__ import annotations

import pytest

from apps.bench import cancel as bench_cancel
from apps.jobs import Jobs
from geo3d.errors import InputError


@pytest.mark.slow
def test_a_generation_is_cancelled_in_the_sampler() -> None:
    (row,) = bench_cancel.bench_cancel([("structure", 3)])
    assert 3 <= row["step"] < bench_cancel.STEPS and row["seconds"] > 0


@pytest.mark.slow
def test_a_generation_that_goes_on_is_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_cancel, "STEPS", 1)
    monkeypatch.setattr(Jobs, "cancel", lambda self, job_id: self.get(job_id))
    with pytest.raises(InputError, match=r"bench.not_cancelled.*is done"):
        bench_cancel.bench_cancel([("structure", 1)])


@pytest.mark.slow
def test_a_moment_that_never_comes_is_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_cancel, "_PATIENCE_S", 3.0)
    with pytest.raises(InputError, match=r"bench.not_cancelled.*nowhere 1 is cancelled"):
        bench_cancel.bench_cancel([("nowhere", 1)])
