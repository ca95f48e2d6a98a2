"""The runner: claims, resuming, failures, kills."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from geo3d.errors import Cancelled, InputError, NumericalError
from geo3d.files import atomic_write_text
from geo3d.work.pool import Handler, Limits, Outcome, Task, answer
from geo3d.work.runner import SETTINGS, Work, claim, read_failure, run_items

ROOT = Path(__file__).resolve().parents[3]


def make(folder: Path, payload: tuple[str, str]) -> str:
    """Write a file, or fail as the payload says; what failed once leaves a mark."""
    name, what = payload
    mark = folder / f"{name}.mark"
    if what == "input":
        raise InputError("mesh.bad", "Bad.", "")
    if what == "number" or (what == "once" and not mark.is_file()):
        mark.touch()
        raise NumericalError("spectral.eigen_failed", "Odd.", "")
    atomic_write_text(folder / f"{name}.txt", f"{name} is {what}")
    return what


def inline(
    tasks: Sequence[Task],
    make_handler: Callable[[], Handler],
    limits: Limits,
    idle: Callable[[], None],
) -> Iterator[Outcome]:
    """Do tasks in this process: starting others takes seconds."""
    handler = make_handler()
    for task in tasks:
        idle()
        yield Outcome(task, *answer(handler, task.payload))


def work(folder: Path, given: Mapping[str, str], **changes: Any) -> Work:
    tasks = [Task(name, (name, what)) for name, what in given.items()]
    folder.mkdir(exist_ok=True)
    return Work(
        **{
            "folder": folder,
            "tasks": tasks,
            "make_handler": partial(partial, make, folder),
            "is_finished": lambda name: (folder / f"{name}.txt").is_file(),
            "engine": inline,
            **changes,
        }
    )


def test_a_folder_is_for_its_settings_alone(tmp_path: Path) -> None:
    settings = {"seed": 1, "sizes": (1, 2), "count": 5}
    claim(tmp_path / "new", settings)
    claim(tmp_path / "new", {**settings, "count": 9}, ["count"])
    assert json.loads((tmp_path / "new" / SETTINGS).read_text())["count"] == 9
    for other in ({**settings, "seed": 2}, {**settings, "more": 0}, {"count": 5}):
        with pytest.raises(InputError) as caught:
            claim(tmp_path / "new", other, ["count"])
        assert caught.value.code == "work.other_folder"
    assert "sizes, seed" not in str(caught.value) and "seed, sizes" in str(caught.value)
    (tmp_path / "new" / SETTINGS).write_text("{")
    with pytest.raises(InputError, match=r"work\.other_folder"):
        claim(tmp_path / "new", settings)


def test_failures_are_recorded_and_tried_again_where_it_may_help(tmp_path: Path) -> None:
    given = {"a": "fine", "b": "input", "c": "number", "sub/d": "fine"}
    found = run_items(work(tmp_path, given))
    assert {name: failure["code"] for name, failure in found.items()} == {
        "b": "mesh.bad",
        "c": "spectral.eigen_failed",
    }
    assert found["b"] == read_failure(tmp_path, "b") and read_failure(tmp_path, "a") is None
    assert (tmp_path / "sub/d.txt").is_file()
    # the input is at fault for good, the number may not be
    mended = dict.fromkeys(given, "mended")
    found = run_items(work(tmp_path, mended))
    assert list(found) == ["b"] and found["b"]["attempts"] == 1
    assert (tmp_path / "c.txt").read_text() == "c is mended"
    assert (tmp_path / "a.txt").read_text() == "a is fine"
    assert read_failure(tmp_path, "c") is None
    assert run_items(work(tmp_path, mended, retry_all=True)) == {}


def test_items_are_tried_again_within_a_call(tmp_path: Path) -> None:
    seen: list[Outcome] = []
    given = {"a": "once", "b": "number", "c": "input"}
    found = run_items(work(tmp_path, given, retries=2), record=seen.append)  # type: ignore[arg-type]
    assert {name: failure["attempts"] for name, failure in found.items()} == {"b": 3, "c": 1}
    assert [(outcome.value, outcome.attempt) for outcome in seen] == [("once", 2)]


def test_progress_counts_up_and_may_cancel(tmp_path: Path) -> None:
    events: list[Mapping[str, Any]] = []

    def listen(event: Mapping[str, Any]) -> None:
        events.append(event)
        if event["step"] == 2:
            raise Cancelled

    given = {"a": "fine", "b": "input", "c": "fine"}
    with pytest.raises(Cancelled):
        run_items(work(tmp_path, given, label="things"), progress=listen)
    assert [event["step"] for event in events] == sorted(event["step"] for event in events)
    assert events[-1]["stage"] == "things" and events[-1]["metrics"]["failed"] == 1
    assert sorted(path.name for path in tmp_path.glob("*.txt")) == ["a.txt"]
    run_items(work(tmp_path, given), progress=events.append)
    assert events[-1]["step"] == events[-1]["total"] == 3


CHILD = """
import sys, time
from functools import partial
from pathlib import Path
from geo3d.errors import NumericalError
from geo3d.files import atomic_write_text
from geo3d.work.pool import Limits, Task
from geo3d.work.runner import Work, claim, run_items

def make(folder, number):
    time.sleep(0.03)
    if number % 7 == 3:
        raise NumericalError("spectral.eigen_failed", "Odd.", "")
    atomic_write_text(folder / f"{number}.txt", str(number * number))

if __name__ == "__main__":
    folder, order = Path(sys.argv[1]), int(sys.argv[2])
    claim(folder, {"seed": 0})
    tasks = [Task(str(n), n) for n in range(20)][::order]
    work = Work(folder, tasks, partial(partial, make, folder),
                lambda name: (folder / f"{name}.txt").is_file())
    run_items(work, Limits(workers=2))
"""


def test_killed_work_is_continued_and_equal_in_any_order(tmp_path: Path) -> None:
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def start(name: str, order: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, str(script), str(tmp_path / name), str(order)]
        return subprocess.Popen(command, env=environment)

    assert start("whole", 1).wait(120) == 0
    for count in (0, 5, 12):
        process = start("killed", -1)
        end = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < end:
            if len(list((tmp_path / "killed").glob("*.txt"))) >= count:
                break
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert start("killed", -1).wait(120) == 0

    def content(name: str) -> dict[str, bytes]:
        return {p.name: p.read_bytes() for p in sorted((tmp_path / name).glob("[!.]*.*"))}

    assert content("killed") == content("whole") and len(content("whole")) == 18
    failed = sorted(path.stem for path in (tmp_path / "killed" / "failures").iterdir())
    assert failed == ["10", "17", "3"]
