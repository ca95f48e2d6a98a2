"""Progress leaves every long computation through one callback that receives a mapping.

An event has the keys ``stage`` (what is being done, a short phrase), ``step`` (done so far),
``total`` (how many in all, or None) and ``metrics`` (numbers worth showing, may be empty).
Listeners (terminal bar, JSON lines, viewer) are ordinary callables.  A listener may raise
`Cancelled`; the computation lets it pass, so that a job stops within one step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

_T = TypeVar("_T")

ProgressCallback = Callable[[Mapping[str, Any]], None]
MetricsCallback = Callable[[Mapping[str, Any]], None]
"""Receives lines of metrics of a long computation, by name."""


def ignore_progress(event: Mapping[str, Any]) -> None:
    """Listen to nothing: the default callback."""


def report(
    progress: ProgressCallback,
    stage: str,
    step: int,
    total: int | None = None,
    **metrics: float | int | str,
) -> None:
    """Send one event to ``progress``."""
    progress({"stage": stage, "step": step, "total": total, "metrics": metrics})


def tell_each(items: Sequence[_T], progress: ProgressCallback, stage: str) -> Iterator[_T]:
    """Yield the items; tell how many are done before each, and after the last."""
    for done, item in enumerate(items):
        report(progress, stage, done, len(items))
        yield item
    report(progress, stage, len(items), len(items))
