"""Seeded mutation fuzzing of the mesh readers (`make fuzz`).

A case takes a small valid file of one of the five formats (made in memory by our own writers),
damages it with one to four mutations drawn from a generator seeded with (seed, case number), reads
it, checks it for defects, and tries to build a `Mesh`; every eighth case also runs all repairs.
Good ends are a valid mesh or a `Geo3dError`; any other exception or warning, a crash, a hang, over
two seconds or over a GiB is a failure, reported with the number that reproduces it.

Cases run in a limited child process, so that a crash or a hang costs one case and is attributed.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import sys
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from fuzz.cases import make_case

from geo3d.errors import Geo3dError
from geo3d.listeners import tqdm_listener
from geo3d.mesh.check import check_arrays
from geo3d.mesh.io import FORMATS, parse_bytes
from geo3d.mesh.mesh import Mesh
from geo3d.mesh.repair import REPAIRS, repair
from geo3d.mesh.sandbox import UPLOAD_LIMITS
from geo3d.mesh.sandbox_child import limit_this_process
from geo3d.progress import ProgressCallback, ignore_progress, report

MAX_SECONDS = 2.0
"""Processor time one case may take."""
MAX_MEMORY = 2**30
"""Resident bytes the process that runs the cases may reach."""
HANG_SECONDS = 20.0
"""Wall time after which a case counts as hanging and its process is killed."""
START_SECONDS = 120.0
"""Wall time a process may take to start and import."""
REPORT_EVERY = 100


@dataclass(frozen=True)
class FuzzFailure:
    """A case that ended badly; `fuzz.cases.make_case` makes its file again."""

    seed: int
    case: int
    what: str


@dataclass(frozen=True)
class FuzzResult:
    """Figures of a run."""

    cases: int
    """Cases run."""
    outcomes: dict[str, int]
    """How often each end was reached: "mesh" or an error code."""
    worst_seconds: float
    """Processor time of the slowest case."""
    worst_seconds_case: int
    """Its number."""
    worst_memory: int
    """Peak resident bytes of the processes, libraries included; 0 if the system cannot tell."""
    failures: tuple[FuzzFailure, ...]
    """Cases that ended badly."""


def run_fuzz(
    n: int,
    seed: int = 0,
    formats: Sequence[str] = FORMATS,
    progress: ProgressCallback = ignore_progress,
) -> FuzzResult:
    """Run cases 0 .. n-1 of ``seed``; the formats take turns."""
    tally = _Tally(n, seed, progress)
    while tally.next < n:
        _run_worker(tally, tuple(formats))
    return tally.result()


class _Tally:
    """Figures so far and the number of the next case."""

    def __init__(self, n: int, seed: int, progress: ProgressCallback) -> None:
        self.n, self.seed, self.progress = n, seed, progress
        self.next = 0
        self.outcomes: Counter[str] = Counter()
        self.failures: list[FuzzFailure] = []
        self.worst_seconds, self.worst_case, self.worst_memory = 0.0, 0, 0

    def count(self, outcome: str, seconds: float, memory: int) -> None:
        if seconds > self.worst_seconds:
            self.worst_seconds, self.worst_case = seconds, self.next
        if memory > MAX_MEMORY >= self.worst_memory:
            self.fail(f"memory: {memory / 2**20:.0f} MiB")
        self.worst_memory = max(self.worst_memory, memory)
        if outcome.startswith("failure: "):
            self.fail(outcome.removeprefix("failure: "))
        elif seconds > MAX_SECONDS:
            self.fail(f"slow: {seconds:.1f} s")
        else:
            self.outcomes[outcome] += 1
        self.advance()

    def fail(self, what: str) -> None:
        self.failures.append(FuzzFailure(self.seed, self.next, what))

    def advance(self) -> None:
        self.next += 1
        if self.next % REPORT_EVERY == 0 or self.next == self.n:
            report(self.progress, "fuzzing", self.next, self.n, failures=len(self.failures))

    def result(self) -> FuzzResult:
        outcomes = dict(sorted(self.outcomes.items()))
        return FuzzResult(
            self.n,
            outcomes,
            self.worst_seconds,
            self.worst_case,
            self.worst_memory,
            tuple(self.failures),
        )


def _run_worker(tally: _Tally, formats: tuple[str, ...]) -> None:
    """Run cases in one process until all are done or the process fails."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    arguments = (there, tally.seed, tally.next, tally.n, formats)
    process = context.Process(target=_work, args=arguments, daemon=True)
    process.start()
    there.close()
    try:
        patience = START_SECONDS
        while tally.next < tally.n:
            if not here.poll(patience):
                tally.fail(f"hang: no answer within {patience:.0f} s")
                tally.advance()
                return
            message = here.recv()
            patience = HANG_SECONDS
            if message is not None:
                tally.count(*message)
    except EOFError:
        process.join()
        tally.fail(f"crash: the process ended with status {process.exitcode}")
        tally.advance()
    finally:
        process.kill()
        process.join()
        here.close()


def _work(
    connection: Connection, seed: int, start: int, stop: int, formats: tuple[str, ...]
) -> None:
    limit_this_process(cpu_seconds=None)
    warnings.simplefilter("error")
    # The libraries are loaded now, so that the first case is not charged for them.
    for index in range(-2 * len(formats), 0):
        _outcome(*make_case(seed, index, formats), index)
    connection.send(None)
    for index in range(start, stop):
        suffix, data = make_case(seed, index, formats)
        begin = time.process_time()
        outcome = _outcome(suffix, data, index)
        connection.send((outcome, time.process_time() - begin, _peak_memory()))


def _outcome(suffix: str, data: bytes, index: int) -> str:
    try:
        return read_case(suffix, data, with_repairs=index % 8 == 0)
    except Geo3dError as error:
        return error.code
    except Exception as error:  # anything else is what fuzzing looks for
        return f"failure: {type(error).__name__}: {error}"[:300]


def read_case(suffix: str, data: bytes, with_repairs: bool = False) -> str:
    """Read, check, perhaps repair, and build a mesh; return "mesh".

    Raises:
        Geo3dError: if the file or the mesh cannot be used.
    """
    raw = parse_bytes(data, suffix, UPLOAD_LIMITS)
    check_arrays(raw.vertices, raw.faces, self_intersections=with_repairs).summary()
    if with_repairs:
        try:
            repair(raw, ("drop_bad_faces", "drop_degenerate", *REPAIRS, "drop_degenerate"))
        except Geo3dError:
            pass
    Mesh(raw.vertices, raw.faces, raw.vertex_colors)
    return "mesh"


def _peak_memory() -> int:
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage's peak also counts the process that started this one
        found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
        if found:
            return int(found[1]) * 1024
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts KiB, macOS bytes.
    return peak if sys.platform == "darwin" else peak * 1024


def main() -> int:
    """Run CASES cases of SEED (environment) and print the figures; 1 if any ended badly."""
    cases, seed = int(os.environ.get("CASES", "10000")), int(os.environ.get("SEED", "0"))
    start = time.perf_counter()
    result = run_fuzz(cases, seed, progress=tqdm_listener())
    sys.stdout.write(
        json.dumps({**asdict(result), "seconds": time.perf_counter() - start}, indent=2) + "\n"
    )
    return 1 if result.failures else 0


if __name__ == "__main__":
    sys.exit(main())
