"""Mutation score: how many one-line faults the tests of a room notice (`make mutate`).

Ours because what there is starts a fresh interpreter per mutant (cosmic-ray: ten seconds of imports
each) or leaves decorated functions and constants alone (mutmut: no kernel, no setting).  Here one
process imports what is heavy, then forks; the fork reads the mutated text instead of the file and
runs the tests that call the mutated function, the fast ones first, with run-time type checks as
always.

Environment: MUTANTS (per room, default 40), SEED, ROOMS (comma-separated), WORKERS.
"""

from __future__ import annotations

import importlib
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib.machinery import SourceFileLoader
from pathlib import Path

import pytest
from mutants import Finder, Mutant
from selection import Order, Recorder, Seen, function_at, order_tests, read_record

ROOT = Path(__file__).resolve().parents[2]
WANTED = 0.8
SLACK = 30.0
"""Seconds beyond three times the tests' own time after which a mutant hangs, which is noticed: the
imports, and kernels that are compiled anew."""
KERNEL_FILES = tuple(
    p for room in ("geo3d", "shape_matching", "scenes") for p in (ROOT / room).rglob("*.py")
    if b"njit" in p.read_bytes()
)  # fmt: skip
HEAVY = (
    "numba", "torch", "torch.func", "scipy.sparse.linalg", "scipy.spatial", "scipy.ndimage",
    "skimage.morphology", "trimesh", "potpourri3d", "robust_laplacian", "monai.losses",
    "matplotlib.pyplot", "safetensors.torch", "hypothesis", "beartype", "jaxtyping", "yaml",
    "diffusers", "PIL.Image",
)  # fmt: skip


@dataclass(frozen=True)
class Room:
    """Files to mutate, folders of tests that mirror them, and golden tests where they are quick."""

    files: tuple[str, ...]
    tests: tuple[str, ...]
    golden: tuple[str, ...] = ()


ROOMS = {
    "distill": Room(
        ("geo3d/distill/*.py",),
        ("tests/geo3d/distill",),
    ),
    "spectral": Room(("geo3d/spectral/*.py",), ("tests/geo3d/spectral",), ("test_golden.py",)),
    "topology": Room(
        ("geo3d/topology/**/*.py",), ("tests/geo3d/topology",), ("test_golden_topology.py",)
    ),
    "search": Room(("shape_matching/search/*.py",), ("tests/shape_matching/search",)),
    "guidance": Room(
        ("scenes/urban/guidance.py", "scenes/urban/lgvsd.py", "scenes/urban/constraints.py"),
        ("tests/scenes/urban",),
    ),
    "samplers": Room(
        ("scenes/objects/samplers.py",),
        ("tests/scenes/objects",),
        ("test_golden_mdt_dense.py",),
    ),
}


def imports_any(modules: set[Path]) -> re.Pattern[str]:
    """Return what finds an import of one of the modules in a text."""
    found: list[str] = []
    for path in modules:
        package, _, name = ".".join(path.relative_to(ROOT).with_suffix("").parts).rpartition(".")
        package = re.escape(package)
        found.append(rf"\b{package}\.{name}\b|from {package} import [^\n]*\b{name}\b")
    return re.compile("|".join(found))


def dependents(path: Path, files: Iterable[Path]) -> set[Path]:
    """Return the file and those of ``files`` that import it, directly or by way of each other."""
    found, rest = {path}, set(files)
    while True:
        wanted = imports_any(found)
        more = {p for p in rest - found if wanted.search(p.read_text("utf-8"))}
        if not more:
            return found
        found |= more


def room_files(room: Room) -> list[Path]:
    """Return the files whose lines are changed."""
    return sorted({p for pattern in room.files for p in ROOT.glob(pattern)})


