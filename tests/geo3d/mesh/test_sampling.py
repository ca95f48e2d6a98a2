"""Farthest-point and uniform sampling.

Distances between shapes, by hand.
"""

from __future__ import annotations

import numpy as np
import pytest
from helpers import bumpy_sphere, grid, icosphere, moved, rotation

from geo3d.errors import InputError, MeshError
from geo3d.mesh.mesh import Mesh
from geo3d.mesh.sampling import (
    cell_overlap,
    compare_points,
    farthest_point_samples,
    largest_piece,
    spread,
    uniform_samples,
)

NO_FACES = np.zeros((0, 3), np.int64)


def brute_force_fps(points: np.ndarray, n: int, start: int) -> list[int]:
    chosen = [start]
    while len(chosen) < n:
        gaps = [min(((p - points[c]) ** 2).sum() for c in chosen) for p in points]
        chosen.append(int(np.argmax([-1 if i in chosen else g for i, g in enumerate(gaps)])))
    return chosen


def test_corners_of_a_square_come_first() -> None:
    square = grid(5)
    assert sorted(farthest_point_samples(square, 4).tolist()) == [0, 4, 20, 24]


def test_it_equals_brute_force() -> None:
    shape = bumpy_sphere(1)
    found = farthest_point_samples(shape, 20, start=7)
    assert found.tolist() == brute_force_fps(shape.vertices, 20, 7)


def test_the_default_start_is_farthest_from_the_mean() -> None:
    shape = bumpy_sphere(2)
    far = np.linalg.norm(shape.vertices - shape.vertices.mean(axis=0), axis=1)
    assert farthest_point_samples(shape, 1)[0] == np.argmax(far)


def test_rigid_motion_changes_nothing() -> None:
    shape = bumpy_sphere(2)
    np.testing.assert_array_equal(
        farthest_point_samples(shape, 40),
        farthest_point_samples(moved(shape, rotation(1), 3.0), 40),
    )


def test_all_vertices_are_a_permutation_even_with_duplicates() -> None:
    points = np.concatenate([np.eye(3), np.eye(3)])
    found = farthest_point_samples(Mesh(points, NO_FACES), 6)
    assert sorted(found.tolist()) == list(range(6))


def test_uniform_samples_lie_on_their_faces() -> None:
    shape = bumpy_sphere(2)
    samples = uniform_samples(shape, 500, np.random.default_rng(0))
    assert samples.barycentric.min() >= 0
    np.testing.assert_allclose(samples.barycentric.sum(axis=1), 1.0)
    rebuilt = np.einsum(
        "sc,scd->sd", samples.barycentric, shape.vertices[shape.faces[samples.face_ids]]
    )
    np.testing.assert_allclose(samples.points, rebuilt, atol=1e-12)


def test_uniform_means_by_area() -> None:
    vertices = np.array([[0.0, 0, 0], [3, 0, 0], [0, 2, 0], [9, 0, 0], [10, 0, 0], [9, 2, 0]])
    big_and_small = Mesh(vertices, np.array([[0, 1, 2], [3, 4, 5]]))
    samples = uniform_samples(big_and_small, 20_000, np.random.default_rng(1))
    assert np.mean(samples.face_ids == 0) == pytest.approx(0.75, abs=0.015)
    inside = samples.points[samples.face_ids == 0]
    np.testing.assert_allclose(inside.mean(axis=0), [1.0, 2 / 3, 0.0], atol=0.03)


def test_the_generator_decides() -> None:
    shape = icosphere(1)
    first = uniform_samples(shape, 9, np.random.default_rng(5)).points
    np.testing.assert_array_equal(first, uniform_samples(shape, 9, np.random.default_rng(5)).points)
    assert not np.array_equal(first, uniform_samples(shape, 9, np.random.default_rng(6)).points)


def test_a_cloud_is_sampled_by_its_points() -> None:
    cloud = Mesh(np.eye(3), NO_FACES)
    samples = uniform_samples(cloud, 50, np.random.default_rng(0))
    np.testing.assert_array_equal(samples.points, np.eye(3)[samples.face_ids])


@pytest.mark.parametrize("n", [0, 43])
def test_too_few_or_too_many_are_refused(n: int) -> None:
    with pytest.raises(InputError, match=r"sampling\.bad_count"):
        farthest_point_samples(icosphere(1), n)


def test_other_errors() -> None:
    with pytest.raises(InputError, match=r"sampling\.bad_start"):
        farthest_point_samples(icosphere(1), 2, start=42)
    with pytest.raises(InputError, match=r"sampling\.bad_count"):
        uniform_samples(icosphere(1), 0, np.random.default_rng(0))
    with pytest.raises(MeshError, match=r"sampling\.no_area"):
        flat = Mesh(np.zeros((3, 3)), np.array([[0, 1, 2]]))
        uniform_samples(flat, 3, np.random.default_rng(0))


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
