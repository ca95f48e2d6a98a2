"""Runs the cells of a benchmark, each in a process of its own, several at a time.

A cell takes minutes to days, so a fresh process for each costs nothing, gives its memory back, and
can die without taking others along.  Processes end by themselves when the parent disappears; asked
to stop, they write their checkpoints first.
"""

from __future__ import annotations

import logging
import multiprocessing as mp
import os
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from geo3d.errors import Cancelled, Geo3dError
from geo3d.files import atomic_write_json
from geo3d.progress import ProgressCallback, report
from geo3d.segmentation.benchmark import FAILED, BenchmarkConfig, Cell, is_finished, run_cell
from geo3d.work.pool import THREAD_VARIABLES

log = logging.getLogger(__name__)

STOP_S = 60.0
"""How long a cell may take to write its checkpoint when asked to stop."""
POLL_S = 0.5


def run_cells(
    config: BenchmarkConfig, cells: Sequence[Cell], folder: Path, progress: ProgressCallback
) -> None:
    """Run all cells that are not finished; failures stand in their folders.

    Args:
        config: settings of the benchmark.
        cells: the grid.
        folder: where results and cells lie.
        progress: told at least every second; what it raises ends the benchmark.
    """
    waiting = [cell for cell in cells if not is_finished(cell, folder)]
    done, failed = len(cells) - len(waiting), 0
    running: dict[SpawnProcess, Cell] = {}
    try:
        while waiting or running:
            while waiting and len(running) < config.workers:
                cell = waiting.pop(0)
                running[_start(config, cell, folder)] = cell
            report(progress, "runs", done, len(cells), running=len(running), failed=failed)
            wait([process.sentinel for process in running], POLL_S)
            for process in [p for p in running if p.exitcode is not None]:
                cell = running.pop(process)
                done += 1
                if not is_finished(cell, folder):
                    failed += 1
                    _explain(cell, folder, process.exitcode)
        report(progress, "runs", done, len(cells), running=0, failed=failed)
    finally:
        _stop(list(running))


def _start(config: BenchmarkConfig, cell: Cell, folder: Path) -> SpawnProcess:
    process = mp.get_context("spawn").Process(target=_work, args=(config, cell, folder))
    # Numerical libraries read these once, when the child imports them.
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    try:
        process.start()
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
    return process


def _work(config: BenchmarkConfig, cell: Cell, folder: Path) -> None:
    import torch

    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    begun, asked = time.monotonic(), threading.Event()
    # A KeyboardInterrupt is lost where it meets a finaliser or a callback from C; a flag is not.
    signal.signal(signal.SIGINT, lambda *_: asked.set())

    def stop_if_asked(event: Mapping[str, Any]) -> None:
        if asked.is_set():
            raise Cancelled

    try:
        run_cell(config, cell, folder, stop_if_asked)
    except Cancelled:
        os._exit(130)
    except Geo3dError as error:
        _fail(cell, folder, error, time.monotonic() - begun)
    except Exception as error:
        # A defect in one cell must not stop the others; it is recorded with its type.
        log.exception("unexpected error in %s", cell.path)
        wrapped = Geo3dError("segment_bench.unexpected", f"{type(error).__name__}: {error}", "")
        _fail(cell, folder, wrapped, time.monotonic() - begun)


def _fail(cell: Cell, folder: Path, error: Geo3dError, seconds: float) -> None:
    record = {**error.to_dict(), "seconds": round(seconds, 1)}
    atomic_write_json(folder / "cells" / cell.path / FAILED, record)
    log.warning("%s failed: %s", cell.path, error)


def _explain(cell: Cell, folder: Path, code: int | None) -> None:
    """Say why a cell whose process ended has no results, where it could not say so itself."""
    if not (folder / "cells" / cell.path / FAILED).is_file():
        died = Geo3dError(
            "segment_bench.worker_died",
            f"The process ended with exit code {code}.",
            "A negative code is a signal; -9 often means that memory ran out. Use fewer workers.",
        )
        _fail(cell, folder, died, 0.0)


def _stop(processes: Sequence[SpawnProcess]) -> None:
    """Ask processes to write their checkpoints and end; kill those that do not."""
    for process in processes:
        if process.pid is not None and process.is_alive():
            os.kill(process.pid, signal.SIGINT)
    end = time.monotonic() + STOP_S
    for process in processes:
        process.join(max(0.0, end - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()


def _end_with_parent() -> None:
    parent = mp.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
