"""Metrics: hand-worked pairs, brute force, symmetry, the rules of empty masks, errors."""

from __future__ import annotations

import math

import numpy as np
import pytest

from geo3d.errors import ConfigError, InputError, ShapeError
from geo3d.topology.betti import betti_numbers
from geo3d.topology.grids import surface
from geo3d.topology.metrics import (
    MISSING,
    betti_errors,
    centreline_parts,
    check_definition,
    cl_dice,
    dice,
    euler_error,
    hausdorff_95,
    local_betti_errors,
    surface_dice,
)

EMPTY = np.zeros((4, 5), dtype=bool)


def random_mask(seed: int, shape: tuple[int, ...] = (20, 30)) -> np.ndarray:
    return np.random.default_rng(seed).random(shape) < 0.4


def dots(*columns: int) -> np.ndarray:
    mask = np.zeros((1, 41), dtype=bool)
    mask[0, list(columns)] = True
    return mask


def test_dice_by_hand() -> None:
    assert dice(dots(0, 2, 4), dots(2)) == pytest.approx(0.5)
    assert dice(random_mask(0), random_mask(0)) == 1


def test_the_two_definitions_of_hd95_by_hand() -> None:
    one, two = dots(0, 10), dots(0)
    # There: 0 and 10; back: 0.  Pooled 0, 0, 10.
    assert hausdorff_95(one, two) == pytest.approx(9)
    assert hausdorff_95(one, two, "monai") == pytest.approx(9.5)


@pytest.mark.parametrize("shape", [(20, 30), (6, 7, 8)])
def test_hd95_from_all_pairs(shape: tuple[int, ...]) -> None:
    one, two = random_mask(1, shape), random_mask(2, shape)
    a, b = np.argwhere(surface(one)), np.argwhere(surface(two))
    distances = np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1))
    there, back = distances.min(1), distances.min(0)
    pooled = np.percentile(np.concatenate([there, back]), 95)
    larger = max(np.percentile(there, 95), np.percentile(back, 95))
    assert hausdorff_95(one, two) == pytest.approx(pooled)
    assert hausdorff_95(one, two, "monai") == pytest.approx(larger)


def test_betti_errors_by_hand() -> None:
    ring = np.ones((3, 3), dtype=bool)
    ring[1, 1] = False
    one = np.zeros((4, 8), dtype=bool)
    two = one.copy()
    one[:3, :3], two[:3, :3] = ring, True
    two[0, 6] = True
    assert betti_errors(one, two) == (1, 1)
    assert local_betti_errors(one, two, 4) == (0.5, 0.5)
    assert local_betti_errors(one, two, 5) == (0.5, 0.5)
    assert local_betti_errors(one, two, 100) == (1, 1)
    volume = np.pad(np.ones((1, 3, 3), dtype=bool), 1)
    pierced = volume.copy()
    pierced[1, 2, 2] = False
    assert betti_errors(volume, pierced) == (0, 1, 0)


def test_cl_dice_by_hand() -> None:
    line = np.zeros((9, 20), dtype=bool)
    line[4] = True
    half = line.copy()
    half[:, 10:] = False
    # All of the half line lies in the line; half of the line lies in the half line.
    assert cl_dice(half, line) == pytest.approx(2 * 0.5 / 1.5)
    assert cl_dice(line, line) == 1
    assert cl_dice(line, np.roll(line, 3, axis=0)) == 0


def test_metrics_are_symmetric_and_follow_mirroring() -> None:
    one, two = random_mask(3), random_mask(4)
    for metric in (dice, hausdorff_95, betti_errors, cl_dice):
        assert metric(one, two) == pytest.approx(metric(two, one))
    for metric in (dice, hausdorff_95, betti_errors):
        assert metric(one, two) == pytest.approx(metric(one[:, ::-1], two[:, ::-1]))


def test_both_masks_empty() -> None:
    assert (dice(EMPTY, EMPTY), hausdorff_95(EMPTY, EMPTY), cl_dice(EMPTY, EMPTY)) == (1, 0, 1)
    assert betti_errors(EMPTY, EMPTY) == (0, 0)


def test_one_mask_empty() -> None:
    for one, two in ((EMPTY, ~EMPTY), (~EMPTY, EMPTY)):
        assert (dice(one, two), cl_dice(one, two)) == (0, 0)
        assert hausdorff_95(one, two) == hausdorff_95(one, two, "monai") == 5
        assert betti_errors(one, two) == (1, 0)
    some = EMPTY.copy()
    some.flat[0] = True
    assert hausdorff_95(some, EMPTY) == hausdorff_95(EMPTY, some) == 5


