"""Normals of clouds of points, and gradients along the surface they were taken from."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import icosphere

from geo3d.mesh.clouds import N_AROUND, cloud_normals, neighbours, outward_normals, surface_edges
from geo3d.mesh.mesh import Mesh
from geo3d.mesh.operators import frames_about, gradients_along
from geo3d.mesh.ops import vertex_normals
from geo3d.synth.creatures import generate_creature


def test_normals_of_a_sphere_face_outwards() -> None:
    points = icosphere(3).vertices
    found = cloud_normals(points + np.array([5.0, 0, 0]))
    assert (found * points).sum(axis=1).min() > 0.99


def test_sides_of_a_thin_sheet_face_apart() -> None:
    grid = np.stack(np.meshgrid(np.arange(12.0), np.arange(12.0)), axis=-1).reshape(-1, 2)
    below, above = (np.column_stack([grid, np.full(144, z)]) for z in (0.0, 1.2))
    found = cloud_normals(np.vstack([below, above]))
    inside = ((grid > 1) & (grid < 10)).all(axis=1)
    assert found[:144][inside, 2].max() < -0.9 and found[144:][inside, 2].min() > 0.9


@pytest.mark.parametrize("kind", ["biped", "quadruped"])
def test_normals_of_a_body_with_limbs(kind: str) -> None:
    body = generate_creature(kind, 3, 1500).rest
    cosine = (cloud_normals(body.vertices) * vertex_normals(body)).sum(axis=1)
    assert (cosine > 0).mean() > 0.97 and np.median(cosine) > 0.95


def test_pieces_each_face_outwards() -> None:
    ball = icosphere(2).vertices
    far = ball + np.array([100.0, 0, 0])
    found = cloud_normals(np.vstack([ball, far]))
    assert (found * np.vstack([ball, ball])).sum(axis=1).min() > 0.95


def test_size_and_place_do_not_matter() -> None:
    points = generate_creature("bird", 3, 1500).rest.vertices
    again = cloud_normals(1e4 * points - 7.0)
    assert (np.einsum("vi,vi->v", cloud_normals(points), again) > 0.999).mean() > 0.97


def test_sides_of_scattered_points_are_unknown() -> None:
    assert not cloud_normals(np.random.default_rng(0).uniform(size=(300, 3))).any()


def test_a_mesh_keeps_its_own_normals() -> None:
    mesh = icosphere(1)
    inside_out = Mesh(mesh.vertices, mesh.faces[:, ::-1])
    assert (outward_normals(inside_out) == vertex_normals(inside_out)).all()


def test_neighbours_on_the_other_side_are_left_out() -> None:
    ball = icosphere(2)
    shell = np.vstack([ball.vertices, 0.97 * ball.vertices])
    normals = np.vstack([ball.vertices, -ball.vertices])
    tails, tips = surface_edges(shell, normals)
    assert len(neighbours(shell)[0]) == N_AROUND * len(shell)
    n = ball.n_vertices
    assert ((tails < n) == (tips < n)).all() and len(tails) > 3 * n


def test_gradients_of_a_linear_function() -> None:
    points = icosphere(3).vertices
    normals = cloud_normals(points)
    frames = frames_about(normals)
    along = gradients_along(points, *surface_edges(points, normals), frames)
    values = points @ [1.0, 2.0, 3.0]
    for axis, gradient in zip((0, 1), along, strict=True):
        expected = frames[:, axis] @ [1.0, 2.0, 3.0]
        assert np.abs(gradient @ values - expected).max() < 0.25
        assert np.abs(gradient @ values - expected).mean() < 0.05
