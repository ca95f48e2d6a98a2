"""Sorted stacks: the order of pixels, and their places in it."""

from __future__ import annotations

import numpy as np

from geo3d.topology.merging import stack


def test_pixels_are_sorted_by_value_and_then_by_index() -> None:
    rng = np.random.default_rng(0)
    ties = np.round(rng.normal(size=(3, 4, 25)), 1)
    wide = rng.normal(size=(3, 4, 25)) * 10.0 ** rng.integers(-30, 30, (3, 4, 25))
    signs = rng.choice([-np.inf, -1.0, -0.0, 0.0, 1e-40, 1.0, np.inf], (3, 4, 25))
    for values in (ties, wide, signs, np.zeros((3, 4, 25))):
        for kind in (np.float32, np.float64):
            flat = values.astype(kind).reshape(3, -1)
            expected = np.argsort(flat, axis=1, kind="stable") + 100 * np.arange(3)[:, None]
            np.testing.assert_array_equal(
                stack(values.astype(kind)).ascending, expected.reshape(-1)
            )


def test_ranks_are_places_in_the_order_and_minus_one_beyond() -> None:
    values = np.array([[[3.0, 1.0], [2.0, 9.0]]], np.float32)
    present = np.array([[[True, True], [True, False]]])
    rank = stack(values, present).rank.reshape(4, 4)
    np.testing.assert_array_equal(rank[1:3, 1:3], [[2, 0], [1, -1]])
    assert (rank == -1).sum() == 13
