"""Back to the last good state when an optimisation diverges.

A step is bad when a number in it is not finite (the functions it calls raise `NumericalError`) or
when a watched value stays far above its usual size.  The state is copied now and then, but only
after a run of good steps; a bad step restores the copy, lowers learning rates, and is counted, so
that the noise drawn next can differ.

    guard = Rollback({"scene": scene, "tables": optimiser}, RollbackConfig())
    step = 0
    while step < total:
        try:
            value = one_step(step, item_generator(seed, f"{step}/{guard.attempt}"))
            guard.check(step, value)
        except NumericalError as error:
            step = guard.recover(step, error)
            continue
        step += 1
"""

from __future__ import annotations

import copy
import logging
import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Protocol

from torch.optim import Optimizer

from geo3d.errors import NumericalError

_log = logging.getLogger(__name__)


class Stateful(Protocol):
    """What can be copied and restored: a module, an optimiser."""

    def state_dict(self) -> Any:
        """Return the state."""
        ...

    def load_state_dict(self, state_dict: Any) -> Any:
        """Take a state back."""
        ...


@dataclass(frozen=True)
class RollbackConfig:
    """When to go back."""

    every: int = 50
    """Steps between copies."""
    window: int = 50
    """Steps that say what is usual."""
    factor: float = 10.0
    """A value is odd above this many times the median of the window."""
    patience: int = 5
    """Odd values in a row that make a divergence."""
    most: int = 5
    """Returns before giving up."""
    slow_down: float = 0.5
    """Factor on every learning rate at each return."""


@dataclass(frozen=True)
class Divergence:
    """One return, for the report."""

    step: int
    """Where it went wrong."""
    back_to: int
    """The next step to do."""
    reason: str
    """The error's message."""
    code: str
    """The error's code."""


class Rollback:
    """Copies of what is optimised, and the record of returns."""

    def __init__(
        self,
        parts: Mapping[str, Stateful],
        config: RollbackConfig = RollbackConfig(),
        first: int = 0,
        before: Sequence[Divergence] = (),
    ) -> None:
        """Copy ``parts`` as they are: the state before step ``first``, after returns ``before``."""
        self._parts, self._config = dict(parts), config
        self._recent: deque[float] = deque(maxlen=config.window)
        self._odd = 0
        self.divergences: list[Divergence] = list(before)
        self._keep(first)

    @property
    def attempt(self) -> int:
        """Return how often it went back."""
        return len(self.divergences)

    def report(self) -> list[dict[str, Any]]:
        """Return all returns, ready for JSON."""
        return [asdict(one) for one in self.divergences]

    def check(self, step: int, value: float) -> None:
        """Tell that ``step`` is done, with a value that should stay of one size.

        Args:
            step: number of the step, from 0.
            value: for instance the root mean square of the gradient; not negative.

        Raises:
            NumericalError: ``rollback.not_finite``, ``rollback.diverged``.
        """
        if not math.isfinite(value):
            raise NumericalError(
                "rollback.not_finite",
                f"The watched value of step {step} is {value}.",
                "Lower the learning rate or the guidance scale.",
            )
        config = self._config
        is_known = len(self._recent) >= max(2, config.window // 2)
        usual = median(self._recent) if is_known else math.inf
        self._odd = self._odd + 1 if value > config.factor * usual else 0
        if self._odd >= config.patience:
            raise NumericalError(
                "rollback.diverged",
                f"For {self._odd} steps up to {step} the watched value was over {config.factor:g} "
                f"times its usual {usual:.3g}: {value:.3g}.",
                "Lower the learning rate or the guidance scale.",
            )
        if not self._odd:
            self._recent.append(value)
            if step + 1 - self._next >= config.every:
                self._keep(step + 1)

    def recover(self, step: int, error: NumericalError) -> int:
        """Restore the last good state and return the step to go on with.

        Raises:
            NumericalError: ``rollback.gave_up`` from ``error`` after too many returns; the state
                is the last good one all the same.
        """
        self._restore()
        self.divergences.append(Divergence(step, self._next, error.message, error.code))
        _log.warning("step %d: %s Back to step %d.", step, error.message, self._next)
        if self.attempt > self._config.most:
            raise NumericalError(
                "rollback.gave_up",
                f"The optimisation diverged {self.attempt} times, last at step {step}: "
                f"{error.message}",
                "Lower the learning rate, the guidance scale or the highest noise level.",
            ) from error
        self._slow_down()
        self._recent.clear()
        self._odd = 0
        return self._next

    def _keep(self, following: int) -> None:
        # Optimisers and modules hand out their own tensors, which the next step overwrites.
        self._copies = {name: copy.deepcopy(p.state_dict()) for name, p in self._parts.items()}
        self._next = following
        # A copy made after a return already has its lower learning rates.
        self._attempt_of_copy = self.attempt

    def _restore(self) -> None:
        for name, part in self._parts.items():
            part.load_state_dict(copy.deepcopy(self._copies[name]))
            if isinstance(part, Optimizer):
                part.zero_grad(set_to_none=True)

    def _slow_down(self) -> None:
        factor = self._config.slow_down ** (self.attempt - self._attempt_of_copy)
        for name, part in self._parts.items():
            if isinstance(part, Optimizer):
                saved = self._copies[name]["param_groups"]
                for group, before in zip(part.param_groups, saved, strict=True):
                    group["lr"] = before["lr"] * factor
