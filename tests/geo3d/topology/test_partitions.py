"""Partitions: pairs of pixels counted one by one, entropies by hand, rules of what counts."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from skimage.metrics import adapted_rand_error, variation_of_information

from geo3d.errors import ConfigError, ShapeError
from geo3d.topology.partitions import check_side, labels_metrics, partition_metrics


def pairs_together(labels: np.ndarray) -> np.ndarray:
    return np.array([a == b for a, b in combinations(labels.ravel(), 2)])


@pytest.mark.parametrize("seed", range(5))
def test_rand_indices_from_all_pairs(seed: int) -> None:
    generator = np.random.default_rng(seed)
    true, predicted = generator.integers(1, 4, (2, 5, 6))
    t, p = pairs_together(true), pairs_together(predicted)
    chance = t.sum() * p.sum() / t.size
    expected = ((t & p).sum() - chance) / ((t.sum() + p.sum()) / 2 - chance)
    found = labels_metrics(predicted, true)
    assert found.adjusted_rand_index == pytest.approx(expected)


@pytest.mark.parametrize("shape", [(12, 15), (4, 5, 6)])
def test_the_same_as_scikit_image_on_what_counts(shape: tuple[int, ...]) -> None:
    true, predicted = np.random.default_rng(3).integers(0, 5, (2, *shape))
    found = labels_metrics(predicted, true)
    known = true > 0
    split, merged = variation_of_information(true[known], predicted[known])
    assert (found.split, found.merged) == pytest.approx((split, merged))
    assert found.adapted_rand_error == pytest.approx(
        adapted_rand_error(true[known], predicted[known] + 1)[0]
    )


def test_two_bricks_joined_by_a_gap_in_the_mortar() -> None:
    true = np.zeros((8, 9), dtype=bool)
    true[:, 4] = True
    broken = true.copy()
    broken[3, 4] = False
    found = partition_metrics(broken, true)
    # Two regions of equal size became one: one bit is lost, half of the pairs are wrong.
    assert (found.split, found.merged) == pytest.approx((0, 1))
    assert found.variation_of_information == pytest.approx(1)
    assert found.adjusted_rand_index == pytest.approx(0)
    # 64 pixels in two halves; the prediction's region has the joining pixel outside of the truth's.
    halves, whole = 2 * (32 * 31 / 2), 64 * 63 / 2
    assert found.adapted_rand_error == pytest.approx(1 - 2 * halves / (halves + whole))
    back = partition_metrics(true, broken)
    assert back.merged == pytest.approx(0)
    assert back.split > 0.9


def test_how_thick_a_boundary_is_counts_little() -> None:
    true = np.zeros((20, 41), dtype=bool)
    true[:, 20] = True
    thick = true.copy()
    thick[:, 19:22] = True
    # What the thicker boundary took away is one more region of 40 of 800 pixels.
    assert 0.9 < partition_metrics(thick, true).adjusted_rand_index < 1


def test_sides_connectivity_and_empty_truths() -> None:
    diagonal = np.eye(4, dtype=bool)
    one = partition_metrics(diagonal, diagonal, "foreground", "vertices")
    assert one.adjusted_rand_index == 1
    cells = partition_metrics(diagonal, np.ones((4, 4), dtype=bool), "foreground", "cells")
    assert cells.merged == pytest.approx(0)
    assert cells.split > 0
    empty = np.zeros((3, 3), dtype=bool)
    nothing = partition_metrics(~empty, empty, "foreground")
    assert (nothing.adjusted_rand_index, nothing.variation_of_information) == (1, 0)


def test_what_is_refused() -> None:
    mask = np.zeros((3, 3), dtype=bool)
    with pytest.raises(ConfigError, match="sideways"):
        check_side("sideways")
    with pytest.raises(ShapeError) as error:
        partition_metrics(mask, mask[:2])
    assert error.value.code == "topology.unequal_shapes"
