"""Listeners to progress events (see `geo3d.progress`): terminal, file, cancel.

A listener is a callable that receives a mapping with ``stage step total metrics``.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from geo3d.progress import ProgressCallback
from geo3d.runs import Run


def chain(*listeners: ProgressCallback) -> ProgressCallback:
    """Return a listener that tells each of ``listeners`` in turn."""

    def tell(event: Mapping[str, Any]) -> None:
        for listener in listeners:
            listener(event)

    return tell


def cancel_listener(run: Run) -> ProgressCallback:
    """Return a listener that keeps ``run`` alive and raises `Cancelled` when it is cancelled."""

    def tell(event: Mapping[str, Any]) -> None:
        run.check_cancelled()

    return tell


def jsonl_listener(path: str | os.PathLike[str], every_s: float = 0.0) -> ProgressCallback:
    """Return a listener that appends events, with the time, to a JSON-lines file.

    Of the steps of one stage it leaves out those that come within ``every_s`` seconds of the one
    before, except the last.
    """
    target, last, stage = Path(path), -math.inf, ""

    def tell(event: Mapping[str, Any]) -> None:
        nonlocal last, stage
        is_new = event["stage"] != stage or event["step"] == event["total"]
        if not is_new and time.monotonic() - last < every_s:
            return
        last, stage = time.monotonic(), event["stage"]
        line = json.dumps({"time": round(time.time(), 3), **event}, default=str)
        with target.open("a", encoding="utf-8") as stream:
            stream.write(line + "\n")

    return tell


class tqdm_listener:
    """A listener that draws one bar per stage on stderr, with the time left.

    A stage shows only once it has lasted ``delay`` seconds: quick ones leave no trace.  Steps are
    absolute; a stage that starts again, or another stage, closes the bar before.
    """

    def __init__(self, delay: float = 2.0, disable: bool = False) -> None:
        self.delay = delay
        self.disable = disable
        self._bar: Any = None
        self._stage = ""

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Receive one event."""
        if self.disable:
            return
        bar = self._bar
        if bar is None or event["stage"] != self._stage or event["step"] < bar.n:
            bar = self._start(event)
        bar.total = event["total"]
        if event["metrics"]:
            bar.set_postfix(event["metrics"], refresh=False)
        bar.update(event["step"] - bar.n)
        if event["step"] == event["total"]:
            self.close()

    def close(self) -> None:
        """End the present bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _start(self, event: Mapping[str, Any]) -> Any:
        from tqdm import tqdm

        self.close()
        self._stage = event["stage"]
        # `delay` alone would still draw on close; leave=False removes what is drawn.
        self._bar = tqdm(
            total=event["total"], desc=self._stage, delay=self.delay, leave=False, unit="step"
        )
        return self._bar
