"""How benches measure: seconds of an action, and memory, in processes of their own."""

from __future__ import annotations

import ctypes
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

_T = TypeVar("_T")


class Spent(NamedTuple):
    """Seconds."""

    cpu: float
    wall: float


def timed(action: Callable[..., _T], *given: Any, **options: Any) -> tuple[_T, Spent]:
    """Return what an action returns, and the processor and wall time it takes."""
    cpu, wall = time.process_time(), time.perf_counter()
    made = action(*given, **options)
    return made, Spent(time.process_time() - cpu, time.perf_counter() - wall)


def medians(rounds: Sequence[Sequence[float]]) -> list[float]:
    """Return the median of every column; the first round warms up and does not count."""
    return np.median(np.asarray(rounds)[1:], axis=0).tolist()


def apart(action: Callable[..., _T], *given: Any) -> _T:
    """Return what an action returns in a fresh process, so that the memory measured is its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(action, *given).result()


def forget_peak() -> float:
    """Give free memory back, start the high-water mark anew where that works; return MiB in use."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return peak_mib()


def peak_mib() -> float:
    """Return the most memory that this process has held so far."""
    if sys.platform.startswith("linux"):
        text = Path("/proc/self/status").read_text(encoding="ascii")
        line = next(line for line in text.splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    # macOS counts bytes, Linux kibibytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
