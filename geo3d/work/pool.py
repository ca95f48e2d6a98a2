"""A small process pool that survives what a task can do: hang, crash, or kill its process.

Each worker is a fresh interpreter (spawn) that builds one handler and then answers one task at a
time.  Tasks may carry a group; a worker stays with its group while it lasts, so that what the
handler keeps for a group is made once.  A task over its time or memory is recorded as failed and
its process is replaced.  A pool that is stopped asks its tasks to end (`raise_if_stopping`) before
it kills them.  Workers end by themselves when the parent disappears.

No library does all of this: `concurrent.futures` and loky cannot stop a running task and give up
when a worker dies, pebble knows neither groups, nor memory, nor a task that ends by itself.
"""

from __future__ import annotations

import logging
import multiprocessing as mp
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from geo3d.errors import Cancelled, Geo3dError
from geo3d.threads import BY_QUOTA, COUNTS, PASSIVE, usable_cores

logger = logging.getLogger(__name__)

Handler = Callable[[Any], Any]
_stopping = threading.Event()


@dataclass(frozen=True)
class Task:
    """One unit of work; ``payload`` reaches the handler and must be picklable by reference."""

    name: str
    """Unique; may be used as a relative path."""
    payload: Any = None
    group: Hashable = None


@dataclass(frozen=True)
class Outcome:
    """What became of a task: a value, or the parts of an error."""

    task: Task
    value: Any = None
    error: dict[str, Any] | None = None
    """Of `failure`."""
    seconds: float = 0.0
    attempt: int = 1


@dataclass(frozen=True)
class Limits:
    """What tasks may take, and how their processes are run."""

    workers: int = 1
    """Processes at a time."""
    timeout: float | None = None
    """Seconds a task may take, start-up of the process excluded."""
    memory_mib: float | None = None
    """Memory (resident set) of a process, where the system or psutil tells it."""
    threads: int | None = None
    """Of the numerical libraries in each process; None shares the cores out.  Many small problems
    are several times faster with one."""
    fresh: bool = False
    """Whether every task gets a process of its own, for those that take minutes to days."""
    grace: float = 0.0
    """Seconds a task gets to end by itself, with its checkpoint, when the pool is stopped."""


@dataclass(eq=False)
class _Worker:
    process: SpawnProcess
    connection: Connection
    task: Task | None = None
    begun: float = field(default_factory=time.monotonic)
    group: Hashable = None
    dead: bool = False

    def ended(self, value: Any = None, error: dict[str, Any] | None = None) -> Outcome | None:
        """Return what became of the task, which is no longer the worker's."""
        task, self.task = self.task, None
        seconds = time.monotonic() - self.begun
        return None if task is None else Outcome(task, value, error, seconds)


def run_pool(
    tasks: Sequence[Task],
    make_handler: Callable[[], Handler],
    limits: Limits | None = None,
    idle: Callable[[], None] | None = None,
) -> Iterator[Outcome]:
    """Yield an outcome per task, in the order in which they finish.

    Args:
        tasks: what to do.
        make_handler: called once in each worker; an importable function or a `functools.partial`
            of one.
        limits: of time, memory and processes.
        idle: called at least every second; what it raises ends the pool.
    """
    limits = limits or Limits()
    waiting, left, crew = _Waiting(tasks), len(tasks), []
    try:
        while left:
            while waiting.count > sum(w.task is None for w in crew) and len(crew) < limits.workers:
                crew.append(_start(make_handler, limits))
            if idle is not None:
                idle()
            for worker, outcome in _events(crew, limits):
                if worker.dead:
                    # A process that dies before it has a task would otherwise be replaced forever.
                    task = waiting.take(None) if outcome is None else None
                    worker.task = worker.task or task
                    outcome = _died(worker) if outcome is None else outcome
                    crew.remove(worker)
                    _stop([worker], 0)
                elif worker.task is None:
                    _give(worker, waiting.take(worker.group))
                if outcome is not None:
                    left -= 1
                    yield outcome
    finally:
        _stop(crew, limits.grace)


def raise_if_stopping(event: Mapping[str, Any] | None = None) -> None:
    """Raise `Cancelled` in a task whose pool is being stopped; also a listener of progress."""
    if _stopping.is_set():
        raise Cancelled


def failure(error: Exception) -> dict[str, Any]:
    """Return the parts of an error; one nobody foresaw has its type in the message."""
    if not isinstance(error, Geo3dError):
        message = f"{type(error).__name__}: {error}"
        error = Geo3dError("work.unexpected", message, "Its traceback is in the log.")
    return {**error.to_dict(), "exit_code": error.exit_code}


def answer(handler: Handler, payload: Any) -> tuple[Any, dict[str, Any] | None]:
    """Return what the handler makes of a payload, or the parts of its error."""
    try:
        return handler(payload), None
    except Geo3dError as error:
        return None, failure(error)
    except Exception as error:
        # One task's defect must not stop the others; it is recorded with its type.
        logger.exception("unexpected error in a task")
        return None, failure(error)


