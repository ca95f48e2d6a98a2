"""The files of a job: a folder, and a child process that runs a verb of the command line in it.

What a job is doing is read from files, never remembered: it survives a page refresh, a closed tab
and a restarted server.  Each file has one writer, so nothing needs locks:

    job.json        what to run, written once when the job is submitted (marks the folder as a job)
    claimed         made by the child that has the job; a second one leaves it alone
    started.json    process id and start time, by the child (`apps.job_worker`)
    heartbeat       touched by the child every second
    cancel          made by whoever asks to stop
    ended.json      state, error, seconds and memory: by the child, or by the server if it died
    result.json, log.txt   standard output and error of the verb
    inputs/         its files in
    run/            where the verb makes its run folder (see `geo3d.runs`), progress.jsonl in it

States: queued, running, cancelling, done, failed, cancelled.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from geo3d.errors import Geo3dError
from geo3d.files import atomic_write_json

FINAL_STATES = frozenset({"done", "failed", "cancelled"})


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
    peak_bytes: int = 0
    """Most memory that a job which has ended held at any time; 0 where it is not known."""

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
        silent_s=(age_s(folder / "heartbeat") or 0.0) if started and not ended else 0.0,
        error=ended["error"] if ended else None,
        peak_bytes=int(ended.get("peak_bytes") or 0) if ended else 0,
    )


def end_job(folder: Path, state: str, error: Geo3dError | None = None, peak_bytes: int = 0) -> None:
    """Write how the job in ``folder`` ended; this is its last word."""
    started = read_json(folder / "started.json")
    atomic_write_json(
        folder / "ended.json",
        {
            "state": state,
            "error": error.to_dict() if error else None,
            "seconds": round(time.time() - started["time"], 3) if started else 0.0,
            "peak_bytes": peak_bytes,
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


def age_s(path: Path) -> float | None:
    """Return the seconds since ``path`` was touched; None if it is not there."""
    try:
        return max(0.0, time.time() - path.stat().st_mtime)
    except OSError:
        return None
