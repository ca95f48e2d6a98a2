"""Geodesic distances against closed forms, brute force and each other."""

from __future__ import annotations

import importlib.util
import logging

import numpy as np
import pytest
from helpers import bumpy_sphere, grid, icosphere, moved, rotation

from geo3d.errors import BackendUnavailable, ConfigError, InputError, MeshError
from geo3d.mesh import geodesic
from geo3d.mesh.geodesic import (
    HeatSolver,
    exact_distances,
    geodesic_distances,
    graph_distances,
    heat_distances,
)
from geo3d.mesh.mesh import Mesh
from geo3d.mesh.ops import edges

needs_libigl = pytest.mark.skipif(
    importlib.util.find_spec("igl") is None, reason="libigl is not installed"
)


def great_circle(sphere: Mesh, source: int) -> np.ndarray:
    return np.arccos(np.clip(sphere.vertices @ sphere.vertices[source], -1, 1))


def floyd_warshall(mesh: Mesh) -> np.ndarray:
    d = np.full((mesh.n_vertices, mesh.n_vertices), np.inf)
    np.fill_diagonal(d, 0.0)
    for i, j in edges(mesh):
        d[i, j] = d[j, i] = np.linalg.norm(mesh.vertices[i] - mesh.vertices[j])
    for k in range(mesh.n_vertices):
        d = np.minimum(d, d[:, k : k + 1] + d[k])
    return d


def two_parts() -> Mesh:
    a = icosphere(1)
    vertices = np.concatenate([a.vertices, a.vertices + np.array([5.0, 0, 0]), [[9.0, 9, 9]]])
    return Mesh(vertices, np.concatenate([a.faces, a.faces + a.n_vertices]), name="two")


def test_heat_distances_on_a_sphere_follow_great_circles() -> None:
    sphere = icosphere(4)
    found = heat_distances(sphere, [0, 100])
    assert found.shape == (2, sphere.n_vertices)
    expected = np.stack([great_circle(sphere, 0), great_circle(sphere, 100)])
    assert np.abs(found - expected).max() < 0.04
    assert np.abs(found - expected).mean() < 0.015


def test_heat_distances_on_a_flat_square_are_straight_lines() -> None:
    square = grid(31)
    centre = 15 * 31 + 15
    expected = np.linalg.norm(square.vertices - square.vertices[centre], axis=1)
    found = heat_distances(square, [centre])[0]
    assert np.abs(found - expected).max() < 0.03


@needs_libigl
def test_exact_distances_on_a_flat_square_are_exact() -> None:
    square = grid(9)
    expected = np.linalg.norm(square.vertices - square.vertices[3], axis=1)
    np.testing.assert_allclose(exact_distances(square, [3])[0], expected, atol=1e-9)


@needs_libigl
def test_exact_is_symmetric_and_no_longer_than_edges() -> None:
    shape = bumpy_sphere(2)
    all_of_them = exact_distances(shape, range(shape.n_vertices))
    np.testing.assert_allclose(all_of_them, all_of_them.T, atol=1e-9)
    assert (all_of_them <= graph_distances(shape, range(shape.n_vertices)) + 1e-9).all()
    heat = heat_distances(shape, range(shape.n_vertices))
    far = all_of_them > 0.5
    assert np.abs(heat[far] / all_of_them[far] - 1).mean() < 0.05


def test_graph_distances_equal_floyd_warshall() -> None:
    shape = bumpy_sphere(1)
    found = graph_distances(shape, range(shape.n_vertices))
    np.testing.assert_allclose(found, floyd_warshall(shape), atol=1e-12)


@pytest.mark.parametrize("method", ["heat", "graph"])
def test_distances_follow_scale_and_ignore_rigid_motion(method: str) -> None:
    shape = bumpy_sphere(2)
    here = geodesic_distances(shape, [5], method).distances
    there = geodesic_distances(moved(shape, 1e4 * rotation(3), 7.0), [5], method).distances
    np.testing.assert_allclose(there, 1e4 * here, rtol=1e-5, atol=1e-2)