class _Waiting:
    """Tasks not yet given out, by group in order of first appearance."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self._groups: dict[Hashable, deque[Task]] = {}
        for task in tasks:
            self._groups.setdefault(task.group, deque()).append(task)
        self._begun: set[Hashable] = set()
        self.count = len(tasks)

    def take(self, group: Hashable) -> Task | None:
        """Return the next task of ``group``, else of a fresh group, else of the fullest one."""
        if not self._groups:
            return None
        if group not in self._groups:
            fresh = [key for key in self._groups if key not in self._begun]
            group = fresh[0] if fresh else max(self._groups, key=lambda k: len(self._groups[k]))
        self._begun.add(group)
        self.count -= 1
        task = self._groups[group].popleft()
        if not self._groups[group]:
            del self._groups[group]
        return task


def _events(crew: list[_Worker], limits: Limits) -> Iterator[tuple[_Worker, Outcome | None]]:
    """Wait, then yield workers that said something, died or took too much."""
    timeout = float("inf") if limits.timeout is None else limits.timeout
    ends = [worker.begun + timeout for worker in crew if worker.task is not None]
    pause = max(0.0, min(ends, default=float("inf")) - time.monotonic())
    heard = wait([worker.connection for worker in crew], min(pause, 0.5))
    for worker in list(crew):
        if worker.connection in heard:
            yield worker, _receive(worker, limits.fresh)
        elif worker.task is not None and (error := _excess(worker, limits)) is not None:
            worker.dead = True
            yield worker, worker.ended(error=failure(error))


def _excess(worker: _Worker, limits: Limits) -> Geo3dError | None:
    if limits.timeout is not None and time.monotonic() > worker.begun + limits.timeout:
        message = f"The task took longer than {limits.timeout:g} s and was stopped."
        return Geo3dError("work.timeout", message, "Give it more time.")
    if limits.memory_mib is not None and resident_mib(worker.process.pid) > limits.memory_mib:
        message = f"The task took more than {limits.memory_mib:g} MiB and was stopped."
        return Geo3dError("work.over_memory", message, "Give it more memory.")
    return None


def resident_mib(pid: int | None) -> float:
    """Return the memory a process holds; 0 where nobody tells."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as stream:
            return int(stream.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except (OSError, IndexError):
        pass
    try:
        import psutil

        return psutil.Process(pid).memory_info().rss / 2**20
    except (ImportError, psutil.Error):
        return 0.0


def _receive(worker: _Worker, fresh: bool) -> Outcome | None:
    try:
        value, error = worker.connection.recv()
    except (EOFError, OSError):
        worker.dead = True
        return _died(worker)
    outcome = worker.ended(value, error)
    worker.dead = fresh and outcome is not None
    return outcome


def _give(worker: _Worker, task: Task | None) -> None:
    if task is None:
        return
    worker.task, worker.group, worker.begun = task, task.group, time.monotonic()
    try:
        worker.connection.send(task.payload)
    except OSError:
        # The process has just died; reading from it says so at the next turn.
        logger.debug("worker %s went away before task %s", worker.process.pid, task.name)


def _died(worker: _Worker) -> Outcome | None:
    worker.process.join(1.0)
    error = Geo3dError(
        "work.worker_died",
        f"The process of this task ended with exit code {worker.process.exitcode}.",
        "A negative code is a signal; -9 often means that memory ran out. Use fewer workers.",
    )
    return worker.ended(error=failure(error))


def _start(make_handler: Callable[[], Handler], limits: Limits) -> _Worker:
    context = mp.get_context("spawn")
    ours, theirs = context.Pipe()
    # One that lives for a single task may have children, as a training's loader of images has.
    process = context.Process(target=_work, args=(theirs, make_handler), daemon=not limits.fresh)
    threads = limits.threads or max(1, usable_cores() // max(1, limits.workers))
    with _environment(threads):
        process.start()
    theirs.close()
    return _Worker(process, ours)


@contextmanager
def _environment(threads: int) -> Iterator[None]:
    """Set what numerical libraries read once, when the child imports them."""
    # One that is set stands for all: torch believes MKL_NUM_THREADS rather than OMP_NUM_THREADS.
    is_ours = BY_QUOTA in os.environ
    before = {name: os.environ.get(name) for name in (*COUNTS, *PASSIVE)}
    given = [int(v) for n in COUNTS if not is_ours and (v := before[n] or "").isdigit()]
    counts = dict.fromkeys(COUNTS, str(min(given, default=threads)))
    for name, value in {**counts, **PASSIVE}.items():
        if before[name] is None or (is_ours and name in counts):
            os.environ[name] = value
    try:
        yield
    finally:
        for name, kept in before.items():
            if kept is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = kept


def _stop(crew: Sequence[_Worker], grace: float) -> None:
    """Let tasks end by themselves within ``grace``, then kill."""
    for worker in crew:
        if grace and worker.task is not None and worker.process.pid and worker.process.is_alive():
            os.kill(worker.process.pid, signal.SIGINT)
    end = time.monotonic() + grace
    for worker in crew:
        if worker.task is not None:
            worker.process.join(max(0.0, end - time.monotonic()))
        worker.process.kill()
        worker.process.join()
        worker.connection.close()


def _work(connection: Connection, make_handler: Callable[[], Handler]) -> None:
    """Run one worker: say that it is ready, then answer tasks until the parent goes away."""
    # A KeyboardInterrupt is lost where it meets a finaliser or a callback from C; a flag is not.
    signal.signal(signal.SIGINT, lambda *_: _stopping.set())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    handler = make_handler()
    connection.send((None, None))
    while True:
        try:
            payload = connection.recv()
        except EOFError:
            return
        found = answer(handler, payload)
        if _stopping.is_set() and found[1] is not None:
            # Nobody waits for it, and it is no failure of the task.
            os._exit(130)
        connection.send(found)
        if _stopping.is_set():
            return


def _end_with_parent() -> None:
    parent = mp.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
