"""Closest points on a mesh against brute force."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import bumpy_sphere, grid, icosphere, moved, rotation

from geo3d.errors import MeshError
from geo3d.mesh import closest as module
from geo3d.mesh.closest import closest_points, point_triangle
from geo3d.mesh.mesh import Mesh

RIGHT_TRIANGLE = np.array([[0.0, 0, 0], [4, 0, 0], [0, 4, 0]])


@pytest.mark.parametrize(
    ("point", "barycentric", "distance"),
    [
        ([1, 1, 2], [0.5, 0.25, 0.25], 2.0),  # over the face
        ([-1, -1, 0], [1, 0, 0], np.sqrt(2)),  # corners
        ([6, -1, 0], [0, 1, 0], np.sqrt(5)),
        ([-1, 7, 0], [0, 0, 1], np.sqrt(10)),
        ([1, -2, 0], [0.75, 0.25, 0], 2.0),  # edges
        ([-3, 2, 0], [0.5, 0, 0.5], 3.0),
        ([3, 3, 0], [0, 0.5, 0.5], np.sqrt(2)),
    ],
)
def test_each_region_of_a_triangle(
    point: list[float], barycentric: list[float], distance: float
) -> None:
    found, gap = point_triangle(np.array([point], float), RIGHT_TRIANGLE[None])
    np.testing.assert_allclose(found[0], barycentric, atol=1e-12)
    assert gap[0] == pytest.approx(distance)


def test_no_sampled_point_of_the_triangle_is_nearer() -> None:
    rng = np.random.default_rng(0)
    weights = rng.dirichlet([0.6] * 3, 3000)
    for _ in range(30):
        corners, point = rng.standard_normal((3, 3)), 2 * rng.standard_normal(3)
        barycentric, distance = point_triangle(point[None], corners[None])
        assert barycentric.min() >= 0 and barycentric.sum() == pytest.approx(1)
        assert np.linalg.norm(barycentric[0] @ corners - point) == pytest.approx(distance[0])
        sampled = np.linalg.norm(weights @ corners - point, axis=1).min()
        assert distance[0] - 1e-9 <= sampled <= distance[0] + 0.15


def uneven() -> Mesh:
    """A mesh with a spike of large faces and two degenerate ones."""
    shape = bumpy_sphere(2)
    vertices = shape.vertices.copy()
    vertices[5] *= 9
    return Mesh(vertices, np.concatenate([shape.faces, [[1, 1, 2], [3, 3, 3]]]))


@pytest.mark.parametrize("at_once", [50, 100_000])
def test_it_equals_brute_force(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POINTS_AT_ONCE", at_once)
    mesh = uneven()
    points = 2 * np.random.default_rng(1).standard_normal((200, 3))
    found = closest_points(mesh, points)
    corners = np.tile(mesh.vertices[mesh.faces], (200, 1, 1))
    _, every = point_triangle(np.repeat(points, mesh.n_faces, axis=0), corners)
    np.testing.assert_allclose(found.distance, every.reshape(200, -1).min(axis=1), atol=1e-12)
    gaps = found.interpolate(mesh, mesh.vertices) - points
    np.testing.assert_allclose(np.linalg.norm(gaps, axis=1), found.distance, atol=1e-9)


def test_points_on_the_surface_find_themselves() -> None:
    shape = icosphere(3)
    found = closest_points(shape, shape.vertices)
    np.testing.assert_allclose(found.distance, 0, atol=1e-9)
    np.testing.assert_allclose(found.interpolate(shape, shape.vertices), shape.vertices, atol=1e-9)


def test_distance_ignores_rigid_motion() -> None:
    shape, turn = bumpy_sphere(2), rotation(4)
    points = np.random.default_rng(2).standard_normal((50, 3))
    here = closest_points(shape, points).distance
    there = closest_points(moved(shape, turn, 2.0), points @ turn.T + 2.0).distance
    np.testing.assert_allclose(there, here, atol=1e-9)


def test_values_of_any_width_are_interpolated() -> None:
    square = grid(3)
    found = closest_points(square, np.array([[0.3, 0.4, 1.0]]))
    assert found.interpolate(square, square.vertices[:, 0])[0] == pytest.approx(0.3)
    assert found.interpolate(square, square.vertices).shape == (1, 3)


def test_no_points_and_no_faces() -> None:
    assert closest_points(grid(3), np.zeros((0, 3))).face_ids.shape == (0,)
    with pytest.raises(MeshError, match=r"closest\.no_faces"):
        closest_points(Mesh(np.eye(3), np.zeros((0, 3), np.int64)), np.zeros((1, 3)))