def test_the_published_rules_of_empty_masks() -> None:
    assert hausdorff_95(EMPTY, ~EMPTY, compat=True) == MISSING
    assert betti_errors(EMPTY, ~EMPTY, compat=True) == (0, 0)
    assert local_betti_errors(EMPTY, ~EMPTY, 2, compat=True) == (0, 0)
    assert math.isnan(cl_dice(EMPTY, ~EMPTY, compat=True))
    with pytest.raises(InputError, match="empty_truth"):
        hausdorff_95(~EMPTY, EMPTY, compat=True)


def test_errors() -> None:
    with pytest.raises(ShapeError, match="unequal_shapes"):
        dice(EMPTY, EMPTY.T)
    with pytest.raises(ShapeError, match="not_a_mask"):
        cl_dice(EMPTY, np.full((4, 5), 255))
    with pytest.raises(ShapeError, match="bad_dimensions"):
        betti_errors(EMPTY[0], EMPTY[0])
    with pytest.raises(ConfigError, match="bad_tile"):
        local_betti_errors(EMPTY, EMPTY, 0)


def test_unknown_definition() -> None:
    with pytest.raises(ConfigError, match="unknown_definition"):
        check_definition("mine")


def test_the_parts_of_cl_dice_tell_gaps_from_false_lines() -> None:
    true = np.zeros((20, 40), dtype=bool)
    true[10, 5:35] = True
    gap = true.copy()
    gap[10, 15:25] = False
    false = true.copy()
    false[3, 5:20] = True
    assert centreline_parts(gap, true) == pytest.approx((1, 2 / 3))
    assert centreline_parts(false, true) == pytest.approx((2 / 3, 1))
    precision, sensitivity = centreline_parts(false, gap)
    assert cl_dice(false, gap) == pytest.approx(
        2 * precision * sensitivity / (precision + sensitivity)
    )


def test_the_parts_of_cl_dice_of_empty_masks() -> None:
    assert centreline_parts(EMPTY, EMPTY) == (1, 1)
    assert centreline_parts(EMPTY, ~EMPTY) == (1, 0)
    assert centreline_parts(~EMPTY, EMPTY) == (0, 1)


def test_the_euler_error_by_hand() -> None:
    ring = np.ones((3, 3), dtype=bool)
    ring[1, 1] = False
    assert euler_error(ring, np.ones((3, 3), dtype=bool)) == 1
    two = np.zeros((5, 9), dtype=bool)
    two[1:4, 1:4], two[1:4, 5:8] = ring, True
    # A component and a hole too many cancel: what this metric cannot see.
    assert euler_error(two, np.pad(np.ones((3, 3), dtype=bool), ((1, 1), (1, 5)))) == 0


def test_the_surface_dice_by_hand() -> None:
    one, two = dots(0, 10), dots(0)
    assert surface_dice(one, two, 1) == pytest.approx(2 / 3)
    assert surface_dice(one, two, 10) == 1
    assert surface_dice(one, two, 10, spacing=(1, 2)) == pytest.approx(2 / 3)
    assert surface_dice(EMPTY, EMPTY) == 1
    assert surface_dice(EMPTY, ~EMPTY) == 0


@pytest.mark.parametrize("shape", [(20, 30), (6, 7, 8)])
def test_the_surface_dice_from_all_pairs(shape: tuple[int, ...]) -> None:
    one, two = random_mask(1, shape) & random_mask(3, shape), random_mask(2, shape)
    a, b = np.argwhere(surface(one)), np.argwhere(surface(two))
    distances = np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1))
    near = (distances.min(1) <= 1).sum() + (distances.min(0) <= 1).sum()
    assert surface_dice(one, two, 1) == pytest.approx(near / (len(a) + len(b)))


def test_distances_that_are_refused() -> None:
    with pytest.raises(ConfigError, match="tolerance"):
        surface_dice(EMPTY, EMPTY, -1)
    with pytest.raises(ConfigError, match="axes"):
        surface_dice(EMPTY, EMPTY, 1, spacing=(1,))


def test_a_mask_with_a_channel_is_no_volume() -> None:
    image = np.ones((1, 5, 6), dtype=bool)
    for function in (betti_errors, dice, cl_dice):
        with pytest.raises(ShapeError) as caught:
            function(image, image)
        assert caught.value.code == "topology.flat"
    with pytest.raises(ShapeError):
        betti_numbers(image)
    # Tiles of a volume may be one voxel thick.
    volume = np.ones((3, 5, 6), dtype=bool)
    assert local_betti_errors(volume, volume, tile=2) == (0, 0, 0)
