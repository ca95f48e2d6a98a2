"""Heun's sampler against a case with a known answer."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from geo3d.distill.levels import karras_levels
from geo3d.distill.samplers import flow_steps, heun


def gaussian(mean: float, std: float):
    """Return the exact denoiser of N(mean, std^2)."""

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        keep = std**2 / (std**2 + sigma[:, None] ** 2)
        return mean + keep * (x - mean)

    return denoise


def test_samples_of_a_gaussian_are_the_exact_flow() -> None:
    noise = torch.randn(2000, 3, generator=torch.Generator().manual_seed(0))
    largest = 40.0
    found = heun(gaussian(0.5, 0.2), noise, karras_levels(150, 0.001, largest))
    # The flow keeps (x - mean) / sqrt(std^2 + sigma^2) constant.
    expected = 0.5 + 0.2 * (largest * noise - 0.5) / (0.2**2 + largest**2) ** 0.5
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-3)


def test_error_falls_with_the_square_of_the_step() -> None:
    noise = torch.randn(200, 1, generator=torch.Generator().manual_seed(0))
    exact = 0.3 * 5.0 * noise / (0.3**2 + 5.0**2) ** 0.5

    def error(n: int) -> float:
        found = heun(gaussian(0.0, 0.3), noise, karras_levels(n, 1e-3, 5.0))
        return (found - exact).abs().max().item()

    assert error(20) / error(40) > 3


def test_progress_tells_every_level() -> None:
    events = []
    heun(gaussian(0, 1), torch.zeros(1, 1), karras_levels(4), lambda e: events.append(e["step"]))
    assert events == [1, 2, 3, 4]


def test_steps_along_a_velocity_by_hand() -> None:
    told = []

    def velocity(x: Tensor, t: float, end: float) -> Tensor:
        told.append((t, end))
        return 2 * x

    steps = list(flow_steps(velocity, torch.tensor([8.0]), [1.0, 0.75, 0.0], sigma_min=0.1))
    assert told == [(1.0, 0.75), (0.75, 0.0)] == [(step.t, step.end) for step in steps]
    # 8 - 0.25 * 16, then 4 - 0.75 * 8
    assert [step.x.item() for step in steps] == [4.0, -2.0]
    # x (1 - s) - v (s + (1 - s) t): 8 * 0.9 - 16, 4 * 0.9 - 8 * 0.775
    assert [step.estimate.item() for step in steps] == pytest.approx([-8.8, -2.6])


def test_jumps_are_perturbed_anew_to_the_end_of_their_step() -> None:
    fresh = iter([torch.tensor([10.0]), torch.tensor([20.0])])
    steps = flow_steps(
        lambda x, t, end: torch.ones(1),
        torch.tensor([3.0]),
        [1.0, 0.5, 0.25, 0.0],
        lambda: next(fresh),
        0.1,
    )
    # data 3 - 1 = 2, noise 10 at 0.5: 2 * 0.5 + 10 * (0.1 + 0.9 * 0.5) = 6.5; data 6.5 - 0.5 = 6,
    # noise 20 at 0.25: 6 * 0.75 + 20 * (0.1 + 0.9 * 0.25) = 11; the last step needs no noise
    assert [step.x.item() for step in steps] == pytest.approx([6.5, 11.0, 10.75])


def test_heun_by_hand() -> None:
    # D = 0, so the slope is x / sigma and one step to 0 lands there; before it, Heun's mean of
    # slopes: x 4 at sigma 4 -> 2: slope 1, ahead 2, slope 1
    found = heun(lambda x, sigma: 0 * x, torch.ones(1, 1), torch.tensor([4.0, 2.0, 0.0]))
    assert found.item() == 0
    # D = 1: slope (x - 1) / sigma keeps (x - 1) / sigma
    found = heun(lambda x, sigma: 0 * x + 1, torch.ones(1, 1), torch.tensor([4.0, 2.0]))
    assert found.item() == pytest.approx(1 + 3 / 2)
    # D = x^2: 4 at 4: slope -3, ahead 10 at 2: slope -45; 4 - 2 (-48) / 2
    found = heun(lambda x, sigma: x**2, torch.ones(1, 1), torch.tensor([4.0, 2.0]))
    assert found.item() == pytest.approx(52)
