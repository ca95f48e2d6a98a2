"""Noise levels, weights and the denoising loss."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from geo3d.distill.losses import LevelLaw, denoising_loss, vp_sigma


def test_edm_levels_are_log_normal() -> None:
    law = LevelLaw("edm", log_mean=-0.7, log_std=0.4)
    logs = law.draw(50_000, torch.Generator().manual_seed(0)).log()
    assert logs.mean().item() == pytest.approx(-0.7, abs=0.01)
    assert logs.std().item() == pytest.approx(0.4, abs=0.01)


def test_vp_levels_cover_their_range_and_follow_the_generator() -> None:
    law = LevelLaw("vp")
    first = law.draw(20_000, torch.Generator().manual_seed(3))
    assert torch.equal(first, law.draw(20_000, torch.Generator().manual_seed(3)))
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
    assert LevelLaw("vp").weight(sigma).tolist() == pytest.approx([4.0, 0.25])
    # (0.25 + 0.04) / (0.5 * 0.2)^2 and (4 + 0.04) / (2 * 0.2)^2
    assert LevelLaw("edm", sigma_data=0.2).weight(sigma).tolist() == pytest.approx([29.0, 25.25])


def test_loss_of_a_denoiser_that_does_nothing_is_weighted_noise() -> None:
    x, noise = torch.randn(3, 5), torch.randn(3, 5)
    sigma = torch.tensor([0.1, 1.0, 4.0])
    loss = denoising_loss(lambda noisy, level: noisy, x, sigma, noise, LevelLaw("vp"))
    torch.testing.assert_close(loss, noise.square(), rtol=1e-4, atol=1e-5)


def test_loss_has_the_right_gradient() -> None:
    x = torch.randn(2, 3, dtype=torch.float64)
    noise = torch.randn(2, 3, dtype=torch.float64)
    sigma = torch.tensor([0.3, 2.0], dtype=torch.float64)

    def loss_of(scale: Tensor) -> Tensor:
        return denoising_loss(lambda n, s: (scale * n).tanh(), x, sigma, noise, LevelLaw())

    scale = torch.tensor([0.7], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(loss_of, (scale,))
