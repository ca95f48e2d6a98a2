"""Defects of files are undone inside: what is left is the clean shape, and nothing is lost."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from helpers import bumpy_sphere, grid, icosphere, moved, permuted, rotation

from geo3d.mesh.connectivity import edge_sides
from geo3d.mesh.mesh import Mesh
from shape_matching.search.sound import Sound, sound

BODY = bumpy_sphere(2)


def joined(*meshes: Mesh) -> Mesh:
    """Return the meshes side by side as one."""
    starts = np.cumsum([0, *(mesh.n_vertices for mesh in meshes)])
    vertices = np.concatenate([mesh.vertices for mesh in meshes])
    faces = [mesh.faces + start for mesh, start in zip(meshes, starts, strict=False)]
    return Mesh(vertices, np.concatenate(faces), name="joined")


def triangle(at: float, size: float = 0.1) -> Mesh:
    return Mesh(np.eye(3) * size + at, np.arange(3)[None])


def unwelded(mesh: Mesh) -> Mesh:
    """Return the mesh with corners of its own for each face, as flat shading has them."""
    return Mesh(mesh.vertices[mesh.faces.ravel()], np.arange(3 * mesh.n_faces).reshape(-1, 3))


def speck_at_vertex() -> Mesh:
    """Return the body and a triangle that shares one vertex with it."""
    n = BODY.n_vertices
    loose = BODY.vertices[:1] + np.array([[0.5, 0, 0], [0, 0.5, 0]])
    vertices = np.concatenate([BODY.vertices, loose])
    return Mesh(vertices, np.concatenate([BODY.faces, [[0, n, n + 1]]]))


def fin() -> Mesh:
    """Return the body and a triangle that stands on one of its edges."""
    a, b, _ = BODY.faces[0]
    vertices = np.concatenate([BODY.vertices, 1.3 * BODY.vertices[a : a + 1]])
    return Mesh(vertices, np.concatenate([BODY.faces, [[a, b, BODY.n_vertices]]]))


def bridged(at: float = 3.0) -> Mesh:
    """Return the body, a smaller body, and a triangle on an edge of each between them."""
    both = joined(BODY, moved(icosphere(1), 0.3 * np.eye(3), at))
    a, b, _ = BODY.faces[0]
    c, d, _ = both.faces[-1]
    return Mesh(both.vertices, np.concatenate([both.faces, [[a, b, c], [b, c, d]]]))


def spiked() -> Mesh:
    """Return the body with faces that name a vertex twice, and doubled faces, either way round."""
    twice = BODY.faces[:5, [0, 0, 1]]
    return Mesh(
        BODY.vertices,
        np.concatenate([BODY.faces, twice, BODY.faces[:7], BODY.faces[9:11, [0, 2, 1]]]),
    )


DEFECTS: dict[str, Callable[[], Mesh]] = {
    "triangle": lambda: joined(BODY, triangle(3.0)),
    "triangle first": lambda: joined(triangle(3.0), BODY),
    "many specks": lambda: joined(BODY, *(triangle(2.0 + i) for i in range(80))),
    "large speck": lambda: joined(BODY, moved(icosphere(1), 0.25 * np.eye(3), 4.0)),
    "unused": lambda: Mesh(np.concatenate([BODY.vertices, [[9.0, 9, 9]]]), BODY.faces),
    "unused first": lambda: Mesh(np.concatenate([[[9.0, 9, 9]], BODY.vertices]), BODY.faces + 1),
    "unwelded": lambda: unwelded(BODY),
    "speck at a vertex": speck_at_vertex,
    "fin": fin,
    "bridged": bridged,
    "bridged far": lambda: bridged(9.0),
    "spiked": spiked,
    "inner shell": lambda: joined(BODY, moved(BODY, 0.5 * np.eye(3))),
}


def check_maps(shape: Sound) -> None:
    for part in shape.parts:
        assert (part.from_file[part.to_file] == np.arange(part.mesh.n_vertices)).all()
        inside = part.from_file >= 0
        np.testing.assert_array_equal(
            shape.whole.vertices[inside], part.mesh.vertices[part.from_file[inside]]
        )


@pytest.mark.parametrize("defect", DEFECTS)
@pytest.mark.parametrize("scale", [1.0, 1e-9, 1e9])
def test_the_clean_shape_is_the_largest_part(defect: str, scale: float) -> None:
    """Whatever lies beside it, such as vertices of no face (case `unused_vertex`)."""
    file = moved(DEFECTS[defect](), scale * rotation(1), 10.0 * scale)
    shape = sound(file)
    part = shape.parts[0].mesh
    assert (part.n_vertices, part.n_faces) == (BODY.n_vertices, BODY.n_faces)
    assert (edge_sides(part.faces, part.n_vertices).count == 2).all()
    check_maps(shape)
    assert len(shape.notes) == 1 and not shape.is_whole


@pytest.mark.parametrize("mesh", [BODY, grid(9), permuted(BODY)[0]])
def test_a_sound_shape_is_itself(mesh: Mesh) -> None:
    shape = sound(mesh)
    assert shape.is_whole and shape.parts[0].mesh is mesh and shape.notes == ()
    assert sound(mesh) is shape
    check_maps(shape)


def test_seams_of_rounded_coordinates_are_joined() -> None:
    apart = unwelded(BODY)
    noise = np.random.default_rng(0).uniform(-1e-7, 1e-7, apart.vertices.shape)
    part = sound(Mesh(apart.vertices + noise, apart.faces)).parts[0]
    assert part.mesh.n_vertices == BODY.n_vertices
    assert (part.from_file >= 0).all()


def test_touching_surfaces_are_not_joined() -> None:
    twins = joined(BODY, BODY)
    assert [part.mesh.n_vertices for part in sound(twins).parts] == [BODY.n_vertices] * 2


def test_notes_name_what_was_done() -> None:
    file = joined(BODY, triangle(3.0), triangle(4.0))
    file = Mesh(np.concatenate([file.vertices, [[9.0, 9, 9]]]), file.faces, name="body")
    (note,) = sound(file).notes
    assert note == "body: separated 2 smaller pieces, set aside 1 vertex of no face."


@pytest.fixture
def cloud() -> Mesh:
    return Mesh(bumpy_sphere(3).vertices, np.zeros((0, 3), int), name="cloud")


def test_clouds_lose_outliers_and_doubled_points(cloud: Mesh) -> None:
    rng = np.random.default_rng(0)
    single = 4.0 * rotation(3)
    cluster = np.array([6.0, 0, 0]) + 0.05 * rng.standard_normal((20, 3))
    points = np.concatenate([single, cloud.vertices, cluster, cloud.vertices[:5]])
    shape = sound(Mesh(points, cloud.faces, name="cloud"))
    (part,) = shape.parts
    np.testing.assert_array_equal(part.to_file, 3 + np.arange(cloud.n_vertices))
    np.testing.assert_array_equal(part.from_file[-5:], np.arange(5))
    assert shape.notes == ("cloud: joined 5 doubled points, set aside 23 points apart from it.",)


def test_a_clean_cloud_is_itself(cloud: Mesh) -> None:
    noisy = np.random.default_rng(0).normal(cloud.vertices, 0.01)
    assert sound(cloud).is_whole
    assert sound(Mesh(noisy, cloud.faces)).is_whole
    assert sound(Mesh(cloud.vertices[:5], cloud.faces)).is_whole


def test_a_second_cloud_far_away_is_a_part(cloud: Mesh) -> None:
    both = np.concatenate([cloud.vertices[:500] + 9.0, cloud.vertices])
    shape = sound(Mesh(both, cloud.faces))
    assert [part.mesh.n_vertices for part in shape.parts] == [cloud.n_vertices, 500]
    check_maps(shape)


def test_without_any_face_of_three_corners_nothing_changes() -> None:
    flat = Mesh(np.eye(3), np.array([[0, 0, 1]]))
    assert sound(flat).is_whole