@pytest.mark.parametrize("method", ["heat", "graph"])
def test_other_parts_and_loose_vertices_are_infinitely_far(method: str) -> None:
    both = two_parts()
    alone = icosphere(1)
    found = geodesic_distances(both, [3, 42 + 3, 84], method).distances
    single = geodesic_distances(alone, [3], method).distances[0]
    np.testing.assert_allclose(found[0, :42], single, atol=1e-9)
    np.testing.assert_allclose(found[1, 42:84], single, atol=1e-9)
    assert np.isinf(found[0, 42:]).all() and np.isinf(found[1, :42]).all()
    assert found[2, 84] == 0 and np.isinf(found[2, :84]).all()


def test_heat_survives_non_manifold_and_repeated_corners() -> None:
    sphere = icosphere(2)
    fin = np.array([[sphere.faces[0, 0], sphere.faces[0, 1], sphere.n_vertices], [0, 0, 1]])
    vertices = np.concatenate([sphere.vertices, [[0, 0, 3.0]]])
    found = heat_distances(Mesh(vertices, np.concatenate([sphere.faces, fin])), [0])
    assert np.isfinite(found).all() and found.min() == 0


def test_solver_gives_what_the_function_gives_and_never_negative() -> None:
    shape = bumpy_sphere(2)
    solver = HeatSolver(shape)
    np.testing.assert_array_equal(solver.distances([4]), heat_distances(shape, [4]))
    found = solver.distances(range(shape.n_vertices))
    assert found.min() == 0.0
    np.testing.assert_array_equal(np.diag(found), 0.0)


def test_no_sources_give_no_rows() -> None:
    assert heat_distances(icosphere(1), []).shape == (0, 42)
    assert graph_distances(icosphere(1), []).shape == (0, 42)


def test_auto_says_what_it_used(caplog: pytest.LogCaptureFixture) -> None:
    sphere = icosphere(2)
    assert geodesic_distances(sphere, [0]).method == "heat"
    cloud = Mesh(sphere.vertices, np.zeros((0, 3), np.int64))
    along = geodesic_distances(cloud, [0])
    assert along.method == "graph"
    assert np.abs(along.distances[0] - great_circle(sphere, 0)).max() < 0.3


def test_auto_falls_back_with_a_warning(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    import potpourri3d

    def refuse(*_: object) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr(potpourri3d, "MeshHeatMethodDistanceSolver", refuse)
    with caplog.at_level(logging.WARNING, logger=geodesic.__name__):
        assert geodesic_distances(icosphere(1), [0]).method == "graph"
    assert "along edges" in caplog.text
    with pytest.raises(MeshError, match=r"geodesic\.solver_failed"):
        heat_distances(icosphere(1), [0])


def test_non_finite_answers_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    import potpourri3d

    class Silent:
        def __init__(self, vertices: np.ndarray, faces: np.ndarray) -> None:
            self.n = len(vertices)

        def compute_distance(self, source: int) -> np.ndarray:
            return np.full(self.n, np.nan)

    monkeypatch.setattr(potpourri3d, "MeshHeatMethodDistanceSolver", Silent)
    with pytest.raises(ArithmeticError, match=r"geodesic\.non_finite"):
        heat_distances(icosphere(1), [0])


@pytest.mark.parametrize("sources", [[-1], [42]])
def test_bad_sources_are_refused(sources: list[int]) -> None:
    with pytest.raises(InputError, match=r"geodesic\.bad_source"):
        graph_distances(icosphere(1), np.array(sources))


def test_a_point_cloud_has_no_heat_distance() -> None:
    with pytest.raises(MeshError, match=r"geodesic\.no_faces"):
        heat_distances(Mesh(np.eye(3), np.zeros((0, 3), np.int64)), [0])


def test_unknown_method_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"auto, heat, exact, graph"):
        geodesic_distances(icosphere(1), [0], "fast")


def test_exact_without_libigl_tells_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "igl", None)
    with pytest.raises(BackendUnavailable, match="pip install libigl"):
        exact_distances(icosphere(1), [0])


@needs_libigl
def test_exact_refuses_three_faces_on_an_edge() -> None:
    vertices = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1]])
    with pytest.raises(MeshError, match=r"geodesic\.not_manifold"):
        exact_distances(Mesh(vertices, np.array([[0, 1, 2], [0, 1, 3], [0, 1, 4]])), [0])
