"""The loop by itself: what it logs and writes when, the scale of the loss, and what ends it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from geo3d import checkpoints
from geo3d.errors import Cancelled, ConfigError, InputError, NumericalError
from geo3d.work.gradients import Clipper, Masters
from geo3d.work.state import TrainingState, previous, running_average
from geo3d.work.training import CHECKPOINT, Backward, Method, Plan, run_training


class Square(Method):
    """Weights w fall towards 0 under w^2 / 2; the gradient is w, or what ``gradient`` says."""

    def __init__(self, dtype: torch.dtype = torch.float32, log_scale: float = 0.0) -> None:
        network = nn.Linear(1, 1, bias=False).to(dtype)
        nn.init.ones_(network.weight)
        masters = Masters(network, log_scale, 0.25)
        average = running_average(masters.weights, lambda step: 0.5)
        optimizer = torch.optim.SGD(masters.weights, 0.1)
        state = TrainingState(network, optimizer, [average], Clipper(), masters)
        super().__init__(state)
        self.weight = network.weight
        self.factors: dict[int, float] = {}
        """What the loss of a step is multiplied by."""
        self.calls: list[str] = []

    def prepare(self) -> None:
        self.calls.append(f"prepare {self.state.step}")

    def gradients(self, backward: Backward) -> Mapping[str, Tensor | float]:
        factor = self.factors.get(self.state.step, 1.0)
        for _ in range(2):
            loss = self.weight.float().square().sum() / 2 * factor
            backward(loss / 2)
        odd = {"odd": 7.0} if self.state.step % 2 else {}
        return {"loss": loss.detach(), **odd}

    def moved(self) -> None:
        self.calls.append(f"moved {self.state.step}")

    def validate(self) -> dict[str, Any]:
        return {"weight": self.state.masters.weights[0].item()}

    def export(self, out: Path, *, is_last: bool) -> None:
        self.calls.append(f"export {self.state.step} {is_last}")


def plan(**changes: Any) -> Plan:
    return Plan("testing", **{"steps": 5, "rate": lambda step: 0.1, "log_every": 2, **changes})


def test_lines_are_means_and_come_when_something_is_due(tmp_path: Path) -> None:
    lines: list[Any] = []
    shown: list[Any] = []
    last = run_training(
        Square(), plan(validate_every=3), tmp_path, {}, log_metrics=lines.append,
        progress=lambda event: shown.append(event["metrics"]),
    )  # fmt: skip
    assert [line["step"] for line in lines] == [2, 3, 4, 5] and last == lines[-1]
    first = lines[0]
    assert first["loss"] == pytest.approx((0.5 + 0.81 * 0.5) / 2)
    assert first["grad_norm"] == pytest.approx((1 + 0.9) / 2)
    assert first["learning_rate"] == 0.1 and first["odd"] == 7.0
    assert ["weight" in line for line in lines] == [False, True, False, True]
    assert lines[1]["weight"] == pytest.approx(0.9**3)
    assert shown[0] == {} and set(shown[1]) == {"loss"} and set(shown[4]) == {"loss", "weight"}


def test_the_order_of_a_step_and_of_what_is_written(tmp_path: Path) -> None:
    method = Square()
    run_training(method, plan(steps=3, checkpoint_every=2), tmp_path, {})
    assert method.calls == [
        "prepare 0", "moved 0", "prepare 1", "moved 1", "prepare 2", "export 2 False", "moved 2",
        "export 3 True",
    ]  # fmt: skip
    steps = [checkpoints.load(p).config["step"] for p in (previous(tmp_path / CHECKPOINT),
                                                          tmp_path / CHECKPOINT)]  # fmt: skip
    assert steps == [2, 3]
    average = next(method.state.averages[0].module.parameters()).item()
    assert average == pytest.approx(((1 + 0.9) / 2 + 0.81) / 4 + 0.729 / 2)


def test_an_overflow_in_half_precision_is_left_out(tmp_path: Path) -> None:
    method = Square(torch.float16, log_scale=8.0)
    method.factors[1] = 1e9
    numbers = run_training(method, plan(log_every=5), tmp_path, {})
    assert method.state.counts["skipped"] == 1 and numbers["log_scale"] == 8 - 1 + 4 * 0.25
    assert method.state.masters.weights[0].item() == pytest.approx(0.9**4, rel=1e-3)


def test_half_precision_that_stays_not_finite_ends_too(tmp_path: Path) -> None:
    method = Square(torch.float16, log_scale=2.5)
    method.factors |= dict.fromkeys(range(1, 50), torch.nan)
    with pytest.raises(NumericalError, match=r"training\.diverged.*\n.*hint"):
        run_training(method, plan(steps=50), tmp_path, {})
    assert method.state.step == 4 and method.weight.item() == pytest.approx(0.9, rel=1e-3)


def test_weights_that_left_the_finite_numbers_are_not_written(tmp_path: Path) -> None:
    method = Square()
    run_training(method, plan(), tmp_path, {})
    before = (tmp_path / CHECKPOINT).read_bytes()

    class Leaving(Square):
        def moved(self) -> None:
            if self.state.step == 7:
                nn.init.constant_(self.weight, torch.inf)

    with pytest.raises(NumericalError, match="not finite after step 8"):
        run_training(Leaving(), plan(steps=8), tmp_path, {})
    assert (tmp_path / CHECKPOINT).read_bytes() == before


def test_only_a_whole_step_is_written_when_stopped(tmp_path: Path) -> None:
    class Torn(Square):
        def moved(self) -> None:
            if self.state.step == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_training(Torn(), plan(checkpoint_every=2), tmp_path, {})
    assert checkpoints.load(tmp_path / CHECKPOINT).config["step"] == 2

    def stop(event: Mapping[str, Any]) -> None:
        if event["step"] == 3:
            raise Cancelled

    with pytest.raises(Cancelled):
        run_training(Square(), plan(), tmp_path, {}, progress=stop)
    assert checkpoints.load(tmp_path / CHECKPOINT).config["step"] == 3


def test_what_an_objective_finds_not_finite_is_a_divergence(tmp_path: Path) -> None:
    class Finicky(Square):
        def gradients(self, backward: Backward) -> Mapping[str, Tensor | float]:
            raise self.error

    for error, code in (
        (InputError("loss.not_finite", "The scores hold NaN.", ""), "training.diverged"),
        (NumericalError("fmap.singular", "No map.", ""), "training.diverged"),
        (InputError("other", "Else.", ""), "other"),
        (ConfigError("other", "Else.", ""), "other"),
    ):
        method = Finicky()
        method.error = error
        with pytest.raises((NumericalError, InputError, ConfigError)) as caught:
            run_training(method, plan(), tmp_path / code, {})
        assert caught.value.code == code
