"""Run folders: everything a job read, did and made, in one place that survives the job.

    runs/<verb>/<name>-<utc>-<hash6>/
        state.json     status, process and heartbeat while the job runs
        config.yaml    the settings, complete
        metrics.jsonl  one line per step         metrics.json   the final numbers
        log.txt        what happened; tracebacks of unforeseen errors
        previews/      images                  outputs/       results
        manifest.json  what made this (versions, hashes, seed); written last: the mark of "done"

A job is cancelled by a file named ``cancel`` in its folder, so any process can ask for it.

    with start_run("match", "cat-dog", config, seed=0) as run:
        ...
        run.finish({"error": 1.6})
"""

from __future__ import annotations

import json
import logging
import os
import platform
import secrets
import socket
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from geo3d import provenance
from geo3d.config import config_hash, config_to_dict, dump_config, load_config
from geo3d.errors import Cancelled, Geo3dError, InputError
from geo3d.files import (
    append_line,
    atomic_write_bytes,
    atomic_write_json,
    atomic_write_text,
    new_id,
    slug,
)

_log = logging.getLogger(__name__)
_C = TypeVar("_C")

HEARTBEAT_SECONDS = 5.0
"""A living job refreshes its state at most this often."""
STALE_SECONDS = 600.0
"""A job on another machine without a heartbeat for this long counts as interrupted."""
_LOGGERS = ("geo3d", "shape_matching", "scenes", "apps")


class _LogFile(logging.FileHandler):
    """A log that goes silent, not loud, when it cannot be written: the disk may be full."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Let a record go."""


class Run:
    """An open run folder; made by `start_run` or `open_run`, used as a context manager."""

    def __init__(self, path: Path, record: dict[str, Any], status: str) -> None:
        self.path = path
        self.record = record
        self.status = status
        self.previews = path / "previews"
        self.outputs = path / "outputs"
        self._last_beat = 0.0
        self._handler: logging.Handler | None = None

    @property
    def id(self) -> str:
        """128-bit name of the run, safe to show to a browser."""
        return self.record["id"]

    @property
    def is_done(self) -> bool:
        """Whether the manifest is there: the job ended well."""
        return (self.path / "manifest.json").is_file()

    @property
    def cancel_requested(self) -> bool:
        """Whether somebody asked this job to stop."""
        return (self.path / "cancel").exists()

    def check_cancelled(self) -> None:
        """Refresh the heartbeat; raise `Cancelled` if somebody asked this job to stop."""
        self.beat()
        if self.cancel_requested:
            raise Cancelled(f"The job in {self.path} was cancelled.")

    @property
    def numbers(self) -> dict[str, Any]:
        """The final numbers of a run that is done."""
        return json.loads((self.path / "metrics.json").read_text("utf-8"))

    def load_config(self, cls: type[_C]) -> _C:
        """Return the settings of this run."""
        return load_config(cls, self.path / "config.yaml")

    def log_metrics(self, values: Mapping[str, Any]) -> None:
        """Append one line to metrics.jsonl."""
        line = json.dumps(dict(values), default=_plain)
        append_line(self.path / "metrics.jsonl", line)
        self.beat()

    def beat(self) -> None:
        """Refresh the heartbeat, at most every `HEARTBEAT_SECONDS`."""
        if time.monotonic() - self._last_beat >= HEARTBEAT_SECONDS:
            self._write_state("running")

    def finish(self, metrics: Mapping[str, Any] | None = None, **extra: Any) -> Path:
        """Write metrics.json, then manifest.json, and return the manifest's path.

        ``extra`` goes into the manifest as it is (for instance the backends that were used).
        """
        atomic_write_json(self.path / "metrics.json", json.loads(_json(metrics or {})))
        manifest = {
            **self.record,
            **extra,
            "status": "done",
            "finished": _now(),
            "metrics": json.loads(_json(metrics or {})),
            "outputs": [provenance.describe(p, self.path) for p in self._products()],
        }
        self._write_state("done")
        return atomic_write_json(self.path / "manifest.json", manifest)

    def __enter__(self) -> Run:
        self._handler = _LogFile(self.path / "log.txt", encoding="utf-8", delay=True)
        self._handler.setFormatter(
            logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
        )
        logging.getLogger().addHandler(self._handler)
        for name in _LOGGERS:
            if logging.getLogger(name).level == logging.NOTSET:
                logging.getLogger(name).setLevel(logging.INFO)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, Cancelled | KeyboardInterrupt):
            _log.info("cancelled")
            self._write_state("cancelled")
        elif error is not None:
            # For log.txt alone: the terminal, which shows warnings and errors, is told by whoever
            # started the run.  What was raised on purpose says all there is to know.
            expected = isinstance(error, Geo3dError)
            _log.info("failed: %s", error, exc_info=None if expected else error)
            # on a full disk what went wrong is worth more than that it cannot be written down
            with suppress(OSError):
                self._write_state("failed", str(error))
        if self._handler is not None:
            logging.getLogger().removeHandler(self._handler)
            with suppress(OSError):
                self._handler.close()
            self._handler = None

    def _products(self) -> list[Path]:
        folders = (self.outputs, self.previews)
        return sorted(p for folder in folders for p in folder.rglob("*") if p.is_file())

    def _write_state(self, status: str, message: str = "") -> None:
        self.status = status
        self._last_beat = time.monotonic()
        state = {
            "status": status,
            "message": message,
            "pid": os.getpid(),
            "pid_started": _process_start(os.getpid()),
            "host": socket.gethostname(),
            "heartbeat": time.time(),
            "record": self.record,
        }
        atomic_write_json(self.path / "state.json", state)


