"""RandHue against Python's colour conversion and its published rule."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
import torch

from geo3d.segmentation.hue import random_hue, set_hue


def picture(seed: int = 0) -> torch.Tensor:
    values = torch.rand((3, 5, 7), generator=torch.Generator().manual_seed(seed))
    # Some pixel is black and some white, so that scaling to [0, 1] changes nothing.
    values[:, 0, 0], values[:, 0, 1] = 0, 1
    return values


@pytest.mark.parametrize("hue", [0.0, 0.1, 0.2, 1 / 3, 0.4, 0.6, 0.8, 0.999])
def test_agrees_with_colorsys(hue: float) -> None:
    image = picture()
    found = set_hue(image, hue, 0.1, -0.2)
    for y in range(5):
        for x in range(7):
            _, s, v = colorsys.rgb_to_hsv(*image[:, y, x].tolist())
            s, v = min(max(s + 0.1, 0), 1), min(max(v - 0.2, 0), 1)
            wanted = colorsys.hsv_to_rgb(hue, s, v)
            np.testing.assert_allclose(found[:, y, x].numpy(), wanted, atol=2e-6)


def test_the_scale_does_not_matter() -> None:
    image = picture()
    moved = set_hue(image * 40 - 7, 0.3, 0.1, 0.1)
    torch.testing.assert_close(moved, set_hue(image, 0.3, 0.1, 0.1) * 40 - 7, atol=1e-4, rtol=0)


def test_setting_the_hue_twice_is_setting_it_once() -> None:
    once = set_hue(picture(), 0.7)
    torch.testing.assert_close(set_hue(once, 0.7), once, atol=1e-5, rtol=0)


def test_grey_stays_grey_where_saturation_is_not_moved() -> None:
    grey = torch.linspace(0, 1, 12).reshape(1, 3, 4).expand(3, 3, 4)
    torch.testing.assert_close(set_hue(grey, 0.4), grey.contiguous())


def test_a_picture_of_one_value_stays_or_is_nan_as_published() -> None:
    flat = torch.full((3, 2, 2), 5.0)
    torch.testing.assert_close(random_hue(flat, torch.Generator()), flat)
    assert random_hue(flat, torch.Generator(), compat=True).isnan().all()


def test_published_changes_only_grow_and_ours_go_both_ways() -> None:
    image = picture()
    mean = image.amax(dim=0).mean()

    def change(seed: int, compat: bool) -> float:
        generator = torch.Generator().manual_seed(seed)
        return float(random_hue(image, generator, compat=compat).amax(dim=0).mean() - mean)

    assert min(change(seed, True) for seed in range(12)) >= 0
    ours = [change(seed, False) for seed in range(12)]
    assert min(ours) < 0 < max(ours)


def test_only_the_given_generator_is_used() -> None:
    before = torch.random.get_rng_state()
    first = random_hue(picture(), torch.Generator().manual_seed(1))
    assert torch.equal(before, torch.random.get_rng_state())
    torch.testing.assert_close(first, random_hue(picture(), torch.Generator().manual_seed(1)))
