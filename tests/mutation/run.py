"""Mutation score: how many one-line faults the tests of a room notice (`make mutate`).

Ours because what there is starts a fresh interpreter per mutant (cosmic-ray: ten seconds of imports
each) or leaves decorated functions and constants alone (mutmut: no kernel, no setting).  Here one
process imports what is heavy, then forks; the fork reads the mutated text instead of the file and
runs the tests that import the mutated module, with run-time type checks as always.

Environment: MUTANTS (per room, default 40), SEED, ROOMS (comma-separated), WORKERS.
"""

from __future__ import annotations

import importlib
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.machinery import SourceFileLoader
from pathlib import Path

from mutants import Finder, Mutant

ROOT = Path(__file__).resolve().parents[2]
WANTED = 0.8
SLACK = 30.0
"""Seconds beyond three times the tests' own time after which a mutant hangs, which is noticed."""
HEAVY = (
    "numba", "torch", "torch.func", "scipy.sparse.linalg", "scipy.spatial", "scipy.ndimage",
    "skimage.morphology", "trimesh", "potpourri3d", "robust_laplacian", "monai.losses",
    "matplotlib.pyplot", "safetensors.torch", "hypothesis", "beartype", "jaxtyping", "yaml",
    "diffusers", "PIL.Image", "pytest",
)  # fmt: skip


@dataclass(frozen=True)
class Room:
    """Files to mutate, folders of tests that mirror them, and golden tests."""

    files: tuple[str, ...]
    tests: tuple[str, ...]
    golden: tuple[str, ...] = ()


ROOMS = {
    "distill": Room(
        ("geo3d/distill/*.py",),
        ("tests/geo3d/distill",),
        ("test_golden.py", "test_golden_mdt_training.py"),
    ),
    "spectral": Room(("geo3d/spectral/*.py",), ("tests/geo3d/spectral",), ("test_golden.py",)),
    "topology": Room(
        ("geo3d/topology/**/*.py",), ("tests/geo3d/topology",), ("test_golden_topology.py",)
    ),
    "search": Room(("shape_matching/search/*.py",), ("tests/shape_matching/search",)),
    "guidance": Room(
        ("scenes/urban/guidance.py", "scenes/urban/lgvsd.py", "scenes/urban/constraints.py"),
        ("tests/scenes/urban",),
        ("test_golden_urban_guidance.py",),
    ),
    "samplers": Room(
        ("scenes/objects/samplers.py",),
        ("tests/scenes/objects",),
        ("test_golden_mdt_dense.py",),
    ),
}


def tests_of(path: Path, room: Room) -> list[str]:
    """Return the room's tests that import the module, its namesake first, and the golden ones.

    Where none imports it directly, all tests of the folder that mirrors its own.
    """
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    package, _, name = module.rpartition(".")
    wanted = re.compile(
        rf"\b{re.escape(module)}\b|from {re.escape(package)} import [^\n]*\b{name}\b"
    )
    near = [p for folder in room.tests for p in sorted((ROOT / folder).rglob("test_*.py"))]
    direct = [p for p in near if wanted.search(p.read_text("utf-8"))]
    mirror = ROOT / "tests" / path.relative_to(ROOT).parent
    chosen = direct or [p for p in near if p.parent == mirror]
    chosen.sort(key=lambda p: p.stem != f"test_{path.stem}")
    return [str(p) for p in chosen] + [str(ROOT / "tests/golden" / name) for name in room.golden]


def read_mutated(mutant: Mutant) -> None:
    """Make imports read the mutant; compiled kernels that may hold the old text are not reused."""
    mutated, source = str(mutant.path), mutant.path.read_bytes()
    has_kernels = b"njit" in source
    get_data, path_stats = SourceFileLoader.get_data, SourceFileLoader.path_stats

    def is_changed(path: str) -> bool:
        return path == mutated or (has_kernels and path.startswith(str(ROOT)))

    def changed_data(self: SourceFileLoader, path: str) -> bytes:
        data = mutant.apply(source) if path == mutated else get_data(self, path)
        if has_kernels and path.endswith(".py"):
            data = data.replace(b"cache=True", b"cache=False")
        return data

    def changed_stats(self: SourceFileLoader, path: str) -> object:
        if is_changed(path):
            raise OSError("no bytecode stands for this text")
        return path_stats(self, path)

    SourceFileLoader.get_data = changed_data  # type: ignore[method-assign, assignment]
    SourceFileLoader.path_stats = changed_stats  # type: ignore[method-assign, assignment]


