"""A mesh of at most so many faces, whatever the mesh."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from skimage.measure import marching_cubes

from geo3d.errors import InputError
from geo3d.mesh.closest import closest_points
from geo3d.mesh.manifold import open_edges
from geo3d.mesh.mesh import Mesh
from geo3d.mesh.simplify import turned_share, with_faces


def surface(field: np.ndarray) -> Mesh:
    """Return where a field is 0, closed at the border of its grid."""
    padded = np.pad(field, 1, constant_values=field.max() + 1)
    vertices, faces, _, _ = marching_cubes(padded, 0)
    return Mesh(vertices, faces.astype(np.int64))


def ball(size: int = 24) -> Mesh:
    grid = np.mgrid[:size, :size, :size] - (size - 1) / 2
    return surface(np.sqrt((grid**2).sum(axis=0)) - 0.4 * size)


def noise(seed: int, roughness: float, level: float = 0.0, size: int = 14) -> Mesh:
    """Return a surface of many parts and handles."""
    values = np.random.default_rng(seed).normal(size=(size,) * 3)
    field = gaussian_filter(values, roughness)
    return surface(field / field.std() + level)


@pytest.mark.parametrize("faces", [2000, 500, 100, 20, 4])
def test_a_ball_keeps_its_shape_and_stays_closed(faces: int) -> None:
    whole = ball()
    assert whole.n_faces > 2000
    made = with_faces(whole, faces)
    assert 0.9 * faces <= made.n_faces <= faces and open_edges(made.faces)[0] == 0
    if faces >= 100:
        there = closest_points(whole, made.vertices.astype(np.float64))
        corners = whole.vertices[whole.faces[there.face_ids]]
        points = np.einsum("vi,vix->vx", there.barycentric, corners)
        gap = np.linalg.norm(points - made.vertices, axis=1).max()
        assert gap < 0.6 and turned_share(whole, made) == 0


def test_a_mesh_with_fewer_faces_is_left_alone() -> None:
    whole = ball(8)
    assert with_faces(whole, whole.n_faces) is whole


def test_three_faces_are_refused() -> None:
    with pytest.raises(InputError) as error:
        with_faces(ball(8), 3)
    assert error.value.code == "decimate.bad_count"


@pytest.mark.parametrize(("roughness", "level"), [(1.2, 0.0), (0.6, 1.0), (0.9, 0.5)])
@pytest.mark.parametrize("share", [0.7, 0.3, 0.05])
def test_surfaces_that_touch_and_fall_apart(roughness: float, level: float, share: float) -> None:
    """As those that networks make (case `decimate`)."""
    whole = noise(3, roughness, level)
    assert open_edges(whole.faces)[0] == 0
    faces = int(share * whole.n_faces)
    made = with_faces(whole, faces)
    assert 0.5 * faces < made.n_faces <= faces and open_edges(made.faces)[0] == 0


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), share=st.floats(0.02, 0.9), holes=st.integers(0, 40))
def test_any_mesh_has_at_most_the_faces_asked_for(seed: int, share: float, holes: int) -> None:
    whole = noise(seed, 0.8, size=7)
    draw = np.random.default_rng(seed)
    kept = np.sort(draw.permutation(whole.n_faces)[holes:])
    whole = Mesh(whole.vertices, whole.faces[kept])
    faces = max(4, int(share * whole.n_faces))
    made = with_faces(whole, faces)
    assert 0 < made.n_faces <= faces and np.isfinite(made.vertices).all()
    assert made.faces.max() < made.n_vertices


def test_loose_triangles_flat_sheets_and_double_faces() -> None:
    draw = np.random.default_rng(0)
    soup = Mesh(draw.normal(size=(600, 3)), np.arange(600).reshape(-1, 3))
    index = np.arange(400).reshape(20, 20)
    a, b, c, d = (
        part.ravel() for part in (index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:])
    )
    sheet = np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])
    points = np.stack([*np.divmod(np.arange(400.0), 20), np.zeros(400)], axis=1)
    both = np.concatenate([sheet, sheet[:, ::-1]])
    for mesh in (soup, Mesh(points, sheet), Mesh(points, both)):
        for faces in (mesh.n_faces // 2, 30, 4):
            assert 0 < with_faces(mesh, faces).n_faces <= faces
