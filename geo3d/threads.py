"""Threads of the numerical libraries: how they wait, and how many there are.

A thread that waits for the next piece of work spins by default: it keeps a core busy for
milliseconds to minutes and, beside other busy processes, takes from them and from itself what the
work needs (a match of two birds beside two busy processes on two cores: 30 processor seconds, 8.7
with threads that sleep while they wait).  The libraries read their settings once, when they are
loaded, so `settle_threads` must come before the first import of numpy or torch.  How threads wait
changes no number; how many there are can change the last bits of sums, and therefore never depends
on what else the machine is doing.
"""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

COUNTS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""Variables that say how many threads there are; one that is set stands for all."""
PASSIVE = {
    # libgomp (torch's, and MKL's in torch), libomp and Intel's
    "OMP_WAIT_POLICY": "PASSIVE",
    "GOMP_SPINCOUNT": "0",
    "KMP_BLOCKTIME": "0",
    # OpenBLAS (numpy's and scipy's) spins for 2^N ticks; 4 is the least it takes, 26 its default
    "OPENBLAS_THREAD_TIMEOUT": "4",
}
"""Variables that make waiting threads sleep; one that is set by the user stays as it is."""
BY_QUOTA = "GEO3D_THREADS_BY_QUOTA"
"""Set where the counts come from a quota, not from the user: pools share such cores out."""


def settle_threads(threads: int | None = None) -> None:
    """Let waiting threads sleep, and use ``threads`` threads, or no more than there are cores.

    Child processes inherit both.  Without ``threads``, what the user's environment says about
    numbers of threads stays.
    """
    for name, value in PASSIVE.items():
        os.environ.setdefault(name, value)
    if threads is None:
        threads = usable_cores()
        if threads == _cores() or any(name in os.environ for name in COUNTS):
            # The libraries count the cores themselves, but know no quota.
            return
        os.environ[BY_QUOTA] = "1"
    os.environ.update(dict.fromkeys(COUNTS, str(threads)))
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


def usable_cores() -> int:
    """Return the number of processor cores this process may use, by affinity and quota."""
    return max(1, min(_cores(), math.ceil(min(cpu_quota(), 1e6))))


def _cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def cpu_quota(control: Path = Path("/sys/fs/cgroup")) -> float:
    """Return the processor time per second that a container may use; infinite where none is set."""
    for file, period in (("cpu.max", None), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            words = (control / file).read_text().split()
            words += (control / period).read_text().split() if period else []
            quota, length = float(words[0]), float(words[1])
        except (OSError, ValueError, IndexError):
            # No such control group, or "max": no limit.
            continue
        if quota > 0 and length > 0:
            return quota / length
    return math.inf
