"""The distance between sets of features."""

from __future__ import annotations

import numpy as np
import pytest

from apps.bench.objects_table import kernel_distance
from geo3d.errors import InputError


def test_by_hand() -> None:
    x, y = np.array([[0.0], [1.0]]), np.array([[1.0], [2.0]])
    # kernel (a b + 1)^3: within x 1, within y 27, between 1, 1, 8, 27
    assert kernel_distance(x, y) == pytest.approx(1 + 27 - 2 * (1 + 1 + 8 + 27) / 4)


def test_one_law_is_at_no_distance_and_another_is_far() -> None:
    rng = np.random.default_rng(0)
    found = [kernel_distance(*rng.normal(size=(2, 20, 4))) for _ in range(400)]
    error = np.std(found) / np.sqrt(len(found))
    assert abs(np.mean(found)) < 4 * error
    shifted = kernel_distance(rng.normal(size=(20, 4)), rng.normal(size=(20, 4)) + 2)
    assert shifted > max(found)


def test_it_is_symmetric_and_needs_two_samples() -> None:
    x, y = np.random.default_rng(1).random((2, 5, 3))
    assert kernel_distance(x, y) == pytest.approx(kernel_distance(y, x))
    with pytest.raises(InputError) as caught:
        kernel_distance(x[:1], y)
    assert caught.value.code == "set_distance.too_few"
