"""Masks from a prior: a Gaussian prior gives them in closed form."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import Tensor

from geo3d.errors import ShapeError
from shape_matching.prior.masks import posterior_mask, shrinkage_mask, static_mask

SIZE = 6


def gaussian(scale: Tensor):
    """Return the denoiser of independent entries N(0, scale^2)."""

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        variance = scale**2
        return x * variance / (variance + sigma[:, None, None] ** 2)

    return denoise


def draws(b: int, n: int, seed: int = 0) -> Tensor:
    return torch.randn(b, n, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


def fmaps(b: int = 2) -> Tensor:
    return torch.randn(b, SIZE, SIZE, generator=torch.Generator().manual_seed(9))


def scales() -> Tensor:
    return torch.linspace(0.05, 1.0, SIZE * SIZE).reshape(SIZE, SIZE)


def test_shrinkage_follows_the_prior_variance() -> None:
    sigma = 0.5
    found = shrinkage_mask(gaussian(scales()), fmaps(), draws(2, 8), sigma)
    # |X - D| / |X| is sigma^2 / (scale^2 + sigma^2) whatever X is
    expected = (sigma / 2 / (scales() ** 2 + sigma**2)).sqrt()
    torch.testing.assert_close(found, (expected - expected.min()).expand(2, -1, -1))


def test_shrinkage_without_absolute_values_probes_the_signed_map() -> None:
    seen = []

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        seen.append(x)
        return x / 2

    shrinkage_mask(denoise, fmaps(), draws(2, 3), 0.1, absolute=False)
    expected = fmaps()[:, None] + 0.1 * draws(2, 3)
    torch.testing.assert_close(seen[0], expected.flatten(0, 1))


def test_normalised_shrinkage_is_cut_around_the_median() -> None:
    found = shrinkage_mask(gaussian(scales()), fmaps(1), draws(1, 4), normalize=True)
    squared = 0.5 / (scales() ** 2 + 1)
    median = squared.flatten().median()
    expected = (squared - median / 2).clamp(min=0).clamp(max=float(2 * median)).sqrt()
    torch.testing.assert_close(found[0], expected - expected.min())


def test_both_directions_take_one_call() -> None:
    calls = []

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        calls.append(x.shape)
        return x

    shrinkage_mask(denoise, fmaps(2), draws(2, 5))
    posterior_mask(denoise, fmaps(2), draws(2, 5))
    assert calls == [(10, SIZE, SIZE)] * 2


def test_directions_do_not_mix() -> None:
    maps, noise = fmaps(2), draws(2, 5)
    together = posterior_mask(gaussian(scales()), maps, noise)
    alone = [posterior_mask(gaussian(scales()), maps[i : i + 1], noise[i : i + 1]) for i in (0, 1)]
    torch.testing.assert_close(together, torch.cat(alone))


def test_posterior_mask_ignores_signs_and_weighs_small_entries_most() -> None:
    maps = torch.zeros(1, SIZE, SIZE)
    maps[0, 2, 3] = -1.0
    found = posterior_mask(lambda x, sigma: x, maps, torch.zeros(1, 2, SIZE, SIZE))
    expected = torch.full((1, SIZE, SIZE), 1e4)
    expected[0, 2, 3] = 1 / (1 + 1e-4)
    torch.testing.assert_close(found, expected)
    flipped = posterior_mask(lambda x, sigma: x, -maps, torch.zeros(1, 2, SIZE, SIZE))
    torch.testing.assert_close(found, flipped)


def test_posterior_mask_averages_squares() -> None:
    noise = draws(1, 7)
    found = posterior_mask(lambda x, sigma: x, torch.zeros(1, SIZE, SIZE), noise, 2.0)
    torch.testing.assert_close(found, 1 / ((4 * noise**2).mean(1) + 1e-4))


def test_static_mask_inverts_mean_squares() -> None:
    moment = torch.tensor([[0.9999, 0.0]])
    torch.testing.assert_close(static_mask(moment), torch.tensor([[1.0, 1e4]]))


@pytest.mark.parametrize("make", [shrinkage_mask, posterior_mask])
def test_noise_of_another_shape_is_refused(make) -> None:
    unchecked = inspect.unwrap(make)
    with pytest.raises(ShapeError) as caught:
        unchecked(lambda x, sigma: x, fmaps(2), draws(1, 4))
    assert caught.value.code == "prior_masks.bad_noise"
