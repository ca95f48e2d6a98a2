"""Drawn brick walls."""

from __future__ import annotations

import numpy as np
import pytest

from geo3d.errors import ConfigError
from geo3d.synth.walls import GROUPS, STYLES, brick_wall, smooth_noise
from geo3d.topology.betti import betti_numbers


@pytest.mark.parametrize("group", GROUPS)
def test_every_group_draws_a_wall_of_many_bricks(group: str) -> None:
    wall = brick_wall(3, 160, 192, group=group)
    assert wall.image.shape == (160, 192, 3) and wall.mask.shape == (160, 192)
    assert 0.1 < wall.mask.mean() < 0.6
    # Bricks that do not reach the border are holes of the mortar.
    components, holes = betti_numbers(wall.mask)
    assert components <= 5 and holes >= 2
    assert wall.image.std() > 5


@pytest.mark.parametrize("style", STYLES)
def test_mortar_differs_from_bricks(style: str) -> None:
    contrasts = []
    for seed in range(6):
        wall = brick_wall(seed, 96, 96, style=style)
        assert wall.style == style
        colours = wall.image.astype(float)
        apart = colours[wall.mask].mean(axis=0) - colours[~wall.mask].mean(axis=0)
        contrasts.append(np.abs(apart).max())
    assert np.median(contrasts) > 15


def test_the_seed_decides_everything() -> None:
    first, again, other = brick_wall(5, 48, 64), brick_wall(5, 48, 64), brick_wall(6, 48, 64)
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.mask, again.mask)
    assert (first.mask != other.mask).any()


def test_what_stands_in_front_leaves_the_mask_alone() -> None:
    wall = brick_wall(2, 128, 128, style="running", group="occlusion")
    rows = wall.mask.mean(axis=1)
    # Joints run through from side to side, whatever hangs before them.
    assert rows.max() > 0.8


def test_smooth_noise_is_smooth_and_bounded() -> None:
    noise = smooth_noise(np.random.default_rng(0), 100, 120, 4)
    assert noise.shape == (100, 120)
    assert np.abs(noise).max() < 1.5
    assert np.abs(np.diff(noise, axis=0)).max() < 0.15 < noise.std()


def test_errors() -> None:
    for given in ({"style": "wood"}, {"group": "rain"}):
        with pytest.raises(ConfigError, match=r"bricks\.unknown"):
            brick_wall(0, **given)
    with pytest.raises(ConfigError, match=r"bricks\.too_small"):
        brick_wall(0, 15, 100)
