"""When an optimisation goes back, worked out by hand."""

from __future__ import annotations

import pytest
import torch

from geo3d.errors import NumericalError
from scenes.urban.rollback import Rollback, RollbackConfig

BAD = NumericalError("distill.not_finite", "bad")


class Counter:
    """Something with a state."""

    def __init__(self) -> None:
        self.value = 0

    def state_dict(self) -> dict[str, int]:
        return {"value": self.value}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.value = state_dict["value"]


def test_copies_are_made_every_so_many_steps() -> None:
    counter = Counter()
    guard = Rollback({"counter": counter}, RollbackConfig(every=3))
    wanted = {0: 0, 1: 0, 2: 3, 3: 3, 4: 3, 5: 6, 6: 6}
    for step, back in wanted.items():
        counter.value = step + 1
        guard.check(step, 1.0)
        seen = Rollback.recover(guard, step + 1, BAD) if step == 6 else guard._next
        assert seen == back, step
    assert counter.value == 6
    assert guard.report() == [
        {"step": 7, "back_to": 6, "reason": "bad", "code": "distill.not_finite"}
    ]


def test_what_is_odd_is_known_after_half_a_window_and_only_beyond_the_factor() -> None:
    config = RollbackConfig(window=6, factor=10.0, patience=1)
    early = Rollback({}, config)
    early.check(0, 1.0)
    early.check(1, 1.0)
    early.check(2, 1000.0)  # two values are fewer than half a window: nothing is usual yet
    guard = Rollback({}, config)
    for step in range(3):
        guard.check(step, 1.0)
    guard.check(3, 10.0)  # ten times is not yet beyond
    with pytest.raises(NumericalError, match=r"rollback.diverged"):
        guard.check(4, 10.1)


def test_two_values_are_the_least_that_are_usual() -> None:
    guard = Rollback({}, RollbackConfig(window=2, factor=2.0, patience=1))
    guard.check(0, 1.0)
    guard.check(1, 1.9)
    with pytest.raises(NumericalError, match=r"rollback.diverged"):
        guard.check(2, 3.0)  # over twice the median of 1 and 1.9


def test_no_copy_is_made_while_values_are_odd_and_odd_values_are_not_usual() -> None:
    counter = Counter()
    config = RollbackConfig(every=1, window=4, factor=5.0, patience=3)
    guard = Rollback({"counter": counter}, config)
    for step in range(4):
        counter.value = step + 1
        guard.check(step, 1.0)
    for step in (4, 5):
        counter.value = 99
        guard.check(step, 6.0)
    with pytest.raises(NumericalError, match=r"rollback.diverged") as caught:
        guard.check(6, 6.0)
    assert guard.recover(6, caught.value) == 4
    assert counter.value == 4


def test_after_a_return_the_count_of_odd_values_starts_anew() -> None:
    guard = Rollback({}, RollbackConfig(window=2, factor=2.0, patience=2))
    for step in range(2):
        guard.check(step, 1.0)
    guard.check(2, 9.0)
    guard.recover(3, BAD)
    # what was usual is forgotten as well
    for step in range(3):
        guard.check(step, 9.0)


def test_rates_fall_with_every_return_from_the_same_copy() -> None:
    model = torch.nn.Linear(1, 1)
    adam = torch.optim.Adam(model.parameters(), lr=0.8)
    guard = Rollback({"adam": adam}, RollbackConfig(every=1, slow_down=0.5))

    def rate() -> float:
        return adam.param_groups[0]["lr"]

    guard.recover(0, BAD)
    assert rate() == pytest.approx(0.4)
    guard.recover(0, BAD)
    assert rate() == pytest.approx(0.2)
    guard.check(0, 1.0)  # the copy has the lower rate already
    guard.recover(1, BAD)
    assert rate() == pytest.approx(0.1) and guard.attempt == 3


@pytest.mark.parametrize("most", [0, 2])
def test_it_gives_up_after_the_last_return_that_is_allowed(most: int) -> None:
    guard = Rollback({}, RollbackConfig(most=most))
    for _ in range(most):
        guard.recover(1, BAD)
    with pytest.raises(NumericalError, match=r"rollback.gave_up"):
        guard.recover(1, BAD)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_is_a_divergence_at_once(value: float) -> None:
    with pytest.raises(NumericalError, match=r"rollback.not_finite"):
        Rollback({}).check(0, value)
