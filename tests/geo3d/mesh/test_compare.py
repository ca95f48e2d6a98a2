"""Distances between shapes, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from geo3d.errors import InputError
from geo3d.mesh.compare import cell_overlap, compare_points, largest_piece, spread


def test_points_by_hand() -> None:
    made = np.array([[0.0, 0, 0], [4, 0, 0]])
    true = np.array([[0.0, 0, 0], [0, 3, 0], [1, 0, 0]])
    found = compare_points(made, true, 1.0)
    # made to true: 0 and 3; true to made: 0, 3 and 1
    assert found.chamfer == pytest.approx((1.5 + 4 / 3) / 2)
    assert found.precision == 0.5 and found.recall == pytest.approx(2 / 3)
    assert found.f_score == pytest.approx(2 * 0.5 * (2 / 3) / (0.5 + 2 / 3))


def test_far_points_score_nothing_and_equal_ones_everything() -> None:
    points = np.random.default_rng(0).random((40, 3))
    same = compare_points(points, points, 0.0)
    assert (same.chamfer, same.f_score) == (0.0, 1.0)
    assert compare_points(points, points + 10, 0.1).f_score == 0.0
    with pytest.raises(InputError, match="no points") as caught:
        compare_points(points[:0], points, 0.1)
    assert caught.value.code == "compare.no_points"


def test_points_do_not_depend_on_order_and_swap_precision_with_recall() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.random((30, 3)), rng.random((50, 3))
    one, other = compare_points(a, b, 0.2), compare_points(b[::-1], a[::-1], 0.2)
    assert one.chamfer == pytest.approx(other.chamfer)
    assert (one.precision, one.recall) == (other.recall, other.precision)


def test_cells_by_hand() -> None:
    a, b = np.zeros((2, 4, 4, 4), bool)
    assert cell_overlap(a, b) == 1.0 and largest_piece(a) == 0.0
    a[0, 0, 0] = a[1, 1, 1] = a[3, 3, 3] = True
    b[0, 0, 0] = b[0, 0, 1] = True
    assert cell_overlap(a, b) == 1 / 4
    # (0, 0, 0) and (1, 1, 1) share a corner
    assert largest_piece(a) == pytest.approx(2 / 3)


def test_spread_is_the_mean_over_pairs() -> None:
    clouds = [np.full((1, 3), value) for value in (0.0, 1.0, 3.0)]
    assert spread(clouds) == pytest.approx(np.sqrt(3) * (1 + 3 + 2) / 3)
    assert spread(clouds[:1]) == 0.0
