"""The process pool: limits, stopping, threads of its workers."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from geo3d.errors import Cancelled, InputError
from geo3d.threads import COUNTS, PASSIVE
from geo3d.work.pool import Limits, Outcome, Task, raise_if_stopping, run_pool


def tell_environment() -> Callable[[Any], Any]:
    return os.environ.get


def trouble(payload: Any) -> Any:
    """Do what the payload says."""
    what, value = payload
    if what == "raise":
        raise InputError("mesh.bad", "Bad.", "Mend it.")
    if what == "defect":
        raise ZeroDivisionError("unforeseen")
    if what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "sleep":
        time.sleep(value)
    if what == "fill":
        filled = bytearray(value << 20)
        time.sleep(30)
        return len(filled)
    if what == "wait":
        Path(value).with_suffix(".begun").touch()
        try:
            while True:
                raise_if_stopping()
                time.sleep(0.01)
        except Cancelled:
            Path(value).write_text("checkpoint")
            raise
    return os.getpid()


def troublemaker() -> Callable[[Any], Any]:
    return trouble


def broken() -> Callable[[Any], Any]:
    os._exit(3)


def done(payloads: list[tuple[str, Any]], **limits: Any) -> list[Outcome]:
    tasks = [Task(str(i), payload) for i, payload in enumerate(payloads)]
    found = list(run_pool(tasks, troublemaker, Limits(**limits)))
    return sorted(found, key=lambda outcome: int(outcome.task.name))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "3"),
        ({"OMP_NUM_THREADS": "1"}, "1"),
        # a quota's threads are shared out among the workers, a user's are each worker's
        ({"OMP_NUM_THREADS": "8", "GEO3D_THREADS_BY_QUOTA": "1"}, "3"),
    ],
)
def test_one_thread_variable_stands_for_all(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], expected: str
) -> None:
    for name in (*COUNTS, *PASSIVE):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    tasks = [Task(name, name) for name in (*COUNTS, *PASSIVE)]
    found = {o.task.name: o.value for o in run_pool(tasks, tell_environment, Limits(threads=3))}
    assert found == {**dict.fromkeys(COUNTS, expected), **PASSIVE}
    # nothing stays behind in this process
    kept = {name for name in (*COUNTS, *PASSIVE) if name in os.environ}
    assert kept == set(given) - {"GEO3D_THREADS_BY_QUOTA"}


def test_whatever_a_task_does_is_recorded_and_the_others_go_on() -> None:
    given: list[tuple[str, Any]] = [("raise", 0), ("defect", 0), ("die", 0), ("sleep", 60)]
    given += [("", 0), ("fill", 500), ("", 0)]
    found = done(given, workers=2, timeout=3.0, memory_mib=300.0)
    codes = [outcome.error and outcome.error["code"] for outcome in found]
    assert codes == [
        *("mesh.bad", "work.unexpected", "work.worker_died", "work.timeout"),
        *(None, "work.over_memory", None),
    ]
    assert [o.error["exit_code"] for o in found[:3] if o.error] == [3, 1, 1]
    assert found[0].error and found[0].error["hint"] == "Mend it."
    assert found[1].error and "ZeroDivisionError" in found[1].error["message"]
    assert found[2].error and "exit code -9" in found[2].error["message"]
    assert 3.0 <= found[3].seconds < 10 and found[4].seconds < 3


def test_a_worker_serves_many_tasks_or_one() -> None:
    same = {outcome.value for outcome in done([("", 0)] * 3)}
    fresh = {outcome.value for outcome in done([("", 0)] * 3, fresh=True)}
    assert (len(same), len(fresh)) == (1, 3)


def test_groups_stay_together() -> None:
    tasks = [Task(f"{group}{i}", ("", 0), group) for i in range(2) for group in "abc"]
    assert [o.task.name for o in run_pool(tasks, troublemaker)] == "a0 a1 b0 b1 c0 c1".split()


def test_workers_that_cannot_start_are_not_replaced_forever() -> None:
    found = list(run_pool([Task("a"), Task("b")], broken, Limits(2)))
    assert [o.error["code"] for o in found if o.error] == ["work.worker_died"] * 2
    assert all(outcome.seconds < 60 for outcome in found)


def test_a_stopped_pool_lets_tasks_write_their_checkpoints(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"

    def cancel() -> None:
        if path.with_suffix(".begun").is_file():
            raise Cancelled

    begun = time.monotonic()
    tasks = [Task("wait", ("wait", str(path)))]
    with pytest.raises(Cancelled):
        list(run_pool(tasks, troublemaker, Limits(fresh=True, grace=30.0), cancel))
    assert path.read_text() == "checkpoint" and time.monotonic() - begun < 25
