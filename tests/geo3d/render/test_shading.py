"""Colours by position, along a map and by error."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import bumpy_sphere, grid, permuted

from geo3d.errors import InputError
from geo3d.render.shading import UNKNOWN_COLOR, error_colors, position_colors, transfer_colors


def test_position_colors_run_along_each_axis() -> None:
    colors = position_colors(grid(3)).astype(int)
    assert colors[0].tolist() == [25, 25, 135]
    assert colors[8].tolist() == [245, 245, 135]
    assert colors[1, 0] == 135 and colors[1, 1] == 25


def test_colors_follow_the_map() -> None:
    source = bumpy_sphere(2)
    target, p2p_21 = permuted(source)
    np.testing.assert_array_equal(
        transfer_colors(position_colors(source), p2p_21), position_colors(target)
    )


def test_unmatched_vertices_are_grey() -> None:
    colors = np.array([[1, 2, 3], [4, 5, 6]], np.uint8)
    found = transfer_colors(colors, np.array([1, -1, 0]))
    np.testing.assert_array_equal(found, [[4, 5, 6], UNKNOWN_COLOR, [1, 2, 3]])


@pytest.mark.parametrize("bad", [2, -2])
def test_a_map_to_nowhere_is_refused(bad: int) -> None:
    with pytest.raises(InputError, match=r"colors\.index_out_of_range"):
        transfer_colors(np.zeros((2, 3), np.uint8), np.array([bad]))


def test_error_colors_darken_and_saturate() -> None:
    colors = error_colors(np.array([0.0, 0.25, 0.5, 1.0, 7.0, np.inf, np.nan]), 1.0)
    light = colors[:4].astype(float) @ [0.3, 0.6, 0.1]
    assert (np.diff(light) < -20).all()
    np.testing.assert_array_equal(colors[3], colors[4])
    np.testing.assert_array_equal(colors[5:], np.stack([UNKNOWN_COLOR, UNKNOWN_COLOR]))


def test_the_default_scale_ends_at_the_largest_error() -> None:
    errors = np.array([0.0, 0.1, 0.2])
    np.testing.assert_array_equal(error_colors(errors), error_colors(errors, 0.2))
    assert len(np.unique(error_colors(np.zeros(3)), axis=0)) == 1
    assert error_colors(np.full(2, np.inf)).shape == (2, 3)
