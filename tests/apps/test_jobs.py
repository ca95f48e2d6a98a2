"""Jobs on disk: every way a job can go, with a child process that is a few lines long."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from apps.job_files import Job, read_json
from apps.jobs import Jobs
from geo3d.errors import InputError, LimitError
from geo3d.files import atomic_write_json

ROOT = Path(__file__).resolve().parents[2]

WORKER = """
import json, os, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from apps.job_worker import explain_crashes, work

explain_crashes()
folder = Path(sys.argv[2])

def main(argv):
    verb = argv[0]
    if verb == "polite":          # a job that polls for the wish to stop
        run = folder / "run" / "match" / "a-b"
        run.mkdir(parents=True)
        (run / "progress.jsonl").write_text('{"stage": "early"}\\n{"stage": "late"}\\n{"torn')
        while not (run / "cancel").exists():
            time.sleep(0.01)
        return 130
    if verb == "deaf":            # a job that never looks, with a child of its own
        import subprocess
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        (folder / "grandchild").write_text(str(child.pid))
        time.sleep(60)
    if verb == "bad input":
        error = {"code": "mesh.no_vertices", "message": "There are none.", "hint": "Add some."}
        print(json.dumps({"error": error}))
        return 3
    if verb == "bug":
        print(json.dumps({"error": {"code": "internal.unexpected", "message": "KeyError"}}))
        return 1
    if verb == "crash":
        os.kill(os.getpid(), 9)
    if verb == "usage":
        sys.exit(2)
    (folder / "ran").write_text(verb)
    return 0

