"""Preconditionings against closed forms, and the denoiser they make."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from geo3d.distill.levels import LevelDistribution
from geo3d.distill.preconditioning import (
    EDM,
    IDDPM,
    VE,
    Preconditioning,
    denoise,
    denoising_loss,
)


def perfect_network(preconditioning: Preconditioning, clean: Tensor, sigma: Tensor):
    """Return the F whose D is ``clean``, whatever the input."""
    c = preconditioning.coefficients(sigma)

    def network(scaled: Tensor, c_noise: Tensor) -> Tensor:
        x = scaled / c.c_in[:, None]
        return (clean - c.c_skip[:, None] * x) / c.c_out[:, None]

    return network


@pytest.mark.parametrize("preconditioning", [EDM(0.3), IDDPM(), VE()])
def test_denoise_undoes_the_scaling(preconditioning: Preconditioning) -> None:
    generator = torch.Generator().manual_seed(0)
    clean = torch.randn(4, 7, generator=generator)
    sigma = torch.tensor([0.05, 0.3, 1.0, 9.0])
    x = clean + sigma[:, None] * torch.randn(4, 7, generator=generator)
    found = denoise(perfect_network(preconditioning, clean, sigma), preconditioning, x, sigma)
    torch.testing.assert_close(found, clean, rtol=1e-4, atol=1e-4)


def test_edm_by_hand() -> None:
    # sigma = sigma_data = 0.5: total variance 0.5
    c = EDM(0.5).coefficients(torch.tensor([0.5]))
    assert c.c_skip.item() == pytest.approx(0.5)
    assert c.c_out.item() == pytest.approx(0.25 / math.sqrt(0.5))
    assert c.c_in.item() == pytest.approx(1 / math.sqrt(0.5))
    assert c.c_noise.item() == pytest.approx(math.log(0.5) / 4)


def test_iddpm_and_ve_by_hand() -> None:
    iddpm = IDDPM(steps=20)
    level = iddpm.levels()[5:6]
    c = iddpm.coefficients(level)
    assert c.c_skip.item() == 1 and c.c_out.item() == -level.item()
    assert c.c_in.item() == pytest.approx((level.item() ** 2 + 1) ** -0.5)
    assert c.c_noise.item() == 20 - 1 - 5
    c = VE().coefficients(torch.tensor([3.0]))
    assert [float(x) for x in c] == pytest.approx([1.0, 3.0, 1.0, math.log(1.5)])


def test_published_sizes_of_preconditionings() -> None:
    assert EDM() == EDM(0.18) and IDDPM() == IDDPM(1000, 0.001, 0.008)
    # the noisiest of 1000 levels lies where the ratios are cut at 0.001
    assert len(IDDPM().levels()) == 1001
    levels = IDDPM().levels().double()
    assert ((levels[0] ** 2 + 1) / (levels[1] ** 2 + 1)).item() == pytest.approx(1000, rel=1e-4)


def test_edm_target_has_unit_variance() -> None:
    # With data of that root mean square, F must predict unit variance at every level.
    generator = torch.Generator().manual_seed(1)
    clean = 0.2 * torch.randn(1, 200_000, generator=generator)
    for level in (0.02, 0.2, 2.0):
        sigma = torch.tensor([level])
        c = EDM(0.2).coefficients(sigma)
        x = clean + level * torch.randn(clean.shape, generator=generator)
        assert (c.c_in * x).std().item() == pytest.approx(1, rel=0.02)
        assert ((clean - c.c_skip * x) / c.c_out).std().item() == pytest.approx(1, rel=0.02)


def test_iddpm_levels_fall_and_meet_their_recursion() -> None:
    levels = IDDPM(steps=50).levels().double()
    assert levels[-1] == 0
    assert (levels[1:] < levels[:-1]).all()
    # independent of the recursion: abar_j = 1 / (1 + u_j^2) in the untruncated middle
    angles = [math.pi * j / (2 * 50 * 1.008) for j in (30, 31)]
    expected = math.sin(angles[0]) ** 2 / math.sin(angles[1]) ** 2
    found = (levels[31] ** 2 + 1) / (levels[30] ** 2 + 1)
    assert found.item() == pytest.approx(expected, rel=1e-4)


def test_iddpm_tells_the_nearest_level_counted_from_the_noisiest() -> None:
    iddpm = IDDPM(steps=20)
    levels = iddpm.levels()
    assert iddpm.nearest_level(levels).tolist() == list(range(21))
    c = iddpm.coefficients(torch.stack([levels[0], levels[19], torch.tensor(0.0)]))
    assert c.c_noise.tolist() == [19.0, 0.0, -1.0]
    assert c.c_out[2] == 0


def test_items_do_not_mix() -> None:
    x, sigma = torch.randn(3, 1, 4, 4), torch.tensor([0.1, 1.0, 3.0])

    def network(scaled: Tensor, c_noise: Tensor) -> Tensor:
        return scaled.tanh() + c_noise.reshape(-1, 1, 1, 1)

    together = denoise(network, EDM(), x, sigma)
    for i in range(3):
        alone = denoise(network, EDM(), x[i : i + 1], sigma[i : i + 1])
        torch.testing.assert_close(alone[0], together[i])


def test_loss_of_a_denoiser_that_does_nothing_is_weighted_noise() -> None:
    x, noise = torch.randn(3, 5), torch.randn(3, 5)
    sigma = torch.tensor([0.1, 1.0, 4.0])
    loss = denoising_loss(lambda x, level: x, x, sigma, noise, LevelDistribution("vp"))
    torch.testing.assert_close(loss, noise.square(), rtol=1e-4, atol=1e-5)


def test_loss_has_the_right_gradient() -> None:
    x = torch.randn(2, 3, dtype=torch.float64)
    noise = torch.randn(2, 3, dtype=torch.float64)
    sigma = torch.tensor([0.3, 2.0], dtype=torch.float64)

    def loss_of(scale: Tensor) -> Tensor:
        return denoising_loss(lambda n, s: (scale * n).tanh(), x, sigma, noise, LevelDistribution())

    scale = torch.tensor([0.7], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(loss_of, (scale,))
