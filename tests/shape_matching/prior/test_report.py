"""The evaluation of a prior against cases with known answers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from prior_helpers import random_prior
from torch import Tensor

from shape_matching.prior.report import (
    LEVELS,
    denoising_errors,
    entrywise_gaussian,
    evaluate_prior,
    nearest_maps,
    sample_maps,
)
from shape_matching.prior.splits import MapSplit


def test_error_of_doing_nothing_is_the_variance_of_the_noise() -> None:
    errors = denoising_errors(lambda x, sigma: x, torch.rand(200, 1, 8, 8), (0.1, 2.0))
    assert errors[0.1] == pytest.approx(0.01, rel=0.05)
    assert errors[2.0] == pytest.approx(4.0, rel=0.05)


def test_the_yardstick_is_optimal_for_gaussian_entries() -> None:
    generator = torch.Generator().manual_seed(0)
    mean, std = torch.rand(1, 4, 4, generator=generator), 0.1 + torch.rand(1, 4, 4)
    maps = mean + std * torch.randn(20_000, 1, 4, 4, generator=generator)
    found = denoising_errors(entrywise_gaussian(maps), maps, (0.5,))[0.5]
    # The posterior variance of each entry.
    expected = (std**2 * 0.25 / (std**2 + 0.25)).mean().item()
    assert found == pytest.approx(expected, rel=0.02)


def test_items_have_their_own_level() -> None:
    denoise = entrywise_gaussian(torch.rand(50, 1, 4, 4))
    x = torch.rand(2, 1, 4, 4)
    together = denoise(x, torch.tensor([0.1, 2.0]))
    torch.testing.assert_close(together[1:], denoise(x[1:], torch.tensor([2.0])))


def test_nearest_maps_against_brute_force() -> None:
    maps, among = torch.rand(5, 1, 3, 3), torch.rand(40, 1, 3, 3)
    distance, index = nearest_maps(maps, among)
    table = (maps[:, None] - among[None]).square().sum((2, 3, 4)).sqrt()
    assert torch.equal(index, table.argmin(dim=1))
    torch.testing.assert_close(distance, table.min(dim=1).values, rtol=1e-4, atol=1e-5)


def test_a_sample_depends_on_its_number_not_on_how_many() -> None:
    prior = random_prior()
    torch.testing.assert_close(
        sample_maps(prior, 3, seed=1)[:2], sample_maps(prior, 2, seed=1), rtol=1e-4, atol=1e-5
    )
    assert not torch.allclose(sample_maps(prior, 1, seed=1), sample_maps(prior, 1, seed=2))


def test_the_report_sees_memory_and_draws(tmp_path: Path) -> None:
    train = torch.rand(30, 1, 8, 8)
    prior = random_prior()
    numbers = evaluate_prior(prior, MapSplit(train, train[:7]), tmp_path, n_samples=3)
    assert set(numbers["errors"]["prior"]) == {f"{level:g}" for level in LEVELS}
    assert numbers["held_out_to_nearest_training_map"] == pytest.approx(0, abs=1e-2)
    assert numbers["held_out_maps"] == 7
    assert not numbers["is_held_out"]
    for name in ("levels.png", "samples.png"):
        with Image.open(tmp_path / name) as image:
            assert min(image.size) > 100


def test_errors_use_the_same_noise_for_all() -> None:
    seen: list[Tensor] = []

    def spy(x: Tensor, sigma: Tensor) -> Tensor:
        seen.append(x / sigma[0])
        return x

    denoising_errors(spy, torch.zeros(2, 1, 3, 3), (0.5, 2.0))
    denoising_errors(spy, torch.zeros(2, 1, 3, 3), (0.5,))
    torch.testing.assert_close(seen[0], seen[1])
    torch.testing.assert_close(seen[0], seen[2])
