"""What the jobs of tests/geo3d/work/test_slurm.py do; they import this module."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from geo3d.errors import InputError


def make(folder: Path) -> Callable[[str], None]:
    return partial(do, folder, f"{os.getpid()} {time.monotonic_ns()}")


def do(folder: Path, handler: str, name: str) -> None:
    if name == "refused":
        raise InputError("test.refused", "This cannot be done.", "")
    if name == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "endless":
        (folder / "begun").write_text(str(os.getpid()))
        time.sleep(600)
    (folder / name).write_text(handler)


def wait_for_end(process: int, seconds: float = 20.0) -> None:
    """Wait until a process is gone (or is a zombie of its dead parent)."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            stat = Path(f"/proc/{process}/stat").read_text()
        except OSError:
            return
        if stat.rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.05)
    raise AssertionError(f"process {process} still runs")