def tests_of(path: Path, room: Room) -> list[str]:
    """Return the room's tests that import the module or one that uses it, and the golden ones."""
    wanted = imports_any(dependents(path, room_files(room)))
    near = [p for folder in room.tests for p in sorted((ROOT / folder).rglob("test_*.py"))]
    chosen = [p for p in near if wanted.search(p.read_text("utf-8"))]
    golden = [ROOT / "tests/golden" / name for name in room.golden]
    return [str(p.relative_to(ROOT)) for p in [*chosen, *golden]]


def read_mutated(mutant: Mutant) -> None:
    """Make imports read the mutant; compiled kernels that may hold the old text are not reused."""
    mutated, source = str(mutant.path), mutant.path.read_bytes()
    stale = {str(p) for p in dependents(mutant.path, KERNEL_FILES)}
    get_data, path_stats = SourceFileLoader.get_data, SourceFileLoader.path_stats

    def changed_data(self: SourceFileLoader, path: str) -> bytes:
        data = mutant.apply(source) if path == mutated else get_data(self, path)
        return data.replace(b"cache=True", b"cache=False") if path in stale else data

    def changed_stats(self: SourceFileLoader, path: str) -> object:
        if path in stale:
            raise OSError("no bytecode stands for this text")
        return path_stats(self, path)

    SourceFileLoader.get_data = changed_data  # type: ignore[method-assign, assignment]
    SourceFileLoader.path_stats = changed_stats  # type: ignore[method-assign, assignment]


@dataclass
class Job:
    """One run of tests in a fork: all of a file, recorded, or those that concern a mutant."""

    tests: list[str]
    limit: float
    """Processor seconds, which a busy machine does not use up; ten times as many may pass."""
    folder: Path
    mutant: Mutant | None = None
    recorded: frozenset[str] = frozenset()
    began: float = field(default_factory=time.monotonic)
    pid: int = 0

    def start(self) -> None:
        """Fork and run the tests there."""
        self.folder.mkdir()
        self.pid = os.fork()
        if self.pid:
            return
        os.setsid()
        resource.setrlimit(resource.RLIMIT_CPU, (int(self.limit) + 1, int(self.limit) + 2))
        log = os.open(self.folder / "log.txt", os.O_WRONLY | os.O_CREAT)
        os.dup2(log, 1)
        os.dup2(log, 2)
        code = 3
        try:
            code = self.test()
        finally:
            os._exit(code)

    def test(self) -> int:
        """Return pytest's exit code."""
        plugin: object = Recorder(set(self.recorded), self.folder / "seen.json")
        if self.mutant:
            read_mutated(self.mutant)
            plugin = Order(self.tests)
        sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
        options = ["-x", "-q", "--assert=plain", "--tb=line", "-m", "not slow"]
        options += ["-p", "no:cacheprovider", f"--basetemp={self.folder / 'tmp'}"]
        files = list(dict.fromkeys(test.partition("::")[0] for test in self.tests))
        return int(pytest.main([*options, *files], plugins=[plugin]))


def run_all(jobs: list[Job], workers: int, done: Callable[[Job, int, float], None]) -> None:
    """Run the jobs side by side and hand each one's exit code and processor time to ``done``."""
    waiting, running = jobs[::-1], dict[int, Job]()
    while waiting or running:
        while waiting and len(running) < workers:
            job = waiting.pop()
            job.began = time.monotonic()
            job.start()
            running[job.pid] = job
        for pid, job in list(running.items()):
            ended, status, used = os.wait4(pid, os.WNOHANG)
            if not ended and time.monotonic() - job.began > 10 * job.limit:
                os.killpg(pid, signal.SIGKILL)
                ended, status, used = os.wait4(pid, 0)
            if ended:
                del running[pid]
                done(job, os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime)
                shutil.rmtree(job.folder, ignore_errors=True)
        time.sleep(0.02)


