"""Laplacian, mass, frames and gradients against worked triangles, linear functions, invariances."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import scipy.sparse as sp
from helpers import bumpy_sphere, grid, icosphere, moved, permuted, rotation, torus

from geo3d.errors import ConfigError, Geo3dError, NumericalError
from geo3d.mesh.mesh import Mesh
from geo3d.mesh.operators import (
    LaplacianKind,
    fem_mass,
    gradient_operators,
    laplacian,
    tangent_frames,
)
from geo3d.mesh.ops import total_area, vertex_areas, vertex_normals

NO_FACES = np.zeros((0, 3), np.int64)


def dense(matrix: sp.csr_matrix) -> np.ndarray:
    return np.asarray(matrix.todense())


def fan() -> Mesh:
    """Return three triangles around one edge: not a manifold."""
    vertices = np.array([[0.0, 0, 0], [1, 0, 0], [0.5, 0.2, 0], [0.5, -0.1, 0.1], [0.6, 0, 0.2]])
    return Mesh(vertices, np.array([[0, 1, 2], [1, 0, 3], [0, 1, 4]]), name="fan")


def test_right_triangle_by_hand() -> None:
    mesh = Mesh(np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]), np.array([[0, 1, 2]]))
    matrix, mass = laplacian(mesh)
    # cotangents: 0 at the right angle, 1 at the other two
    expected = [[1.0, -0.5, -0.5], [-0.5, 0.5, 0.0], [-0.5, 0.0, 0.5]]
    np.testing.assert_allclose(dense(matrix), expected, atol=1e-15)
    np.testing.assert_allclose(mass, 1 / 6, rtol=1e-7)
    np.testing.assert_allclose(dense(fem_mass(mesh)), (np.ones((3, 3)) + np.eye(3)) / 24)


def test_regular_tetrahedron_by_hand() -> None:
    vertices = np.array([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    mesh = Mesh(vertices, np.array([[0, 1, 2], [0, 3, 1], [0, 2, 3], [1, 3, 2]]))
    matrix, mass = laplacian(mesh)
    # every edge sees two angles of 60 degrees
    np.testing.assert_allclose(dense(matrix), (4 * np.eye(4) - 1) / np.sqrt(3), atol=1e-14)
    # side sqrt(8): four triangles of area 2 sqrt(3), shared by four vertices
    np.testing.assert_allclose(mass, 2 * np.sqrt(3), rtol=1e-7)


@pytest.mark.parametrize("kind", ["cotan", "robust"])
def test_dirichlet_energy_of_linear_functions_is_exact(kind: LaplacianKind) -> None:
    mesh = grid(9, 7)
    matrix, mass = laplacian(mesh, kind)
    slope = np.array([2.0, -3.0])
    values = mesh.vertices[:, :2] @ slope + 5.0
    assert values @ matrix @ values == pytest.approx(13.0, rel=1e-9)
    inner = ((mesh.vertices[:, :2] > 0) & (mesh.vertices[:, :2] < 1)).all(axis=1)
    assert inner.sum() == 35
    np.testing.assert_allclose((matrix @ values)[inner], 0.0, atol=1e-12)
    assert mass.sum() == pytest.approx(1.0, rel=1e-6)


@pytest.mark.parametrize("kind", ["cotan", "robust"])
def test_laplacian_is_symmetric_semidefinite_and_kills_constants(kind: LaplacianKind) -> None:
    mesh = bumpy_sphere(2)
    matrix, mass = laplacian(mesh, kind)
    assert abs(matrix - matrix.T).max() < 1e-12
    np.testing.assert_allclose(matrix @ np.ones(mesh.n_vertices), 0.0, atol=1e-11)
    assert np.linalg.eigvalsh(dense(matrix)).min() > -1e-10
    assert mass.min() > 0 and mass.sum() == pytest.approx(total_area(mesh), rel=1e-6)


def test_loop_over_corners_gives_the_cotan_matrix() -> None:
    mesh = bumpy_sphere(1)
    expected = np.zeros((mesh.n_vertices,) * 2)
    for face in mesh.faces:
        for corner in range(3):
            p, i, j = (int(face[(corner + step) % 3]) for step in range(3))
            u, v = mesh.vertices[i] - mesh.vertices[p], mesh.vertices[j] - mesh.vertices[p]
            angle = np.arccos(u @ v / np.linalg.norm(u) / np.linalg.norm(v))
            weight = 0.5 / np.tan(angle)
            expected[[i, j], [j, i]] -= weight
            expected[[i, j], [i, j]] += weight
    np.testing.assert_allclose(dense(laplacian(mesh, "cotan")[0]), expected, atol=1e-9)


def test_auto_chooses_by_manifoldness() -> None:
    smooth = bumpy_sphere(1)
    assert (laplacian(smooth)[0] != laplacian(smooth, "cotan")[0]).nnz == 0
    for broken in (fan(), Mesh(np.eye(3), np.array([[0, 1, 2], [0, 0, 1]]))):
        automatic, robust = laplacian(broken), laplacian(broken, "robust")
        np.testing.assert_array_equal(dense(automatic[0]), dense(robust[0]))
        np.testing.assert_array_equal(automatic[1], robust[1])
        # the intrinsic Delaunay triangulation differs from the given one
        assert not np.allclose(dense(laplacian(fan(), "cotan")[0]), dense(laplacian(fan())[0]))


def test_scale_motion_and_order() -> None:
    mesh = bumpy_sphere(2)
    matrix, mass = laplacian(mesh)
    turned, turned_mass = laplacian(moved(mesh, 10.0 * rotation(1), 4.0))
    assert abs(turned - matrix).max() < 1e-8
    np.testing.assert_allclose(turned_mass, 100.0 * mass)
    copy, order = permuted(mesh)
    shuffled, shuffled_mass = laplacian(copy)
    assert abs(shuffled - matrix[order][:, order]).max() < 1e-12
    np.testing.assert_allclose(shuffled_mass, mass[order])


def test_slivers_stay_finite() -> None:
    vertices = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0.5, 0.5, 0.0]])
    mesh = Mesh(vertices, np.array([[0, 1, 2], [1, 3, 2]]))  # the second has no area
    matrix, mass = laplacian(mesh, "cotan")
    assert np.isfinite(matrix.data).all() and mass.min() > 0


def test_consistent_mass_integrates_products_of_linear_functions() -> None:
    mesh = grid(5)
    x, y = mesh.vertices[:, 0], mesh.vertices[:, 1]
    matrix = fem_mass(mesh)
    assert x @ matrix @ x == pytest.approx(1 / 3)
    assert x @ matrix @ y == pytest.approx(1 / 4)
    np.testing.assert_allclose(matrix @ np.ones(25), vertex_areas(mesh))


def test_point_clouds_get_a_laplacian() -> None:
    sphere = icosphere(3)
    cloud = Mesh(sphere.vertices, NO_FACES)
    matrix, mass = laplacian(cloud)
    assert mass.sum() == pytest.approx(4 * np.pi, rel=0.05)
    height = sphere.vertices[:, 2]
    # z is an eigenfunction of the sphere with eigenvalue 2
    assert height @ matrix @ height / (height @ (mass * height)) == pytest.approx(2.0, rel=0.05)


def test_frames_are_nearly_orthonormal_and_follow_the_surface() -> None:
    mesh = torus()
    frames = tangent_frames(mesh)
    products = np.einsum("vai,vbi->vab", frames, frames)
    np.testing.assert_allclose(products, np.broadcast_to(np.eye(3), products.shape), atol=1e-3)
    assert (np.linalg.det(frames) > 0.99).all()
    assert (np.einsum("vi,vi->v", frames[:, 2], vertex_normals(mesh)) > 0.99).all()


def test_gradient_of_linear_functions_is_exact_on_the_plane() -> None:
    mesh = grid(6)
    frames = np.broadcast_to(np.eye(3), (mesh.n_vertices, 3, 3)).copy()
    grad_x, grad_y = gradient_operators(mesh, frames, ridge=0.0)
    values = mesh.vertices[:, :2] @ [2.0, -3.0] + 1.0
    np.testing.assert_allclose(grad_x @ values, 2.0, atol=1e-12)
    np.testing.assert_allclose(grad_y @ values, -3.0, atol=1e-12)
    # with the published frames and ridge the constants show, but little
    grad_x, grad_y = gradient_operators(mesh, tangent_frames(mesh))
    np.testing.assert_allclose(grad_x @ values, 2.0, rtol=2e-3)
    np.testing.assert_allclose(grad_y @ values, -3.0, rtol=2e-3)


def test_gradient_kills_constants_and_turns_with_the_shape() -> None:
    mesh, turn = bumpy_sphere(3), rotation(5)
    for operator in gradient_operators(mesh, tangent_frames(mesh)):
        np.testing.assert_allclose(operator @ np.ones(mesh.n_vertices), 0.0, atol=1e-10)
    values = mesh.vertices @ [1.0, 2.0, 3.0]
    vectors = []
    for shape in (mesh, moved(mesh, turn)):
        frames = tangent_frames(shape)
        parts = [grad @ values for grad in gradient_operators(shape, frames)]
        vectors.append(np.einsum("av,vai->vi", np.stack(parts), frames[:, :2]))
    np.testing.assert_allclose(vectors[1], vectors[0] @ turn.T, atol=0.01)
    # the surface gradient of a linear function is its tangential part
    normals = vertex_normals(mesh)
    slope = np.array([1.0, 2.0, 3.0])
    tangential = slope - (normals @ slope)[:, None] * normals
    assert np.abs(vectors[0] - tangential).mean() < 0.05


@pytest.mark.parametrize(
    ("mesh", "code"),
    [
        (Mesh(np.eye(4, 3), np.array([[0, 1, 2]])), "mesh.unreferenced_vertices"),
        (Mesh(np.tile(icosphere(1).vertices, (2, 1)), NO_FACES), "mesh.coincident_vertices"),
        (Mesh(icosphere(1).vertices[:30], NO_FACES), "mesh.too_few_points"),
    ],
)
def test_unusable_shapes_are_refused(mesh: Mesh, code: str) -> None:
    with pytest.raises(Geo3dError) as caught:
        laplacian(mesh)
    assert caught.value.code == code and caught.value.exit_code == 3 and caught.value.hint


def test_a_mesh_without_any_area_is_a_numerical_error() -> None:
    line = Mesh(np.array([[0.0, 0, 0], [1, 0, 0], [2, 0, 0]]), np.array([[0, 1, 2]]))
    with pytest.raises(NumericalError) as caught:
        laplacian(line, "cotan")
    assert caught.value.code == "operators.non_finite"
    huge = Mesh(1e200 * np.eye(3), np.array([[0, 1, 2]]))
    with pytest.raises(NumericalError) as caught:
        laplacian(huge)
    assert caught.value.code == "operators.non_finite"


def test_points_on_a_line_are_a_numerical_error() -> None:
    positions = np.zeros((40, 3))
    positions[:, 0] = np.random.default_rng(0).random(40)
    with pytest.raises(NumericalError) as caught:
        laplacian(Mesh(positions, NO_FACES))
    assert caught.value.code == "operators.robust_failed" and caught.value.exit_code == 5


def test_unknown_kind_is_refused_where_types_are_not_checked() -> None:
    unchecked = getattr(laplacian, "__wrapped__", laplacian)
    with pytest.raises(ConfigError) as caught:
        unchecked(grid(3), "combinatorial")
    assert caught.value.code == "operators.unknown_laplacian"
    assert "robust" in get_args(LaplacianKind)
