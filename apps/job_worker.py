"""The child process of one job: runs a verb of the command line and writes down how it went.

``python -m apps.job_worker FOLDER``.  The files are described in `apps.job_files`.
"""

from __future__ import annotations

import faulthandler
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from apps.job_files import end_job, read_json, run_folder
from geo3d.errors import Geo3dError
from geo3d.files import atomic_write_json

CANCELLED_CODE = 130
HEARTBEAT_S = 1.0
CANCEL_POLL_S = 0.1


def work(folder: Path, main: Callable[[Sequence[str]], int]) -> int:
    """Run ``main`` with the job's arguments, keep its heartbeat, write its end; return its code."""
    record = read_json(folder / "job.json")
    if record is None or not _claim(folder):
        return 2
    stop = threading.Event()
    held: list[int] = [0]
    heart = threading.Thread(target=_beat, args=(folder, stop, held), daemon=True)
    heart.start()
    # what the run's manifest says it was made by
    sys.argv = ["geo3d", *record["argv"]]
    try:
        code = main(record["argv"])
    except SystemExit as usage:  # argparse: the arguments are wrong
        code = usage.code if isinstance(usage.code, int) else 2
    finally:
        stop.set()
        heart.join()
    sys.stdout.flush()
    if code == 0:
        end_job(folder, "done", peak_bytes=held[0])
    elif code == CANCELLED_CODE or (folder / "cancel").exists():
        end_job(folder, "cancelled")
    else:
        end_job(folder, "failed", _reported_error(folder))
    return code


def explain_crashes() -> None:
    """Write the stacks of all threads to log.txt on a crash, and whenever SIGUSR1 asks for them."""
    faulthandler.enable()
    if hasattr(signal, "SIGUSR1"):
        faulthandler.register(signal.SIGUSR1)


def _claim(folder: Path) -> bool:
    """Write started.json, whole at once; False if another process has the job already."""
    try:
        (folder / "claimed").touch(exist_ok=False)
    except FileExistsError:
        return False
    me = psutil.Process()
    record = {"pid": me.pid, "created": me.create_time(), "time": time.time()}
    atomic_write_json(folder / "started.json", record)
    return True


def _beat(folder: Path, stop: threading.Event, held: list[int]) -> None:
    """Show life, pass a wish to stop on to the run folder, where the verb looks for it, and keep
    the most memory that was held in ``held``."""
    last = 0.0
    me = psutil.Process()
    while True:
        if time.monotonic() - last >= HEARTBEAT_S:
            (folder / "heartbeat").touch()
            held[0] = max(held[0], _memory(me))
            last = time.monotonic()
        if (folder / "cancel").exists() and (run := run_folder(folder)) is not None:
            (run / "cancel").touch()
        if stop.wait(CANCEL_POLL_S):
            return


def _memory(process: psutil.Process) -> int:
    """Return the bytes that a process and its children hold."""
    total = 0
    for member in (process, *process.children(recursive=True)):
        try:
            total += member.memory_info().rss
        except psutil.Error:
            continue
    return total


def _reported_error(folder: Path) -> Geo3dError:
    """Return the error that the verb printed as JSON."""
    result = read_json(folder / "result.json") or {}
    error = result.get("error")
    if not isinstance(error, dict) or error.get("code") == "internal.unexpected":
        return Geo3dError(
            "job.failed", "The job failed unexpectedly.", "Its folder's log.txt tells more."
        )
    return Geo3dError(str(error["code"]), str(error["message"]), str(error.get("hint", "")))


if __name__ == "__main__":
    explain_crashes()
    from apps.cli import main as command_line

    sys.exit(work(Path(sys.argv[1]), command_line))
