"""A small process pool that survives what a task can do: hang, crash, or kill its process.

Each worker is a fresh interpreter (spawn) that builds one handler and then answers one task at a
time.  Tasks carry a group; a worker stays with its group while it lasts, so that what the handler
keeps for a group is made once.  A task that overruns its time is recorded as failed and its process
is replaced.  Workers end by themselves when the parent disappears.

Standard pools cannot do this: `concurrent.futures` cannot stop a running task and gives up
altogether when one worker dies.
"""

from __future__ import annotations

import logging
import multiprocessing as mp
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from geo3d.errors import Geo3dError

logger = logging.getLogger(__name__)

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Task:
    """One unit of work; ``payload`` reaches the handler and must be picklable by reference."""

    index: int
    group: Hashable
    payload: Any


@dataclass(frozen=True)
class Outcome:
    """What became of a task: a value, or the parts of an error."""

    task: Task
    value: Any = None
    error: dict[str, str] | None = None


@dataclass
class _Worker:
    process: SpawnProcess
    connection: Connection
    task: Task | None = None
    deadline: float = float("inf")
    group: Hashable = None
    dead: bool = False


def run_pool(
    tasks: Sequence[Task],
    make_handler: Callable[[], Callable[[Any], Any]],
    workers: int,
    timeout: float | None = None,
    idle: Callable[[], None] | None = None,
    threads: int | None = None,
) -> Iterator[Outcome]:
    """Yield an outcome per task, in the order in which they finish.

    Args:
        tasks: what to do.
        make_handler: called once in each worker; an importable function or a `functools.partial`
            of one.
        workers: processes at a time.
        timeout: seconds a task may take, start-up of the process excluded.
        idle: called at least every second; what it raises ends the pool.
        threads: of the numerical libraries in each process; by default the cores are shared out.
            Many small problems are several times faster with one.
    """
    waiting = _Waiting(tasks)
    left = len(tasks)
    threads = threads or max(1, available_cores() // max(1, workers))
    crew = [_start(make_handler, threads) for _ in range(max(1, min(workers, left)))]
    try:
        while left:
            if idle is not None:
                idle()
            for worker, outcome in _events(crew, timeout):
                if worker.dead:
                    # A process that dies before it has a task would otherwise be replaced forever.
                    task = waiting.take(None) if outcome is None else None
                    outcome = outcome if task is None else _died(worker, task)
                    crew.remove(worker)
                    _stop(worker)
                    crew.extend([_start(make_handler, threads)] if waiting else [])
                elif worker.task is None:
                    _give(worker, waiting.take(worker.group), timeout)
                if outcome is not None:
                    left -= 1
                    yield outcome
    finally:
        for worker in crew:
            _stop(worker)


def available_cores() -> int:
    """Return the number of processor cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


class _Waiting:
    """Tasks not yet given out, by group in order of first appearance."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self._groups: dict[Hashable, deque[Task]] = {}
        for task in tasks:
            self._groups.setdefault(task.group, deque()).append(task)
        self._begun: set[Hashable] = set()

    def __bool__(self) -> bool:
        return bool(self._groups)

    def take(self, group: Hashable) -> Task | None:
        """Return the next task of ``group``, else of a fresh group, else of the fullest one."""
        if not self._groups:
            return None
        if group not in self._groups:
            fresh = [key for key in self._groups if key not in self._begun]
            group = fresh[0] if fresh else max(self._groups, key=lambda k: len(self._groups[k]))
        self._begun.add(group)
        task = self._groups[group].popleft()
        if not self._groups[group]:
            del self._groups[group]
        return task


def _events(crew: list[_Worker], timeout: float | None) -> Iterator[tuple[_Worker, Outcome | None]]:
    """Wait, then yield workers that said something, died or ran out of time."""
    pause = max(0.0, min(worker.deadline for worker in crew) - time.monotonic())
    heard = wait([worker.connection for worker in crew], min(pause, 0.5))
    for worker in list(crew):
        if worker.connection in heard:
            yield worker, _receive(worker)
        elif worker.task is not None and time.monotonic() > worker.deadline:
            worker.dead = True
            message = f"The task took longer than {timeout:g} s and was stopped."
            yield worker, _failed(worker.task, "evaluate.pair_timeout", message)


def _receive(worker: _Worker) -> Outcome | None:
    try:
        value, error = worker.connection.recv()
    except (EOFError, OSError):
        worker.dead = True
        return None if worker.task is None else _died(worker, worker.task)
    task, worker.task, worker.deadline = worker.task, None, float("inf")
    return None if task is None else Outcome(task, value, error)


def _give(worker: _Worker, task: Task | None, timeout: float | None) -> None:
    if task is None:
        return
    worker.task, worker.group = task, task.group
    worker.deadline = float("inf") if timeout is None else time.monotonic() + timeout
    try:
        worker.connection.send(task.payload)
    except OSError:
        # The process has just died; reading from it says so at the next turn.
        logger.debug("worker %s went away before task %d", worker.process.pid, task.index)


def _died(worker: _Worker, task: Task) -> Outcome:
    worker.process.join(1.0)
    how = f"with exit code {worker.process.exitcode}"
    return _failed(task, "evaluate.worker_died", f"The process of this task ended {how}.")


def _failed(task: Task, code: str, message: str) -> Outcome:
    return Outcome(task, error={"code": code, "message": message, "hint": ""})


def _start(make_handler: Callable[[], Callable[[Any], Any]], threads: int) -> _Worker:
    context = mp.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, make_handler), daemon=True)
    # Numerical libraries read these once, when the child imports them.  One that is set stands for
    # all: torch believes MKL_NUM_THREADS rather than OMP_NUM_THREADS.
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    threads = min((int(v) for v in before.values() if v and v.isdigit()), default=threads)
    os.environ.update({name: str(threads) for name in THREAD_VARIABLES if before[name] is None})
    try:
        process.start()
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
    theirs.close()
    return _Worker(process, ours)


def _stop(worker: _Worker) -> None:
    worker.connection.close()
    worker.process.kill()
    worker.process.join()


def _work(connection: Connection, make_handler: Callable[[], Callable[[Any], Any]]) -> None:
    """Run one worker: say that it is ready, then answer tasks until the parent goes away."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    handler = make_handler()
    connection.send((None, None))
    while True:
        try:
            payload = connection.recv()
        except EOFError:
            return
        connection.send(_answer(handler, payload))


def _answer(handler: Callable[[Any], Any], payload: Any) -> tuple[Any, dict[str, str] | None]:
    try:
        return handler(payload), None
    except Geo3dError as error:
        return None, error.to_dict()
    except Exception as error:
        # One task's defect must not stop the others; it is recorded with its type.
        logger.exception("unexpected error in a task")
        message = f"{type(error).__name__}: {error}"
        return None, {"code": "evaluate.unexpected_error", "message": message, "hint": ""}


def _end_with_parent() -> None:
    parent = mp.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
