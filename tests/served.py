"""The workbench as a process of its own, for the tests that talk to it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from apps.commands.app import usable_port

ROOT = Path(__file__).resolve().parents[1]
START_LIMIT_S = 120.0


@contextmanager
def serving(runs: Path, port: int = 0, *flags: str) -> Iterator[str]:
    """Run ``geo3d app`` and yield its address; its output is in ``runs/server.log``."""
    port = port or usable_port("127.0.0.1", 0)
    command = [sys.executable, "-m", "apps.cli", "app", "--port", str(port), "--runs", str(runs)]
    with (runs / "server.log").open("ab") as log:
        server = subprocess.Popen(
            [*command, *flags],
            cwd=ROOT,
            stdout=log,
            stderr=log,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        try:
            url = f"http://127.0.0.1:{port}"
            _wait(server, url, runs / "server.log")
            yield url
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(timeout=30)


def _wait(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    end = time.monotonic() + START_LIMIT_S
    while time.monotonic() < end:
        if server.poll() is not None:
            break
        try:
            urllib.request.urlopen(f"{url}/config", timeout=5).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise RuntimeError(f"the workbench did not start:\n{log.read_text()}")
