"""Jobs on disk: a job is a folder, and a child process that runs a verb of the command line.

What a job is doing is read from files, never remembered: it survives a page refresh, a closed tab
and a restarted server.  Each file has one writer, so nothing needs locks:

    job.json        what to run, written once when the job is submitted (marks the folder as a job)
    started.json    process id and start time, by the child (`apps.job_worker`)
    heartbeat       touched by the child every second
    cancel          made by whoever asks to stop
    ended.json      state, error and seconds: by the child, or by the server if the child died
    result.json, log.txt   standard output and error of the verb
    inputs/         its files in
    run/            where the verb makes its run folder (see `geo3d.runs`), progress.jsonl in it

States: queued, running, cancelling, done, failed, cancelled.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from geo3d.errors import Geo3dError, InputError, LimitError
from geo3d.files import atomic_write_json, is_id, new_id

_log = logging.getLogger(__name__)

FINAL_STATES = frozenset({"done", "failed", "cancelled"})
WORKER = (sys.executable, "-m", "apps.job_worker")
_MIN_FREE_DISK = 500 * 2**20
_MIN_FREE_MEMORY = 500 * 2**20


@dataclass(frozen=True)
class Job:
    """What the files of one job say."""

    folder: Path
    """Its folder; the folder's name is the job's id."""
    title: str
    """What the job is, in the user's words; untrusted text."""
    settings: Mapping[str, Any]
    """What the page that submitted the job needs to show it again."""
    created: float
    """Submission time, seconds since the epoch."""
    state: str
    """queued, running, cancelling, done, failed or cancelled."""
    progress: Mapping[str, Any] = field(default_factory=dict)
    """The latest progress event; empty before the first."""
    seconds: float = 0.0
    """Run time so far, or in all once ended."""
    silent_s: float = 0.0
    """Seconds since the child's last sign of life."""
    error: Mapping[str, str] | None = None
    """Code, message and hint of a failed job."""

    @property
    def id(self) -> str:
        """128 random bits as 32 hex digits."""
        return self.folder.name

    @property
    def run_folder(self) -> Path | None:
        """The verb's run folder, once it has made one."""
        return run_folder(self.folder)

    @property
    def ended(self) -> bool:
        """Whether the state is final."""
        return self.state in FINAL_STATES


