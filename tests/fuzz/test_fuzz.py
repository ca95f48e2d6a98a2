"""The fuzzer: reproducible, catches what it must, and finds nothing in the readers."""

from __future__ import annotations

import json
import time

import pytest
from fuzz import run as fuzz
from fuzz.cases import MUTATIONS, make_case, seed_files

from geo3d.errors import Geo3dError
from geo3d.mesh.io import FORMATS


def test_two_thousand_cases_end_well() -> None:
    events = []
    result = fuzz.run_fuzz(2000, seed=7, progress=events.append)
    assert result.failures == ()
    assert sum(result.outcomes.values()) == result.cases == 2000
    assert result.worst_seconds <= fuzz.MAX_SECONDS
    assert result.worst_memory <= fuzz.MAX_MEMORY
    # The mutations neither miss everything nor destroy everything.
    assert 200 < result.outcomes["mesh"] < 1500
    assert len(result.outcomes) > 10
    assert events[-1]["step"] == events[-1]["total"] == 2000


@pytest.mark.slow
def test_fifty_thousand_cases_end_well() -> None:
    assert fuzz.run_fuzz(50_000, seed=8).failures == ()


def test_cases_depend_on_seed_and_number_only() -> None:
    assert make_case(3, 14, FORMATS) == make_case(3, 14, FORMATS)
    files = {make_case(seed, case, FORMATS)[1] for seed in (0, 1) for case in range(50)}
    assert len(files) > 90


@pytest.mark.parametrize("kind", FORMATS)
def test_every_seed_file_is_valid(kind: str) -> None:
    for data in seed_files(kind):
        assert fuzz.read_case(f".{kind}", data, with_repairs=True) == "mesh"


def test_every_mutation_takes_any_file() -> None:
    from random import Random

    for mutate in MUTATIONS:
        for data in (b"", b"x", b"1", *seed_files("off")):
            changed = [mutate(data, Random(i)) for i in range(20)]
            assert all(isinstance(result, bytes) for result in changed)
        assert any(result != data for result in changed)


def _reader_that_fails(suffix: str, data: bytes, with_repairs: bool = False) -> str:
    raise KeyError("not a Geo3dError")


def _reader_that_refuses(suffix: str, data: bytes, with_repairs: bool = False) -> str:
    raise Geo3dError("some.code", "said on purpose")


def test_other_exceptions_are_failures_and_ours_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz, "read_case", _reader_that_fails)
    assert fuzz._outcome(".obj", b"", 0) == "failure: KeyError: 'not a Geo3dError'"
    monkeypatch.setattr(fuzz, "read_case", _reader_that_refuses)
    assert fuzz._outcome(".obj", b"", 0) == "some.code"


def _work_that_crashes_and_hangs(connection, seed, start, stop, formats) -> None:  # type: ignore[no-untyped-def]
    """Stand in for the worker: case 2 kills the process, case 5 never ends, case 7 is slow."""
    import os

    connection.send(None)
    for case in range(start, stop):
        if case == 2:
            os.kill(os.getpid(), 9)
        if case == 5:
            time.sleep(600)
        seconds = 99.0 if case == 7 else 0.01
        outcome = "failure: KeyError" if case == 8 else "mesh"
        connection.send((outcome, seconds, 2**31 if case == 9 else 2**20))


def test_crashes_and_hangs_cost_one_case_and_are_attributed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fuzz, "_work", _work_that_crashes_and_hangs)
    monkeypatch.setattr(fuzz, "HANG_SECONDS", 1.0)
    context = fuzz.multiprocessing.get_context("fork")
    monkeypatch.setattr(fuzz.multiprocessing, "get_context", lambda kind: context)
    result = fuzz.run_fuzz(12, seed=4)
    found = {failure.case: failure.what.partition(":")[0] for failure in result.failures}
    assert found == {2: "crash", 5: "hang", 7: "slow", 8: "KeyError", 9: "memory"}
    assert result.worst_seconds_case == 7
    assert all(failure.seed == 4 for failure in result.failures)


def test_the_command_prints_the_figures(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CASES", "50")
    monkeypatch.setenv("SEED", "1")
    assert fuzz.main() == 0
    assert json.loads(capsys.readouterr().out)["cases"] == 50
