"""Processor time of a match alone, and beside busy processes: do waiting threads take cores?

Threads that spin while they wait cost a multiple beside others' work (see `geo3d.threads`).  Wall
time may grow as the cores are shared; processor time should not.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from typing import Any

from geo3d.files import asset
from geo3d.progress import ProgressCallback, ignore_progress, report

BUSY = 2
"""Processes beside the match."""
_SPIN = "while True: pass"


def bench_load(progress: ProgressCallback = ignore_progress) -> list[dict[str, Any]]:
    """Match two shipped birds alone and beside busy processes; return seconds and their ratio."""
    report(progress, "match, to warm caches", 0, 3)
    _match()
    report(progress, "match alone", 1, 3)
    alone = _match()
    report(progress, "match beside busy processes", 2, 3)
    others = [subprocess.Popen([sys.executable, "-c", _SPIN]) for _ in range(BUSY)]
    try:
        beside = _match()
    finally:
        for other in others:
            other.kill()
            other.wait()
    report(progress, "match beside busy processes", 3, 3)
    return [
        {"beside": "nothing", **alone, "ratio": 1.0},
        {
            "beside": f"{BUSY} busy processes",
            **beside,
            "ratio": round(beside["processor_s"] / alone["processor_s"], 2),
        },
    ]


def _match() -> dict[str, float]:
    """Return processor and wall seconds of a command that matches two birds."""
    birds = [str(asset(f"shapes/off/bird{i}.off")) for i in (1, 3)]
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "apps.cli", "match", *birds, "--out", out, "--json"]
        before, begun = os.times(), time.perf_counter()
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        after, wall = os.times(), time.perf_counter() - begun
    spent = after.children_user + after.children_system
    spent -= before.children_user + before.children_system
    return {"processor_s": round(spent, 1), "wall_s": round(wall, 1)}
