"""Distance maps: hand-worked rows, brute force, masks that are full or empty, errors."""

from __future__ import annotations

import numpy as np
import pytest

from geo3d.errors import ShapeError
from geo3d.topology.grids import distance_map, region_wise_map, surface, surface_distances


def random_mask(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(shape) < 0.7


def test_a_row_by_hand() -> None:
    row = np.array([[0, 1, 1, 1, 0]])
    assert distance_map(row).tolist() == [[0, 1, 2, 1, 0]]
    assert region_wise_map(row).tolist() == [[1, -0.5, -1, -0.5, 1]]


@pytest.mark.parametrize("shape", [(7, 9), (4, 5, 6)])
def test_every_pair_gives_the_same(shape: tuple[int, ...]) -> None:
    mask = random_mask(shape)
    outside = np.argwhere(~mask)
    for index in np.ndindex(*shape):
        expected = np.sqrt(((outside - index) ** 2).sum(axis=1).min())
        assert distance_map(mask)[index] == pytest.approx(expected)


def test_full_and_empty_masks() -> None:
    full = np.ones((3, 4), dtype=bool)
    assert np.isinf(distance_map(full)).all() and not distance_map(~full).any()
    assert (region_wise_map(full) == -1).all() and (region_wise_map(~full) == 1).all()


def test_turning_turns_the_maps() -> None:
    mask = random_mask((8, 11), 1)
    assert np.array_equal(region_wise_map(mask[::-1].T), region_wise_map(mask)[::-1].T)


def test_surfaces() -> None:
    block = np.ones((4, 4), dtype=bool)
    assert surface(block).sum() == 12 and not surface(block)[1:3, 1:3].any()
    one, two = np.zeros((1, 9), dtype=bool), np.zeros((1, 9), dtype=bool)
    one[0, [0, 4]], two[0, 6] = True, True
    assert surface_distances(one, two).tolist() == [6, 2]
    assert surface_distances(two, one).tolist() == [2]


def test_errors() -> None:
    with pytest.raises(ShapeError, match="bad_dimensions"):
        distance_map(np.ones(3, dtype=bool))
    with pytest.raises(ShapeError, match="not_a_mask"):
        region_wise_map(np.full((2, 2), 0.5))