@dataclass
class Job:
    """One run of tests in a fork."""

    tests: list[str]
    mutant: Mutant | None
    limit: float
    folder: Path
    began: float = field(default_factory=time.monotonic)
    pid: int = 0

    def start(self) -> None:
        """Fork and run the tests there."""
        self.folder.mkdir()
        self.pid = os.fork()
        if self.pid:
            return
        os.setsid()
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
        import pytest

        if self.mutant:
            read_mutated(self.mutant)
        sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
        options = ["-x", "-q", "--assert=plain", "--tb=line", "-m", "not slow"]
        options += ["-p", "no:cacheprovider", f"--basetemp={self.folder / 'tmp'}"]
        return int(pytest.main([*options, *self.tests]))


def run_all(jobs: list[Job], workers: int, done: Callable[[Job, int | None, float], None]) -> None:
    """Run the jobs side by side; the exit code is None where a job was stopped at its limit."""
    waiting, running = jobs[::-1], dict[int, Job]()
    while waiting or running:
        while waiting and len(running) < workers:
            job = waiting.pop()
            job.began = time.monotonic()
            job.start()
            running[job.pid] = job
        for pid, job in list(running.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            seconds = time.monotonic() - job.began
            code: int | None = os.waitstatus_to_exitcode(status)
            if not ended and seconds > job.limit:
                os.killpg(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                ended, code = pid, None
            if ended:
                del running[pid]
                done(job, code, seconds)
                shutil.rmtree(job.folder, ignore_errors=True)
        time.sleep(0.02)


def baselines(files: list[str], workers: int, folder: Path) -> dict[str, float]:
    """Return how long each file of tests takes without a fault; all must pass."""
    seconds: dict[str, float] = {}
    jobs = [Job([file], None, 900.0, folder / f"base{i}") for i, file in enumerate(files)]

    def done(job: Job, code: int | None, took: float) -> None:
        if code not in (0, 5):  # 5: every test of the file is a slow one
            log = (job.folder / "log.txt").read_text()[-3000:]
            sys.exit(f"{job.tests[0]} fails without a fault ({code}):\n{log}")
        seconds[job.tests[0]] = took

    run_all(jobs, workers, done)
    return seconds


def main() -> int:
    """Print a table and the survivors; return 1 if a room is below the wanted score."""
    count = int(os.environ.get("MUTANTS", "40"))
    workers = int(os.environ.get("WORKERS", str(os.cpu_count() or 1)))
    names = os.environ.get("ROOMS", ",".join(ROOMS)).split(",")
    random_state = random.Random(int(os.environ.get("SEED", "0")))
    os.chdir(ROOT)
    for name in HEAVY:
        importlib.import_module(name)
    chosen: list[tuple[str, Mutant, tuple[str, ...]]] = []
    for name in names:
        paths = sorted({p for pattern in ROOMS[name].files for p in ROOT.glob(pattern)})
        mutants = [m for path in paths for m in Finder(path).all()]
        picked = random_state.sample(mutants, min(count, len(mutants)))
        print(f"{name}: {len(picked)} of {len(mutants)} mutants", flush=True)
        chosen += [(name, m, tuple(tests_of(m.path, ROOMS[name]))) for m in picked]
    folder = Path(tempfile.mkdtemp(prefix="mutants-"))
    took = baselines(sorted({file for _, _, files in chosen for file in files}), workers, folder)
    jobs = [
        Job(list(files), m, SLACK + 3 * sum(took[file] for file in files), folder / str(i))
        for i, (_, m, files) in enumerate(chosen)
    ]
    killed, survivors = dict.fromkeys(names, 0), list[str]()

    def done(job: Job, code: int | None, seconds: float) -> None:
        name, mutant, _ = chosen[jobs.index(job)]
        if code == 5:
            sys.exit(f"no test ran for {mutant.path}")
        killed[name] += code != 0
        if code == 0:
            line = mutant.path.read_text("utf-8").splitlines()[mutant.line - 1].strip()
            where = f"{mutant.path.relative_to(ROOT)}:{mutant.line}"
            survivors.append(f"{where}  {line}  [{mutant.old!r} -> {mutant.new!r}]")
            print(f"  survives ({seconds:.0f} s)  {survivors[-1]}", flush=True)

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