def start_run(
    verb: str,
    name: str,
    config: Any = None,
    root: str | os.PathLike[str] | None = None,
    seed: int = 0,
    device: str = "cpu",
    inputs: Iterable[str | os.PathLike[str]] = (),
    argv: Sequence[str] | None = None,
) -> Run:
    """Make a run folder and return it, in the state "running".

    Args:
        verb: the command's verb.
        name: a readable name; slugged.
        config: a settings dataclass, or None.
        root: where run folders go (default ``runs/`` in the current folder).
        seed: the base seed, for the manifest.
        device: the device used, for the manifest.
        inputs: files and folders the job reads; their hashes go into the manifest.
        argv: the command, for the manifest (default: this process's).
    """
    digest = config_hash(config) if config is not None else "0" * 64
    record = {
        "id": new_id(),
        "verb": verb,
        "name": name,
        "created": _now(),
        "argv": list(sys.argv if argv is None else argv),
        "seed": seed,
        "device": str(device),
        "config_hash": digest,
        "config": config_to_dict(config) if config is not None else {},
        "inputs": [provenance.describe(Path(p)) for p in inputs],
        "versions": provenance.versions(),
        "git": provenance.git_state(),
        "platform": platform.platform(),
    }
    path = _new_folder(Path(root or "runs") / slug(verb), slug(name), digest[:6])
    run = Run(path, record, "running")
    run.previews.mkdir()
    run.outputs.mkdir()
    atomic_write_text(path / "config.yaml", dump_config(config) if config is not None else "{}\n")
    run._write_state("running")
    return run


def open_run(path: str | os.PathLike[str], verify_inputs: bool = True) -> Run:
    """Open an interrupted, failed, cancelled or finished run to go on with it.

    A finished run is returned as it is (`Run.is_done`).  Otherwise the folder is tidied (a torn
    last line of metrics.jsonl, temporary files, the cancel request) and is "running" again.

    Raises:
        InputError: ``run.not_a_run``, ``run.busy`` (its process is alive), ``run.inputs_changed``.
    """
    folder = Path(path)
    state = run_state(folder)
    run = Run(folder, state["record"], state["status"])
    if run.is_done:
        return run
    if state["status"] == "running" and not _is_own(state):
        raise InputError(
            "run.busy",
            f"The run {folder} is still being worked on by process {state['pid']}.",
            "Wait for it, or cancel it first.",
        )
    if verify_inputs:
        _verify_inputs(run.record["inputs"])
    for leftover in folder.rglob(".tmp-*"):
        leftover.unlink()
    (folder / "cancel").unlink(missing_ok=True)
    _drop_torn_line(folder / "metrics.jsonl")
    run.previews.mkdir(exist_ok=True)
    run.outputs.mkdir(exist_ok=True)
    run._write_state("running")
    return run


