"""APLS: straight roads by hand, gaps, false roads, scale, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest

from geo3d.errors import ConfigError, ShapeError
from geo3d.topology.roads import average_path_length_similarity, road_graph


def road(length: int = 41, row: int = 10, size: tuple[int, int] = (21, 61)) -> np.ndarray:
    mask = np.zeros(size, dtype=bool)
    mask[row, 10 : 10 + length] = True
    return mask


def test_control_points_and_lengths_of_a_straight_road() -> None:
    graph = road_graph(road(41), 15)
    columns = sorted(graph.at[graph.controls][:, 1])
    assert columns == [10, 26, 50]
    assert graph.edges.nnz == 2 * 40
    assert graph.edges.sum() == 80


def test_a_crossing_is_one_control_point() -> None:
    mask = road()
    mask[2:19, 30] = True
    graph = road_graph(mask, 1000)
    assert len(graph.controls) == 4 + 1


def test_equal_and_shifted_roads() -> None:
    assert average_path_length_similarity(road(), road()) == 1
    assert average_path_length_similarity(road(row=12), road(row=10)) == 1
    assert average_path_length_similarity(road(row=18), road(row=10)) == 0


def test_a_gap_cuts_all_paths_across_it() -> None:
    broken = road()
    broken[10, 30] = False
    # From the truth: ends and middle (column 26 at a step of 15); only the pair left of the gap is
    # joined, 1 of 3.  From the prediction: both halves with their own points are right.
    there = 1 / 3
    assert average_path_length_similarity(broken, road(), step=15) == pytest.approx(
        2 * there / (1 + there)
    )


def test_a_detour_counts_by_its_length() -> None:
    detour = road()
    detour[10, 20:41] = False
    for column in range(20, 31):
        detour[10 - (column - 19) if column < 30 else 0, column] = True
    straight = average_path_length_similarity(detour, road(), step=1000)
    assert 0 <= straight < 1


def test_a_false_road_is_punished_from_the_prediction() -> None:
    false = road() | road(row=18)
    score = average_path_length_similarity(false, road(), step=1000)
    # One of two roads of the prediction is in the truth, and all of the truth's.
    assert score == pytest.approx(2 * 0.5 / 1.5)


def test_spacing_is_the_unit_of_the_distances() -> None:
    assert average_path_length_similarity(road(row=12), road(), spacing=(3, 3)) == 0
    assert average_path_length_similarity(road(row=12), road(), snap=6, spacing=(3, 3)) == 1
    graph = road_graph(np.eye(5, dtype=bool), 100, (2, 1))
    assert graph.edges.max() == pytest.approx(math.sqrt(5))


def test_masks_without_roads_and_single_pixels() -> None:
    empty = np.zeros((9, 9), dtype=bool)
    dot = empty.copy()
    dot[4, 4] = True
    assert average_path_length_similarity(empty, empty) == 1
    assert average_path_length_similarity(empty, dot) == 0
    assert average_path_length_similarity(dot, dot) == 1


def test_a_volume() -> None:
    line = np.zeros((5, 5, 30), dtype=bool)
    line[2, 2, 2:28] = True
    cut = line.copy()
    cut[2, 2, 14:17] = False
    assert average_path_length_similarity(line, line) == 1
    assert average_path_length_similarity(cut, line, step=10) < 1


def test_what_is_refused() -> None:
    with pytest.raises(ShapeError):
        average_path_length_similarity(road(), road()[:5])
    with pytest.raises(ConfigError, match="snap"):
        average_path_length_similarity(road(), road(), snap=-1)
    with pytest.raises(ConfigError, match="axes"):
        average_path_length_similarity(road(), road(), spacing=(1, 1, 1))
