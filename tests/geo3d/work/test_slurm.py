"""Work on an engine: submitit's own executor of this machine stands in for a cluster."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import engine_tasks
import pytest

from geo3d.errors import BackendUnavailable, Cancelled
from geo3d.work import slurm
from geo3d.work.pool import Limits, Task, run_pool
from geo3d.work.runner import Work, run_items
from geo3d.work.slurm import SlurmConfig, engine_of

# submitit does not wait for the processes of jobs that it cancels.
pytestmark = pytest.mark.filterwarnings(
    "ignore:subprocess .* is still running:ResourceWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",
)
ROOT = Path(__file__).resolve().parents[3]


WANTED = SlurmConfig(minutes=2, cpus=1)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Let jobs of the cluster be processes of this machine."""
    pytest.importorskip("submitit", reason="needs geo3d[distributed]")
    monkeypatch.setattr(slurm, "CLUSTER", "local")
    monkeypatch.setattr(slurm, "POLL_S", 0.05)
    monkeypatch.setattr(slurm.shutil, "which", lambda name: f"/usr/bin/{name}")
    # Jobs are cancelled by the signal that a test run in the background is told to ignore.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(partial(signal.signal, signal.SIGINT, before))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "tests")]))


def work(folder: Path, tasks: list[Task]) -> Work:
    folder.mkdir(exist_ok=True)
    make = partial(engine_tasks.make, folder)
    engine = engine_of("slurm", WANTED, folder)
    return Work(folder, tasks, make, lambda name: (folder / name).exists(), engine=engine)


def test_jobs_do_the_tasks_of_a_group_together(tmp_path: Path, here: None) -> None:
    """Two sources, one job each, and one task by itself: three handlers are made."""
    tasks = [Task("a1", "a1", "a"), Task("b1", "b1", "b"), Task("a2", "a2", "a"), Task("c", "c")]
    assert run_items(work(tmp_path / "w", tasks), Limits(workers=2)) == {}
    written = {path.name: path.read_text() for path in (tmp_path / "w").iterdir() if path.is_file()}
    assert set(written) == {"a1", "a2", "b1", "c"}
    assert written["a1"] == written["a2"] and len(set(written.values())) == 3
    assert str(os.getpid()) not in written.values()


@pytest.mark.slow
def test_what_fails_and_what_dies_is_told_by_name(tmp_path: Path, here: None) -> None:
    tasks = [Task(name, name) for name in ("fine", "refused", "killed")]
    failures = run_items(work(tmp_path / "w", tasks), Limits(workers=3))
    assert (tmp_path / "w" / "fine").exists()
    assert {name: f["code"] for name, f in failures.items()} == {
        "refused": "test.refused",
        "killed": "work.worker_died",
    }
    assert "slurm" in failures["killed"]["hint"]
    # the same call tries again what may have been the machine's fault, and nothing else
    made: list[str] = []
    again = work(tmp_path / "w", tasks)
    run_items(
        Work(again.folder, tasks, again.make_handler, again.is_finished, engine=spy(made)), Limits()
    )
    assert made == ["killed"]


def spy(made: list[str]) -> Callable[..., Iterator[object]]:
    def engine(tasks: list[Task], *rest: object) -> Iterator[object]:
        made.extend(task.name for task in tasks)
        return iter(())

    return engine


def test_a_stopped_work_leaves_no_job_behind(tmp_path: Path, here: None) -> None:
    def stop(event: object) -> None:
        if (tmp_path / "w" / "begun").exists():
            raise Cancelled

    with pytest.raises(Cancelled):
        run_items(work(tmp_path / "w", [Task("endless", "endless")]), Limits(), stop)
    process = int((tmp_path / "w" / "begun").read_text())
    engine_tasks.wait_for_end(process)


def test_locally_the_pool_does_it(tmp_path: Path) -> None:
    assert engine_of("local", WANTED, tmp_path) is run_pool


def test_without_a_cluster_nothing_is_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("submitit", reason="needs geo3d[distributed]")
    monkeypatch.setattr(slurm.shutil, "which", lambda name: None)
    with pytest.raises(BackendUnavailable) as caught:
        run_items(work(tmp_path / "w", [Task("a", "a")]), Limits())
    assert caught.value.code == "work.no_slurm"
