"""The queue of jobs: starts child processes, watches them, stops them, finds them again.

What a job is doing is read from its files (`apps.job_files`), never remembered, so it survives a
page refresh, a closed tab and a restarted server.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from apps.job_files import Job, age_s, end_job, read_job, read_json
from geo3d.errors import Geo3dError, InputError, LimitError
from geo3d.files import atomic_write_json, is_id, new_id

_log = logging.getLogger(__name__)

WORKER = (sys.executable, "-m", "apps.job_worker")
_MIN_FREE_DISK = 500 * 2**20
_MIN_FREE_MEMORY = 500 * 2**20
MAX_WAITING = 12
"""Jobs that may wait; a page that submits without end must not fill the disk with inputs."""
QUOTA_BYTES = 20 * 2**30
"""What the folders of all jobs may hold together."""


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
            LimitError: ``job.disk_full``, ``job.memory_full``, ``job.queue_full``, ``job.quota``.
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

    def before(self, job: Job) -> list[Job]:
        """Return the jobs that are done before a waiting one begins, unless several run at once."""
        with self._lock:
            ids = sorted(self._open)
        found = (read_job(self.root / id) for id in ids)
        return [j for j in found if j is not None and not j.ended and j.created < job.created]

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
        with self._lock:
            open_jobs = len(self._open)
        if open_jobs - self._max_running >= MAX_WAITING:
            raise LimitError(
                "job.queue_full",
                f"{MAX_WAITING} jobs are waiting already.",
                "Wait until some are done, or cancel them in the tab Jobs.",
            )
        held = sum(path.lstat().st_size for path in self.root.rglob("*") if path.is_file())
        if held > QUOTA_BYTES:
            raise LimitError(
                "job.quota",
                f"The jobs hold {held / 2**30:.1f} GB, more than the "
                f"{QUOTA_BYTES / 2**30:.0f} GB they may.",
                "Remove folders of old jobs, or start the workbench with another --runs folder.",
            )
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
            except (OSError, psutil.Error):
                # A full disk, a folder removed by hand, a process that has just gone: none may end
                # the watch over other jobs.
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
        cancelled = age_s(folder / "cancel")
        # Looked at before the process: one that starts in between is no dead one.
        launched = folder.name in self._children or (folder / "started.json").exists()
        if self._process(folder) is not None:
            if cancelled is None or cancelled < self._grace_s:
                return False
            self._kill(folder)
        # From here on no process writes to the folder: what it says is final.
        self._children.pop(folder.name, None)
        if (folder / "ended.json").exists() or not (folder / "job.json").exists():
            return True
        if cancelled is not None:
            end_job(folder, "cancelled")
        elif launched:
            end_job(folder, "failed", _INTERRUPTED)
        return cancelled is not None or launched

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
        if child is not None and child.poll() is None:
            return psutil.Process(child.pid)
        # Also when this server's child is gone: an earlier server's may have had the job already.
        return _recorded_process(folder)

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