class Jobs:
    """The jobs under one folder, and the thread that starts, watches and stops them.

    Args:
        root: folder that holds one folder per job.
        max_running: how many run at once; the others wait in order of submission.
        grace_s: how long a child may take to stop by itself after a cancel before it is killed.
        worker: command of the child; the job's folder is appended.
    """

    def __init__(
        self,
        root: Path,
        *,
        max_running: int = 1,
        grace_s: float = 1.5,
        worker: Sequence[str] = WORKER,
    ) -> None:
        self.root = Path(root).resolve()
        self.root.mkdir(parents=True, exist_ok=True)
        self._max_running = max_running
        self._grace_s = grace_s
        self._worker = tuple(worker)
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        # What is not final; the watching thread looks at nothing else.
        self._open = {job.id for job in self.all() if not job.ended}
        self._thread = threading.Thread(target=self._watch, name="geo3d-jobs", daemon=True)
        self._thread.start()

    def new_folder(self) -> Path:
        """Make the folder of a future job; it becomes a job with `submit`."""
        folder = self.root / new_id()
        folder.mkdir(mode=0o700)
        (folder / "inputs").mkdir()
        return folder

    def submit(
        self, folder: Path, title: str, argv: Sequence[str], settings: Mapping[str, Any]
    ) -> Job:
        """Queue the verb ``argv`` of the command line, to run for the job in ``folder``.

        Raises:
            LimitError: ``job.disk_full``, ``job.memory_full``.
        """
        try:
            self._check_room()
        except LimitError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        record = {
            "title": title,
            "argv": list(argv),
            "settings": dict(settings),
            "created": time.time(),
        }
        atomic_write_json(folder / "job.json", record)
        with self._lock:
            self._open.add(folder.name)
        return self.get(folder.name)

    def get(self, job_id: str) -> Job:
        """Read one job.

        Raises:
            InputError: ``job.unknown``.
        """
        job = read_job(self.root / job_id) if is_id(job_id) else None
        if job is None:
            raise InputError(
                "job.unknown", "There is no such job.", "Pick one from the list of jobs."
            )
        return job

    def all(self) -> list[Job]:
        """Read every job, newest first."""
        folders = [p for p in self.root.iterdir() if is_id(p.name)]
        jobs = [job for job in map(read_job, folders) if job is not None]
        return sorted(jobs, key=lambda job: job.created, reverse=True)

    def cancel(self, job_id: str) -> Job:
        """Ask a job to stop; a job that has ended is left as it is."""
        job = self.get(job_id)
        if not job.ended:
            (job.folder / "cancel").touch()
        return self.get(job_id)

    def close(self) -> None:
        """Stop watching; running children go on and are found again by the next server."""
        self._stop.set()
        self._thread.join()

    def _check_room(self) -> None:
        if shutil.disk_usage(self.root).free < _MIN_FREE_DISK:
            raise LimitError(
                "job.disk_full",
                "Less than 500 MB of disk space are left for results.",
                "Remove old runs, or start the workbench with another --runs folder.",
            )
        if psutil.virtual_memory().available < _MIN_FREE_MEMORY:
            raise LimitError(
                "job.memory_full",
                "Less than 500 MB of memory are free.",
                "Close other programs or wait for running jobs to end.",
            )

    def _watch(self) -> None:
        while not self._stop.wait(0.1):
            try:
                self._step()
            except OSError:
                # A full disk or a folder removed by hand must not end the watch over other jobs.
                _log.exception("cannot look after the jobs in %s", self.root)

    def _step(self) -> None:
        with self._lock:
            open_ids = sorted(self._open)
        finished = {job_id for job_id in open_ids if self._settled(self.root / job_id)}
        with self._lock:
            self._open -= finished
        jobs = (read_job(self.root / job_id) for job_id in open_ids if job_id not in finished)
        self._start_next([job for job in jobs if job is not None])

    def _settled(self, folder: Path) -> bool:
        """Stop a job that is overdue, write the end of one whose process is gone; tell if ended."""
        cancelled = _age(folder / "cancel")
        if self._process(folder) is not None:
            if cancelled is None or cancelled < self._grace_s:
                return False
            self._kill(folder)
        # From here on no process writes to the folder: what it says is final.
        launched = self._children.pop(folder.name, None) or (folder / "started.json").exists()
        if (folder / "ended.json").exists() or not (folder / "job.json").exists():
            return True
        if cancelled is not None:
            end_job(folder, "cancelled")
        elif launched:
            end_job(folder, "failed", _INTERRUPTED)
        return bool(cancelled is not None or launched)

    def _start_next(self, jobs: list[Job]) -> None:
        waiting = [j for j in jobs if j.state == "queued" and j.id not in self._children]
        free = self._max_running - (len(jobs) - len(waiting))
        for job in sorted(waiting, key=lambda job: job.created)[: max(free, 0)]:
            self._children[job.id] = self._launch(job)

    def _launch(self, job: Job) -> subprocess.Popen[bytes]:
        result, log = job.folder / "result.json", job.folder / "log.txt"
        with result.open("wb") as out, log.open("ab") as err:
            # Its own session: a Ctrl-C in the server's terminal must not reach the job.
            return subprocess.Popen(
                [*self._worker, str(job.folder)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
                env={**os.environ, "GEO3D_DEBUG": "1"},
            )

    def _process(self, folder: Path) -> psutil.Process | None:
        """Return the job's living process, started by this server or by an earlier one."""
        child = self._children.get(folder.name)
        if child is None:
            return _recorded_process(folder)
        return psutil.Process(child.pid) if child.poll() is None else None

    def _kill(self, folder: Path) -> None:
        process = self._process(folder)
        if process is not None:
            _kill_tree(process)
        child = self._children.get(folder.name)
        if child is not None:
            child.wait()


_INTERRUPTED = Geo3dError(
    "job.interrupted",
    "The job's process ended before the work was finished.",
    "Run it again; if it happens again the job may need more memory than this machine has.",
)


def read_job(folder: Path) -> Job | None:
    """Read the job in ``folder``; None if there is none."""
    record = read_json(folder / "job.json")
    if record is None:
        return None
    started, ended = read_json(folder / "started.json"), read_json(folder / "ended.json")
    now = time.time()
    return Job(
        folder=folder,
        title=str(record["title"]),
        settings=record["settings"],
        created=float(record["created"]),
        state=_state(folder, started, ended),
        progress=_last_event(folder),
        seconds=ended["seconds"] if ended else now - started["time"] if started else 0.0,
        silent_s=(_age(folder / "heartbeat") or 0.0) if started and not ended else 0.0,
        error=ended["error"] if ended else None,
    )


def end_job(folder: Path, state: str, error: Geo3dError | None = None) -> None:
    """Write how the job in ``folder`` ended; this is its last word."""
    started = read_json(folder / "started.json")
    atomic_write_json(
        folder / "ended.json",
        {
            "state": state,
            "error": error.to_dict() if error else None,
            "seconds": round(time.time() - started["time"], 3) if started else 0.0,
        },
    )


def read_json(path: Path) -> dict[str, Any] | None:
    """Read a mapping; None if the file is missing or damaged."""
    try:
        payload = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return payload if isinstance(payload, dict) else None


def run_folder(folder: Path) -> Path | None:
    """Return the run folder below the job in ``folder``, if the verb has made one yet."""
    return next(folder.glob("run/*/*/"), None)


def _last_event(folder: Path) -> dict[str, Any]:
    """Return the last whole line of the run's progress file; empty before the first."""
    run = run_folder(folder)
    if run is None:
        return {}
    try:
        with (run / "progress.jsonl").open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 8192))
            lines = file.read().rpartition(b"\n")[0].splitlines()
        return json.loads(lines[-1])
    except (OSError, ValueError, IndexError):
        return {}


def _state(folder: Path, started: object, ended: Mapping[str, Any] | None) -> str:
    if ended:
        return str(ended["state"])
    if (folder / "cancel").exists():
        return "cancelling"
    return "running" if started else "queued"


def _age(path: Path) -> float | None:
    """Return the seconds since ``path`` was touched; None if it is not there."""
    try:
        return max(0.0, time.time() - path.stat().st_mtime)
    except OSError:
        return None


def _recorded_process(folder: Path) -> psutil.Process | None:
    """Return the living process of ``started.json``; its start time tells a recycled id."""
    started = read_json(folder / "started.json")
    if started is None:
        return None
    try:
        process = psutil.Process(int(started["pid"]))
        same = abs(process.create_time() - float(started["created"])) < 1.0
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.Error:
        return None


def _kill_tree(process: psutil.Process) -> None:
    try:
        family = [*process.children(recursive=True), process]
    except psutil.Error:
        family = [process]
    for member in family:
        try:
            member.kill()
        except psutil.Error:
            continue
    psutil.wait_procs(family, timeout=5)