def amend_run(path: str | os.PathLike[str], **extra: Any) -> Path:
    """Add to the manifest of a run that is done what was made of it since; list its files anew.

    Raises:
        InputError: ``run.not_a_run``, ``run.not_done``.
    """
    folder = Path(path)
    state = run_state(folder)
    if state["status"] != "done":
        raise InputError("run.not_done", f"The run {folder} is not done.", "Resume it first.")
    run = Run(folder, state["record"], "done")
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    manifest |= extra
    manifest["outputs"] = [provenance.describe(p, folder) for p in run._products()]
    return atomic_write_json(folder / "manifest.json", manifest)


def run_state(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return a run's state; a "running" job whose process is gone reads "interrupted".

    Raises:
        InputError: ``run.not_a_run``.
    """
    try:
        state = json.loads((Path(path) / "state.json").read_text())
        known = {"status", "pid", "host", "heartbeat", "record"} <= state.keys()
    except (OSError, ValueError, AttributeError):
        known, state = False, {}
    if not known:
        raise InputError(
            "run.not_a_run",
            f"{path} is not a run folder: it has no readable state.json.",
            "Give the folder that the earlier command printed, e.g. runs/match/....",
        )
    if (Path(path) / "manifest.json").is_file():
        state["status"] = "done"
    elif state["status"] in ("running", "done") and not _is_alive(state):
        state["status"] = "interrupted"
    return state


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Return the lines of a run's metrics.jsonl; a torn last line is left out."""
    file = Path(path) / "metrics.jsonl"
    if not file.is_file():
        return []
    whole = file.read_bytes().rpartition(b"\n")[0]
    return [json.loads(line) for line in whole.splitlines()]


def _new_folder(parent: Path, name: str, digest: str) -> Path:
    parent.mkdir(parents=True, exist_ok=True)
    stamp = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    while True:
        path = parent / f"{name}-{stamp}-{digest}"
        try:
            path.mkdir()
            return path
        except FileExistsError:
            # The same settings twice in one second: any other six digits will do.
            digest = secrets.token_hex(3)


def _is_own(state: Mapping[str, Any]) -> bool:
    return state["pid"] == os.getpid() and state["host"] == socket.gethostname()


def _is_alive(state: Mapping[str, Any]) -> bool:
    if state["host"] != socket.gethostname() or sys.platform == "win32":
        return time.time() - state["heartbeat"] < STALE_SECONDS
    try:
        os.kill(state["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    # The number may belong to a newer process by now.
    return _process_start(state["pid"]) == state.get("pid_started")


def _process_start(pid: int) -> str | None:
    """Return the kernel's start time of a process, or None where there is no /proc."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


def _verify_inputs(inputs: Iterable[Mapping[str, Any]]) -> None:
    for entry in inputs:
        path = Path(entry["path"])
        if not path.exists() or provenance.describe(path)["sha256"] != entry["sha256"]:
            raise InputError(
                "run.inputs_changed",
                f"{path} is not what it was when this run was started.",
                "Start a new run, or put the file back.",
            )


def _drop_torn_line(path: Path) -> None:
    if path.is_file():
        data = path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if whole != data:
            atomic_write_bytes(path, whole)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(dict(value), default=_plain)


def _plain(value: Any) -> Any:
    """Turn numpy and torch scalars and arrays into plain numbers and lists for JSON."""
    return value.tolist() if hasattr(value, "tolist") else str(value)