def baselines(
    files: list[str], mutated: frozenset[str], workers: int, folder: Path
) -> dict[str, dict[str, Seen]]:
    """Return what the tests of each file call without a fault; all must pass."""
    seen: dict[str, dict[str, Seen]] = {}
    jobs = [
        Job([file], 900.0, folder / f"base{i}", recorded=mutated) for i, file in enumerate(files)
    ]

    def done(job: Job, code: int, took: float) -> None:
        if code not in (0, 5):  # 5: every test of the file is a slow one
            log = (job.folder / "log.txt").read_text()[-3000:]
            sys.exit(f"{job.tests[0]} fails without a fault ({code}):\n{log}")
        seen[job.tests[0]] = read_record(job.folder / "seen.json")
        print(f"  {job.tests[0]}: {len(seen[job.tests[0]])} tests, {took:.0f} s", flush=True)

    run_all(jobs, workers, done)
    return seen


def main() -> int:
    """Print a table and the survivors; return 1 if a room is below the wanted score."""
    count = int(os.environ.get("MUTANTS", "40"))
    workers = int(os.environ.get("WORKERS", str(os.cpu_count() or 1)))
    names = os.environ.get("ROOMS", ",".join(ROOMS)).split(",")
    seed = os.environ.get("SEED", "0")
    os.chdir(ROOT)
    for name in HEAVY:
        importlib.import_module(name)
    chosen: list[tuple[str, Mutant, list[str]]] = []
    for name in names:
        mutants = [m for path in room_files(ROOMS[name]) for m in Finder(path).all()]
        picked = random.Random(f"{name} {seed}").sample(mutants, min(count, len(mutants)))
        print(f"{name}: {len(picked)} of {len(mutants)} mutants", flush=True)
        chosen += [(name, m, tests_of(m.path, ROOMS[name])) for m in picked]
    folder = Path(tempfile.mkdtemp(prefix="mutants-"))
    files = sorted({file for _, _, files in chosen for file in files})
    seen = baselines(files, frozenset(str(m.path) for _, m, _ in chosen), workers, folder)
    seconds = {name: test.seconds for tests in seen.values() for name, test in tests.items()}
    jobs: list[Job] = []
    for i, (_, mutant, files) in enumerate(chosen):
        function = function_at(mutant.path.read_bytes(), mutant.line)
        tests = order_tests(mutant.path, function, files, seen)
        jobs.append(
            Job(tests, SLACK + 3 * sum(seconds[test] for test in tests), folder / str(i), mutant)
        )
    killed, survivors = dict.fromkeys(names, 0), list[str]()

    def done(job: Job, code: int, took: float) -> None:
        name, mutant, _ = chosen[jobs.index(job)]
        killed[name] += code not in (0, 5)
        if code in (0, 5):  # 5: no test calls the function
            line = mutant.path.read_text("utf-8").splitlines()[mutant.line - 1].strip()
            where = f"{mutant.path.relative_to(ROOT)}:{mutant.line}"
            survivors.append(f"{where}  {line}  [{mutant.old!r} -> {mutant.new!r}]")
            print(f"  survives ({took:.0f} s)  {survivors[-1]}", flush=True)

    run_all(jobs, workers, done)
    shutil.rmtree(folder, ignore_errors=True)
    return summary(names, [name for name, _, _ in chosen], killed)


def summary(names: list[str], rooms: list[str], killed: dict[str, int]) -> int:
    """Print the scores; return 1 if one is too low."""
    scores = [killed[name] / max(1, rooms.count(name)) for name in names]
    print(f"\n{'room':<12}{'mutants':>8}{'killed':>8}{'score':>8}")
    for name, score in zip(names, scores, strict=True):
        print(f"{name:<12}{rooms.count(name):>8}{killed[name]:>8}{score:>8.0%}")
    print(f"{'all':<12}{len(rooms):>8}{sum(killed.values()):>8}"
          f"{sum(killed.values()) / max(1, len(rooms)):>8.0%}")  # fmt: skip
    return int(min(scores) < WANTED)


if __name__ == "__main__":
    sys.exit(main())
