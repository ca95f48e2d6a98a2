"""Areas, normals, edges and normalisation against worked examples, loops and invariances."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import bumpy_sphere, grid, icosphere, moved, permuted, rotation, tetrahedron

from geo3d.errors import MeshError
from geo3d.mesh.mesh import Mesh
from geo3d.mesh.ops import (
    creased_normals,
    edges,
    face_areas,
    face_normals,
    normalized,
    scatter_faces,
    total_area,
    unit_rows,
    vertex_areas,
    vertex_normals,
)


def test_corner_tetrahedron_by_hand() -> None:
    mesh = tetrahedron()
    slant = np.sqrt(3) / 2
    np.testing.assert_allclose(face_areas(mesh), [0.5, 0.5, 0.5, slant])
    assert total_area(mesh) == pytest.approx(1.5 + slant)
    third = 1 / np.sqrt(3)
    expected = [[0, 0, -1], [0, -1, 0], [-1, 0, 0], [third, third, third]]
    np.testing.assert_allclose(face_normals(mesh), expected, atol=1e-15)
    np.testing.assert_allclose(vertex_normals(mesh)[0], [-third] * 3)
    # vertex 1: doubled areas along -z, -y and the slanted face sum to (1, 0, 0)
    np.testing.assert_allclose(vertex_normals(mesh)[1], [1, 0, 0], atol=1e-15)
    np.testing.assert_allclose(vertex_areas(mesh), [0.5, *[(1 + slant) / 3] * 3])
    assert edges(mesh).tolist() == [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]]


def test_loops_give_the_same() -> None:
    mesh = bumpy_sphere(1)
    areas, normals, sums = [], np.zeros((mesh.n_vertices, 3)), np.zeros(mesh.n_vertices)
    pairs = set()
    for face in mesh.faces:
        a, b, c = mesh.vertices[face]
        cross = np.cross(b - a, c - a)
        areas.append(np.linalg.norm(cross) / 2)
        for i in range(3):
            normals[face[i]] += cross
            sums[face[i]] += areas[-1] / 3
            pairs.add(tuple(sorted((int(face[i]), int(face[(i + 1) % 3])))))
    np.testing.assert_allclose(face_areas(mesh), areas)
    np.testing.assert_allclose(vertex_areas(mesh), sums)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    np.testing.assert_allclose(vertex_normals(mesh), normals)
    assert edges(mesh).tolist() == [list(pair) for pair in sorted(pairs)]
    # Euler: v - e + f = 2 on a sphere
    assert mesh.n_vertices - len(edges(mesh)) + mesh.n_faces == 2


def test_sphere_normals_are_radial_and_areas_approach_the_sphere() -> None:
    mesh = icosphere(3, radius=2.0)
    np.testing.assert_allclose(vertex_normals(mesh), mesh.vertices / 2.0, atol=0.02)
    assert 0.99 < total_area(mesh) / (16 * np.pi) < 1.0


def test_rigid_motion_and_scale() -> None:
    mesh, turn = bumpy_sphere(2), rotation(3)
    turned = moved(mesh, 3.0 * turn, np.array([5.0, -2.0, 1.0]))
    np.testing.assert_allclose(face_areas(turned), 9.0 * face_areas(mesh))
    np.testing.assert_allclose(face_normals(turned), face_normals(mesh) @ turn.T, atol=1e-12)
    np.testing.assert_allclose(vertex_normals(turned), vertex_normals(mesh) @ turn.T, atol=1e-12)
    back = normalized(turned)
    assert total_area(back) == pytest.approx(1.0, rel=1e-12)
    np.testing.assert_allclose(back.vertices.mean(axis=0), 0.0, atol=1e-14)
    np.testing.assert_allclose(back.vertices, normalized(mesh).vertices @ turn.T, atol=1e-12)


def test_vertex_permutation() -> None:
    mesh = bumpy_sphere(2)
    copy, order = permuted(mesh)
    np.testing.assert_allclose(vertex_areas(copy), vertex_areas(mesh)[order])
    np.testing.assert_allclose(vertex_normals(copy), vertex_normals(mesh)[order])


def test_normalized_keeps_faces_colors_and_name() -> None:
    colors = np.arange(12, dtype=np.uint8).reshape(4, 3)
    tetra = tetrahedron()
    mesh = Mesh(tetra.vertices.astype(np.float32), tetra.faces, colors, "painted")
    unit = normalized(mesh)
    assert unit.name == "painted" and (unit.vertex_colors == colors).all()
    assert unit.vertices.dtype == np.float64 and (unit.faces == mesh.faces).all()


def test_point_clouds_have_no_area_and_unit_radius_after_normalising() -> None:
    cloud = Mesh(bumpy_sphere(1).vertices * 7.0 + 3.0, np.zeros((0, 3), np.int64))
    assert total_area(cloud) == 0.0
    unit = normalized(cloud)
    assert np.sqrt((unit.vertices**2).sum(axis=1).mean()) == pytest.approx(1.0)
    assert edges(cloud).shape == (0, 2)


def test_nothing_to_scale_is_refused() -> None:
    line = Mesh(np.array([[0.0, 0, 0], [1, 0, 0], [2, 0, 0]]), np.array([[0, 1, 2]]))
    dot = Mesh(np.ones((5, 3)), np.zeros((0, 3), np.int64))
    for mesh in (line, dot):
        with pytest.raises(MeshError) as caught:
            normalized(mesh)
        assert caught.value.code == "mesh.zero_area"
    np.testing.assert_array_equal(face_normals(line), [[0, 0, 0]])
    np.testing.assert_array_equal(vertex_normals(line), np.zeros((3, 3)))


def test_scatter_and_unit_rows() -> None:
    flat = grid(2)  # two triangles over four corners
    summed = scatter_faces(flat, np.array([[1.0, 10.0], [2.0, 20.0]]))
    shared = np.intersect1d(*flat.faces)
    expected = np.zeros((4, 2))
    for face, row in zip(flat.faces, ([1.0, 10.0], [2.0, 20.0]), strict=True):
        expected[face] += row
    assert len(shared) == 2
    np.testing.assert_array_equal(summed, expected)
    np.testing.assert_allclose(
        unit_rows(np.array([[3.0, 4, 0], [0, 0, 0]])), [[0.6, 0.8, 0], [0] * 3]
    )


def test_creased_normals_are_smooth_up_to_the_angle() -> None:
    sphere = icosphere(2)
    smooth = creased_normals(sphere, np.pi)
    np.testing.assert_allclose(smooth, vertex_normals(sphere)[sphere.faces], atol=1e-12)
    flat = creased_normals(sphere, 1e-6)
    np.testing.assert_allclose(flat, np.repeat(face_normals(sphere)[:, None], 3, 1), atol=1e-12)
