"""Noise levels and times: schedules, distributions, windows and weights, by hand."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from geo3d.distill.levels import (
    LevelDistribution,
    NoiseSchedule,
    TimestepDistribution,
    flow_times,
    karras_levels,
    step_window,
    stratified_steps,
    vp_sigma,
)
from geo3d.errors import ConfigError


def test_edm_levels_are_log_normal() -> None:
    levels = LevelDistribution("edm", log_mean=-0.7, log_std=0.4)
    logs = levels.draw(50_000, torch.Generator().manual_seed(0)).log()
    assert logs.mean().item() == pytest.approx(-0.7, abs=0.01)
    assert logs.std().item() == pytest.approx(0.4, abs=0.01)


def test_published_levels_by_hand() -> None:
    """DiffuMatch: ln sigma is normal with -1.2 and 1.2, data have a root mean square of 0.18."""
    levels = LevelDistribution()
    drawn = levels.draw(5, torch.Generator().manual_seed(2))
    normal = torch.randn(5, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(drawn, (1.2 * normal - 1.2).exp())
    sigma = torch.tensor([0.18])
    assert levels.weight(sigma).item() == pytest.approx(2 / 0.18**2)
    times = TimestepDistribution()
    raw = times.raw(torch.Generator().manual_seed(2), 5)
    torch.testing.assert_close(raw, normal)
    torch.testing.assert_close(times.times(raw, 0.0), torch.sigmoid(normal + 1))
    uniform = TimestepDistribution("uniform").raw(torch.Generator().manual_seed(2), 5)
    assert torch.equal(uniform, torch.rand(5, generator=torch.Generator().manual_seed(2)))


def test_vp_levels_cover_their_range_and_follow_the_generator() -> None:
    levels = LevelDistribution("vp")
    first = levels.draw(20_000, torch.Generator().manual_seed(3))
    assert torch.equal(first, levels.draw(20_000, torch.Generator().manual_seed(3)))
    assert first.max().item() <= 152.2
    # half of the times lie below 1/2
    assert (first < vp_sigma(torch.tensor([0.5]))).float().mean().item() == pytest.approx(
        0.5, abs=0.02
    )


def test_vp_sigma_by_hand() -> None:
    found = vp_sigma(torch.tensor([1.0], dtype=torch.float64)).item()
    assert found == pytest.approx(math.sqrt(math.exp(0.5 * 19.9 + 0.1) - 1))


def test_weights_by_hand() -> None:
    sigma = torch.tensor([0.5, 2.0])
    assert LevelDistribution("vp").weight(sigma).tolist() == pytest.approx([4.0, 0.25])
    # (0.25 + 0.04) / (0.5 * 0.2)^2 and (4 + 0.04) / (2 * 0.2)^2
    assert LevelDistribution("edm", sigma_data=0.2).weight(sigma).tolist() == pytest.approx(
        [29.0, 25.25]
    )


ABAR = torch.tensor([0.96, 0.64, 0.36, 0.04])


def draws(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_what_the_network_should_output_gives_the_noise_back(prediction: str) -> None:
    schedule = NoiseSchedule(ABAR, prediction)
    x, noise, t = draws(4, 3, 2, 2), draws(4, 3, 2, 2) + 1, torch.arange(4)
    x_t = schedule.perturb(x, noise, t)
    output = schedule.target(x, noise, t)
    torch.testing.assert_close(schedule.noise_of(output, x_t, t), noise)


def test_noise_at_a_level_by_hand() -> None:
    schedule = NoiseSchedule(ABAR)
    ones = torch.ones(1, 1)
    # alpha 0.8, sigma 0.6
    assert schedule.perturb(ones, 2 * ones, torch.tensor([1])).item() == pytest.approx(2.0)
    assert schedule.weight(torch.tensor([1])).item() == pytest.approx(0.36)


def test_velocity_works_where_no_signal_is_left_and_noise_is_refused() -> None:
    none = torch.tensor([0.5, 0.0])
    x, noise, t = draws(1, 3), draws(1, 3) * 2, torch.tensor([1])
    schedule = NoiseSchedule(none, "v_prediction")
    output = schedule.target(x, noise, t)
    torch.testing.assert_close(output, -x)
    with pytest.raises(ConfigError, match=r"diffusion.bad_schedule"):
        NoiseSchedule(none)
    with pytest.raises(ConfigError, match=r"diffusion.unknown_prediction"):
        NoiseSchedule(ABAR, "sample")


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
    assert torch.equal(steps, stratified_steps(4, (0, 99), torch.Generator().manual_seed(0)))
    many = stratified_steps(5000, (3, 4), torch.Generator().manual_seed(0))
    assert set(many.tolist()) == {3, 4}


def test_times_keep_above_the_lowest() -> None:
    generator = torch.Generator().manual_seed(0)
    for drawn in (TimestepDistribution("uniform"), TimestepDistribution("logit_normal", 1.0, 1.0)):
        times = drawn.times(drawn.raw(generator, 4000), 0.1)
        assert 0.1 <= times.min() and times.max() <= 1
    # sigmoid(1) is the median of the last
    assert abs(times.median() - (0.1 + 0.9 * 0.7311)) < 0.01
    raw = torch.tensor([0.0, 0.5, 1.0])
    assert TimestepDistribution("uniform").times(raw, 0.2).tolist() == pytest.approx(
        [0.2, 0.6, 1.0]
    )


def test_levels_fall_from_largest_to_smallest_then_zero() -> None:
    levels = karras_levels(10, 0.01, 5.0)
    assert levels[0].item() == pytest.approx(5.0)
    assert levels[-2].item() == pytest.approx(0.01)
    assert levels[-1] == 0
    assert (levels[1:] < levels[:-1]).all()


def test_karras_levels_by_hand() -> None:
    # even in the square root: 4, 3, 2, 1 squared
    assert karras_levels(4, 1.0, 16.0, 2.0).tolist() == pytest.approx([16, 9, 4, 1, 0])
    assert karras_levels(2).tolist() == pytest.approx([80.0, 0.002, 0.0])
    # the middle of the published ones: the mean of the seventh roots, to the seventh
    middle = ((80.0 ** (1 / 7) + 0.002 ** (1 / 7)) / 2) ** 7
    assert karras_levels(3)[1].item() == pytest.approx(middle)


def test_times_of_a_flow_by_hand() -> None:
    assert flow_times(4) == [1.0, 0.75, 0.5, 0.25, 0.0]
    # 3 u / (1 + 2 u)
    assert flow_times(2, 3.0) == pytest.approx([1.0, 0.75, 0.0])
    assert flow_times(1, 5.0) == [1.0, 0.0]


@pytest.mark.parametrize("rescale", [1e-9, 0.001, 0.1, 0.7, 1.0, 3.0, 7.3, 1e4, 1e17])
@pytest.mark.parametrize("steps", [1, 2, 12, 25])
def test_times_of_a_flow_begin_at_one_and_end_at_zero(steps: int, rescale: float) -> None:
    times = flow_times(steps, rescale)
    assert times[0] == 1.0 and times[-1] == 0.0 and len(times) == steps + 1
    assert all(1 >= a >= b >= 0 for a, b in itertools.pairwise(times))


def test_a_window_includes_its_ends_and_refuses_what_is_none() -> None:
    generator = torch.Generator().manual_seed(1)
    drawn = stratified_steps(3000, (7, 9), generator)
    counts = [int((drawn == step).sum()) for step in (7, 8, 9)]
    assert counts == [1000, 1000, 1000]
    assert stratified_steps(2, (5, 5), generator).tolist() == [5, 5]
    assert step_window(1000, 0.0, (0.0, 0.0)) == (0, 0)
    assert step_window(1000, 1.0, (0.3, 1.0), 0.3, 0.0) == (300, 300)
    for bad in (
        {"done": -0.1},
        {"done": 1.1},
        {"done": 0.5, "span": (-0.1, 0.5)},
        {"done": 0.5, "span": (0.1, 1.1)},
        {"done": 0.5, "span": (0.3, 0.9), "last": 0.2},
        {"done": 0.5, "after": 1.0},
        {"done": 0.5, "after": -0.1},
    ):
        with pytest.raises(ConfigError, match=r"distill.bad_window"):
            step_window(1000, **bad)  # type: ignore[arg-type]


def test_velocity_targets_by_hand() -> None:
    schedule = NoiseSchedule(ABAR, "v_prediction")
    x, noise, t = torch.full((1, 1), 2.0), torch.full((1, 1), 3.0), torch.tensor([2])
    # alpha 0.6, sigma 0.8: v = 0.6 * 3 - 0.8 * 2, x_t = 0.6 * 2 + 0.8 * 3
    assert schedule.target(x, noise, t).item() == pytest.approx(0.2)
    assert schedule.perturb(x, noise, t).item() == pytest.approx(3.6)
    assert schedule.noise_of(torch.tensor([[0.2]]), torch.tensor([[3.6]]), t).item() == (
        pytest.approx(3.0)
    )
    assert schedule.weight(torch.tensor([0, 3])).tolist() == pytest.approx([0.04, 0.96])
    assert schedule.steps == 4
    with pytest.raises(ConfigError, match=r"diffusion.bad_schedule"):
        NoiseSchedule(torch.tensor([1.1, 0.5]))
    with pytest.raises(ConfigError, match=r"diffusion.bad_schedule"):
        NoiseSchedule(torch.zeros(0))


def test_vp_levels_reach_down_to_the_smallest_time() -> None:
    drawn = LevelDistribution("vp").draw(200_000, torch.Generator().manual_seed(0))
    lowest, highest = vp_sigma(torch.tensor([1e-5, 1.0])).tolist()
    uniform = torch.rand(200_000, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(drawn, vp_sigma(1 - uniform * (1 - 1e-5)), rtol=1e-3, atol=0)
    assert lowest * 0.99 <= drawn.min().item() < 3 * lowest and drawn.max() <= highest
    logit = TimestepDistribution("logit_normal", 0.5, 2.0)
    raw = torch.tensor([-1.0, 0.0, 1.5])
    # 1 / (1 + exp(-(2 raw + 0.5)))
    expected = [1 / (1 + math.exp(-z)) for z in (-1.5, 0.5, 3.5)]
    assert logit.times(raw, 0.0).tolist() == pytest.approx(expected)
