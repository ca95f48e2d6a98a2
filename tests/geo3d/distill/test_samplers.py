"""Heun's sampler against a case with a known answer."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from geo3d.distill.samplers import heun, karras_levels


def test_levels_fall_from_largest_to_smallest_then_zero() -> None:
    levels = karras_levels(10, 0.01, 5.0)
    assert levels[0].item() == pytest.approx(5.0)
    assert levels[-2].item() == pytest.approx(0.01)
    assert levels[-1] == 0
    assert (levels[1:] < levels[:-1]).all()


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