sys.exit(work(folder, main))
"""


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Jobs]]:
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    made: list[Jobs] = []

    def build(**options: object) -> Jobs:
        worker = (sys.executable, str(script), str(ROOT))
        jobs = Jobs(tmp_path / "jobs", worker=worker, **options)  # type: ignore[arg-type]
        made.append(jobs)
        return jobs

    yield build
    for jobs in made:
        for job in jobs.all():
            jobs.cancel(job.id)
        _until(lambda j=jobs: all(job.ended for job in j.all()))
        _until(lambda j=jobs: not j._children)
        jobs.close()


def _until(ready: Callable[[], bool], limit_s: float = 30.0) -> None:
    end = time.monotonic() + limit_s
    while not ready():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


def _submit(jobs: Jobs, verb: str) -> Job:
    return jobs.submit(jobs.new_folder(), f"job {verb}", [verb], {"verb": verb})


def _ended(jobs: Jobs, job: Job) -> Job:
    _until(lambda: jobs.get(job.id).ended)
    return jobs.get(job.id)


def test_a_job_runs_and_its_record_is_complete(make: Callable[..., Jobs]) -> None:
    jobs = make()
    job = _submit(jobs, "fine")
    assert (len(job.id), job.title, job.settings) == (32, "job fine", {"verb": "fine"})
    done = _ended(jobs, job)
    assert (done.state, done.error) == ("done", None)
    assert (done.folder / "ran").read_text() == "fine"
    assert (done.folder / "heartbeat").exists()


@pytest.mark.parametrize(
    ("verb", "code"),
    [
        ("bad input", "mesh.no_vertices"),
        ("bug", "job.failed"),
        ("crash", "job.interrupted"),
        ("usage", "job.failed"),
    ],
)
def test_each_failure_has_its_code(make: Callable[..., Jobs], verb: str, code: str) -> None:
    jobs = make()
    job = _ended(jobs, _submit(jobs, verb))
    assert job.state == "failed"
    assert job.error is not None
    assert job.error["code"] == code
    assert "Traceback" not in json.dumps(dict(job.error))


def test_a_polite_job_stops_by_itself_when_cancelled(make: Callable[..., Jobs]) -> None:
    jobs = make(grace_s=30.0)
    job = _submit(jobs, "polite")
    _until(lambda: bool(jobs.get(job.id).progress))
    assert jobs.get(job.id).progress["stage"] == "late"
    assert jobs.get(job.id).state == "running"
    assert jobs.cancel(job.id).state in ("cancelling", "cancelled")
    assert _ended(jobs, job).state == "cancelled"


def test_a_deaf_job_is_killed_with_its_children(make: Callable[..., Jobs]) -> None:
    jobs = make(grace_s=0.2)
    job = _submit(jobs, "deaf")
    pid_file = job.folder / "grandchild"
    _until(lambda: pid_file.exists() and pid_file.read_text() != "")
    jobs.cancel(job.id)
    assert _ended(jobs, job).state == "cancelled"
    _until(lambda: not psutil.pid_exists(int(pid_file.read_text())))


def test_the_queue_keeps_its_order_and_a_queued_job_can_be_cancelled(
    make: Callable[..., Jobs],
) -> None:
    jobs = make(max_running=1)
    first, second, third = (_submit(jobs, verb) for verb in ("polite", "never", "later"))
    _until(lambda: jobs.get(first.id).state == "running")
    jobs.cancel(second.id)
    assert _ended(jobs, second).state == "cancelled"
    assert not (second.folder / "ran").exists()
    assert jobs.get(third.id).state == "queued"
    jobs.cancel(first.id)
    assert _ended(jobs, third).state == "done"
    assert [job.id for job in jobs.all()] == [third.id, second.id, first.id]


def test_a_vanished_process_does_not_end_the_watch(
    make: Callable[..., Jobs], monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs, step, failures = make(), Jobs._step, []

    def fail_first(self: Jobs) -> None:
        if not failures:
            failures.append(1)
            raise psutil.NoSuchProcess(1)
        step(self)

    monkeypatch.setattr(Jobs, "_step", fail_first)
    _until(lambda: bool(failures))
    assert _ended(jobs, _submit(jobs, "fine")).state == "done"


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="no such signal here")
def test_a_job_that_stands_still_tells_where(make: Callable[..., Jobs]) -> None:
    jobs = make()
    job = _submit(jobs, "polite")
    _until(lambda: bool(jobs.get(job.id).progress))
    record = read_json(job.folder / "started.json")
    assert record is not None
    os.kill(record["pid"], signal.SIGUSR1)
    _until(lambda: " in main" in (job.folder / "log.txt").read_text())
    assert jobs.get(job.id).state == "running"


def test_cancelling_a_job_that_ended_changes_nothing(make: Callable[..., Jobs]) -> None:
    jobs = make()
    job = _ended(jobs, _submit(jobs, "fine"))
    assert jobs.cancel(job.id).state == "done"


def test_a_new_server_finds_running_queued_and_dead_jobs(make: Callable[..., Jobs]) -> None:
    before = make(max_running=2)
    alive, dead = _submit(before, "polite"), _submit(before, "polite")
    queued = _submit(before, "fine")
    _until(lambda: all((j.folder / "started.json").exists() for j in (alive, dead)))
    before.close()
    children = list(before._children.values())
    before._children.clear()
    record = read_json(dead.folder / "started.json")
    assert record is not None
    os.kill(record["pid"], signal.SIGKILL)

    after = make(max_running=2)
    failed = _ended(after, dead)
    assert failed.error is not None
    assert failed.error["code"] == "job.interrupted"
    assert _ended(after, queued).state == "done"
    assert after.get(alive.id).state == "running"
    after.cancel(alive.id)
    assert _ended(after, alive).state == "cancelled"
    assert all(child.wait(timeout=30) != 0 for child in children)


def test_a_recycled_process_id_is_not_mistaken_for_the_job(make: Callable[..., Jobs]) -> None:
    jobs = make()
    folder = jobs.new_folder()
    jobs.close()
    atomic_write_json(
        folder / "started.json", {"pid": os.getpid(), "created": 1.0, "time": time.time()}
    )
    jobs.submit(folder, "old", ["fine"], {})
    after = make()
    job = _ended(after, after.get(folder.name))
    assert job.error is not None
    assert job.error["code"] == "job.interrupted"


def test_a_job_is_never_started_twice(make: Callable[..., Jobs]) -> None:
    jobs = make()
    job = _submit(jobs, "polite")
    _until(lambda: (job.folder / "started.json").exists())
    again = subprocess.run([*jobs._worker, str(job.folder)], check=False, timeout=30)
    assert again.returncode == 2
    assert jobs.get(job.id).state == "running"


def test_a_job_that_another_servers_child_took_first_runs_on(make: Callable[..., Jobs]) -> None:
    jobs = make()
    jobs.close()
    job = _submit(jobs, "polite")
    with subprocess.Popen([*jobs._worker, str(job.folder)]) as first:
        _until(lambda: bool(jobs.get(job.id).progress))
        jobs._children[job.id] = late = subprocess.Popen([*jobs._worker, str(job.folder)])
        assert late.wait(timeout=30) == 2
        jobs._step()
        assert jobs.get(job.id).state == "running"
        jobs.cancel(job.id)
        first.wait(timeout=30)
    jobs._step()
    assert jobs.get(job.id).state == "cancelled"


def test_a_process_that_starts_while_it_is_looked_for_is_not_dead(
    make: Callable[..., Jobs], monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = make()
    jobs.close()
    folder = jobs.new_folder()
    atomic_write_json(folder / "job.json", {"title": "t", "settings": {}, "created": 0.0})

    def starts(self: Jobs, folder: Path) -> None:
        (folder / "started.json").write_text("{}")

    monkeypatch.setattr(Jobs, "_process", starts)
    assert not jobs._settled(folder)
    assert jobs._settled(folder)
    assert jobs.get(folder.name).state == "failed"


@pytest.mark.parametrize("bad", ["", "..", "../../etc", "a" * 32, "A" * 32, "0" * 31])
def test_unknown_and_malformed_ids_are_refused(make: Callable[..., Jobs], bad: str) -> None:
    with pytest.raises(InputError) as caught:
        make().get(bad)
    assert caught.value.code == "job.unknown"


@pytest.mark.parametrize(
    ("constant", "value", "code"),
    [
        ("_MIN_FREE_DISK", 2**62, "job.disk_full"),
        ("_MIN_FREE_MEMORY", 2**62, "job.memory_full"),
        ("QUOTA_BYTES", -1, "job.quota"),
        ("MAX_WAITING", -1, "job.queue_full"),
    ],
)
def test_no_job_is_taken_without_room_for_it(
    make: Callable[..., Jobs],
    monkeypatch: pytest.MonkeyPatch,
    constant: str,
    value: int,
    code: str,
) -> None:
    jobs = make()
    monkeypatch.setattr(f"apps.jobs.{constant}", value)
    with pytest.raises(LimitError) as caught:
        _submit(jobs, "fine")
    assert caught.value.code == code
    assert list(jobs.root.iterdir()) == []


def test_damaged_records_are_no_jobs(make: Callable[..., Jobs]) -> None:
    jobs = make()
    folder = jobs.new_folder()
    (folder / "job.json").write_text('{"title": "half')
    assert jobs.all() == []


@pytest.mark.slow
def test_many_submit_and_cancel_cycles_leave_nothing_behind(make: Callable[..., Jobs]) -> None:
    jobs = make(max_running=2, grace_s=0.2)
    # Tests before this one may have left helpers of multiprocessing behind.
    before = set(psutil.Process().children(recursive=True))
    for i in range(200):
        job = _submit(jobs, "polite")
        if i % 4 == 0:  # the others are cancelled while they wait or while they start
            _until(lambda j=job: (j.folder / "started.json").exists())
        jobs.cancel(job.id)
    _until(lambda: all(job.ended for job in jobs.all()), limit_s=120)
    assert {job.state for job in jobs.all()} == {"cancelled"}
    _until(lambda: not set(psutil.Process().children(recursive=True)) - before)
