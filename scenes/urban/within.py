"""Where the work on a window is, so that it can go on there: stages in their order, and steps.

A stage is a run of steps with a name ("fit/3/0": the first fit of window 3).  All that is random in
a step follows from its number, so a stage that begins again at a step ends as if it had never
stopped.

    first = saver.start(name)              # 0; the saved step; None for a stage that is over
    for step in range(first, steps):
        ...
        saver.after(name, step + 1, kept)  # saves when it is time
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from torch import Tensor


class Writer(Protocol):
    """What writes a state to disk."""

    def __call__(self, at: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> object:
        """Write where the work is, and tensors that are needed to go on."""
        ...


class Saver:
    """Saves the state of a window now and then, and knows where a saved one was.

    Args:
        write: writes the state.
        every_s: seconds between two states.
        at: what `write` was given for the saved state; None starts from the beginning.
        tensors: the saved tensors.
    """

    def __init__(
        self,
        write: Writer,
        every_s: float,
        at: Mapping[str, Any] | None = None,
        tensors: Mapping[str, Tensor] | None = None,
    ) -> None:
        self._write, self._every = write, every_s
        self._at, self._tensors = at, dict(tensors or {})
        self._last = time.monotonic()

    def start(self, stage: str) -> int | None:
        """Return the step at which a stage begins; None if it was over when the state was saved."""
        if self._at is None:
            return 0
        if self._at["stage"] != stage:
            return None
        step, self._at = int(self._at["step"]), None
        return step

    def is_over(self, stage: str) -> bool:
        """Return whether a stage was over when the state was saved."""
        return self._at is not None and self._at["stage"] != stage

    def holds(self, stage: str) -> Mapping[str, Tensor] | None:
        """Return the tensors saved within a stage; None if none were, or another stage's."""
        is_here = self._at is not None and self._at["stage"] == stage
        return self._tensors if is_here and self._tensors else None

    def note(self, stage: str, key: str) -> Any:
        """Return a number or text saved within a stage; None if there is none."""
        return self._at.get(key) if self._at is not None and self._at["stage"] == stage else None

    def after(
        self,
        stage: str,
        step: int,
        tensors: Callable[[], Mapping[str, Tensor]] | None = None,
        **notes: Any,
    ) -> None:
        """Tell that ``step`` steps of a stage are done; saves when it is time."""
        if time.monotonic() - self._last < self._every:
            return
        self._write({"stage": stage, "step": step, **notes}, tensors() if tensors else {})
        self._last = time.monotonic()


def _nowhere(at: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write nothing."""


def no_saver() -> Saver:
    """Return one that never saves."""
    return Saver(_nowhere, float("inf"))
