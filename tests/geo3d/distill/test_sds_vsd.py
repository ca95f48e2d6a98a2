from __future__ import annotations

import pytest
import torch

from geo3d.distill.diffusion import NoiseSchedule, guided, stratified_steps
from geo3d.distill.sds import loss_with_gradient, sds_gradient, step_weight, step_window
from geo3d.distill.vsd import tracker_loss, vsd_gradient
from geo3d.errors import ConfigError, NumericalError

ABAR = torch.tensor([0.96, 0.64, 0.36, 0.04])


def draws(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_what_the_network_should_output_gives_noise_and_item_back(prediction: str) -> None:
    schedule = NoiseSchedule(ABAR, prediction)
    x, noise, t = draws(4, 3, 2, 2), draws(4, 3, 2, 2) + 1, torch.arange(4)
    x_t = schedule.noisy(x, noise, t)
    output = schedule.target(x, noise, t)
    torch.testing.assert_close(schedule.noise_of(output, x_t, t), noise)
    torch.testing.assert_close(schedule.clean_of(output, x_t, t), x, atol=1e-5, rtol=1e-5)


def test_noise_at_a_level_by_hand() -> None:
    schedule = NoiseSchedule(ABAR)
    ones = torch.ones(1, 1)
    # alpha 0.8, sigma 0.6
    assert schedule.noisy(ones, 2 * ones, torch.tensor([1])).item() == pytest.approx(2.0)
    assert step_weight(schedule, torch.tensor([1])).item() == pytest.approx(0.36)


def test_velocity_works_where_no_signal_is_left_and_noise_is_refused() -> None:
    none = torch.tensor([0.5, 0.0])
    x, noise, t = draws(1, 3), draws(1, 3) * 2, torch.tensor([1])
    schedule = NoiseSchedule(none, "v_prediction")
    output = schedule.target(x, noise, t)
    torch.testing.assert_close(schedule.clean_of(output, noise, t), x)
    with pytest.raises(ConfigError, match=r"diffusion.bad_schedule"):
        NoiseSchedule(none)
    with pytest.raises(ConfigError, match=r"diffusion.unknown_prediction"):
        NoiseSchedule(ABAR, "sample")


def test_guidance_by_hand() -> None:
    a, b = torch.zeros(1, 1), torch.ones(1, 1)
    assert guided(a, b, 7.5).item() == 7.5
    assert guided(a, b, 1.0).item() == 1.0


def test_gradients_by_hand_and_clipped() -> None:
    teacher, other = torch.tensor([[3.0, 100.0]]), torch.tensor([[1.0, 0.0]])
    weight = torch.tensor([0.5])
    assert sds_gradient(teacher, other, weight).tolist() == [[1.0, 50.0]]
    assert vsd_gradient(teacher, other, weight, 8.0).tolist() == [[1.0, 8.0]]
    assert not vsd_gradient(teacher, teacher, weight).any()
    assert tracker_loss(teacher, teacher - 2).item() == 4.0


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_gradients_that_are_not_finite_raise_and_are_not_cleaned(bad: float) -> None:
    teacher = torch.tensor([[1.0, bad]])
    for act in (sds_gradient, vsd_gradient):
        with pytest.raises(NumericalError, match=r"1 of 2.*no finite"):
            act(teacher, torch.zeros(1, 2), torch.ones(1), 8.0)


def test_the_loss_has_the_gradient_over_the_batch() -> None:
    x, g = draws(2, 3).requires_grad_(), draws(2, 3) + 1
    loss = loss_with_gradient(x, g)
    loss.backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, g / 2)
    assert loss.item() == pytest.approx(0.25 * float((g**2).sum()))


def test_the_window_of_steps_falls_after_a_while() -> None:
    assert step_window(1000, 0.0, (0.02, 0.98), 0.5) == (20, 980)
    assert step_window(1000, 0.2, (0.02, 0.98), 0.5) == (20, 980)
    assert step_window(1000, 0.6, (0.02, 0.98), 0.5) == (20, 740)
    assert step_window(1000, 1.0, (0.02, 0.98), 0.5) == (20, 500)
    assert step_window(10, 1.0, (0.0, 1.0)) == (0, 9)
    with pytest.raises(ConfigError, match=r"distill.bad_window"):
        step_window(10, 0.0, (0.5, 0.2))


def test_steps_are_spread_over_the_window() -> None:
    steps = stratified_steps(4, (0, 99), torch.Generator().manual_seed(0))
    assert [int(s) // 25 for s in steps] == [0, 1, 2, 3]
    many = stratified_steps(5000, (3, 4), torch.Generator().manual_seed(0))
    assert set(many.tolist()) == {3, 4}
