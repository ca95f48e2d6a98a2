"""The process pool: threads of its workers."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from geo3d.work.pool import THREAD_VARIABLES, Task, run_pool


def tell_environment() -> Callable[[Any], Any]:
    return os.environ.get


@pytest.mark.parametrize(("given", "expected"), [({}, "3"), ({"OMP_NUM_THREADS": "1"}, "1")])
def test_one_thread_variable_stands_for_all(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], expected: str
) -> None:
    for name in THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    tasks = [Task(i, 0, name) for i, name in enumerate(THREAD_VARIABLES)]
    found = [o.value for o in run_pool(tasks, tell_environment, 1, threads=3)]
    assert found == [expected] * 3
    # nothing stays behind in this process
    assert {name for name in THREAD_VARIABLES if name in os.environ} == set(given)
