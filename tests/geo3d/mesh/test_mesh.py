"""The mesh itself: what it accepts, what it refuses, that it cannot change, what its hash sees."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from helpers import tetrahedron

from geo3d.errors import MeshError
from geo3d.mesh.mesh import Mesh

CORNERS = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]])
FACE = np.array([[0, 1, 2]])


def test_counts_and_types() -> None:
    mesh = tetrahedron()
    assert (mesh.n_vertices, mesh.n_faces, mesh.is_point_cloud) == (4, 4, False)
    assert mesh.vertices.dtype == np.float64 and mesh.faces.dtype == np.int64
    single = Mesh(CORNERS.astype(np.float32), FACE.astype(np.int32))
    assert single.vertices.dtype == np.float32 and single.faces.dtype == np.int64


def test_no_faces_make_a_point_cloud() -> None:
    cloud = Mesh(CORNERS, np.zeros((0, 3), np.int32))
    assert cloud.is_point_cloud and cloud.faces.shape == (0, 3) and cloud.faces.dtype == np.int64


def test_arrays_are_own_copies_and_read_only() -> None:
    vertices, faces, colors = CORNERS.copy(), FACE.copy(), np.zeros((3, 3), np.uint8)
    mesh = Mesh(vertices, faces, colors)
    vertices[0, 0], faces[0, 0], colors[0, 0] = 9.0, 1, 7
    assert mesh.vertices[0, 0] == 0 and mesh.faces[0, 0] == 0
    assert mesh.vertex_colors is not None and mesh.vertex_colors[0, 0] == 0
    for array in (mesh.vertices, mesh.faces, mesh.vertex_colors):
        with pytest.raises(ValueError, match="read-only"):
            array[0, 0] = 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        mesh.name = "other"  # type: ignore[misc]


def test_hash_sees_positions_faces_and_order_only() -> None:
    mesh = Mesh(CORNERS, FACE)
    named = Mesh(CORNERS, FACE, np.zeros((3, 3), np.uint8), "named")
    assert mesh.content_hash() == named.content_hash()
    # a float32 mesh with the same coordinates is the same surface
    assert mesh.content_hash() == Mesh(CORNERS.astype(np.float32), FACE).content_hash()
    nudged = CORNERS.copy()
    nudged[2, 1] = np.nextafter(1.0, 2.0)
    others = [
        Mesh(nudged, FACE),
        Mesh(CORNERS, FACE[:, [1, 2, 0]]),
        Mesh(CORNERS[[1, 0, 2]], FACE),
    ]
    assert len({m.content_hash() for m in [mesh, *others]}) == 4


@pytest.mark.parametrize(
    ("vertices", "faces", "code"),
    [
        (np.zeros((0, 3)), np.zeros((0, 3), np.int64), "mesh.no_vertices"),
        (CORNERS + np.array([[0], [np.nan], [0]]), FACE, "mesh.non_finite"),
        (CORNERS + np.array([[0], [-np.inf], [0]]), FACE, "mesh.non_finite"),
        (CORNERS, np.array([[0, 1, 3]]), "mesh.index_out_of_range"),
        (CORNERS, np.array([[0, 1, -1]]), "mesh.index_out_of_range"),
    ],
)
def test_broken_arrays_are_refused(vertices: np.ndarray, faces: np.ndarray, code: str) -> None:
    with pytest.raises(MeshError) as caught:
        Mesh(vertices, faces, name="broken")
    assert caught.value.code == code and "broken" in caught.value.message
    assert caught.value.exit_code == 3


def test_wrong_shapes_are_refused_where_types_are_not_checked() -> None:
    """Without the run-time type checks of the tests the class itself has to notice."""
    bare = object.__new__(Mesh)
    for vertices, faces, colors, code in (
        (CORNERS[:, :2], FACE, None, "mesh.bad_shape"),
        (CORNERS, FACE[:, :2], None, "mesh.bad_shape"),
        (CORNERS, FACE * 1.0, None, "mesh.bad_shape"),
        (CORNERS, FACE, np.zeros((2, 3), np.uint8), "mesh.bad_colors"),
        (CORNERS, FACE, np.zeros((3, 3)), "mesh.bad_colors"),
    ):
        given = {"vertices": vertices, "faces": faces, "vertex_colors": colors, "name": "broken"}
        for name, value in given.items():
            object.__setattr__(bare, name, value)
        with pytest.raises(MeshError) as caught:
            bare.__post_init__()
        assert caught.value.code == code
