"""Farthest-point and uniform sampling."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import bumpy_sphere, grid, icosphere, moved, rotation

from geo3d.errors import InputError, MeshError
from geo3d.mesh.mesh import Mesh
from geo3d.mesh.sampling import farthest_point_samples, uniform_samples

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
