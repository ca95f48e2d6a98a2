"""Faces that meet in more than two at an edge are taken apart; closed stays closed."""

from __future__ import annotations

import numpy as np

from geo3d.mesh.manifold import cancelled, open_edges, separated

CUBE = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], float)
SIDES = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
CUBE_FACES = np.array([f for a, b, c, d in SIDES for f in ((a, b, c), (a, c, d))])


def joined(shift: tuple[float, float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Return two cubes as one mesh, with one vertex where both have a corner."""
    points = np.concatenate([CUBE, CUBE + shift])
    unique, index = np.unique(points, axis=0, return_inverse=True)
    return unique, index.reshape(-1)[np.concatenate([CUBE_FACES, CUBE_FACES + 8])]


def volume(vertices: np.ndarray, faces: np.ndarray) -> float:
    a, b, c = np.moveaxis(vertices[faces], 1, 0)
    return float(np.einsum("fi,fi->", a, np.cross(b, c)) / 6)


def test_cubes_that_share_an_edge_become_two() -> None:
    vertices, faces = joined((1, 1, 0))
    assert open_edges(faces) == (1, 35)
    apart, new_faces, source = separated(vertices, faces)
    assert open_edges(new_faces) == (0, 36) and len(new_faces) == 24 and len(apart) == 16
    assert np.abs(apart - vertices[source]).max() < 0.01
    # no place twice, and each solid on its own side of the edge x = y = 1
    assert len(np.unique(apart.round(9), axis=0)) == 16
    first = apart[new_faces[:12]].reshape(-1, 3)
    assert (first[:, 0] < 1 + 1e-9).all() and (first[:, 1] < 1 + 1e-9).all()
    assert abs(volume(apart, new_faces) - 2) < 0.01


def test_cubes_that_share_a_corner_become_two() -> None:
    vertices, faces = joined((1, 1, 1))
    apart, new_faces, _ = separated(vertices, faces)
    assert len(vertices) == 15 and len(apart) == 16 and open_edges(new_faces)[0] == 0


def test_the_wall_between_two_cubes_is_taken_out() -> None:
    vertices, faces = joined((1, 0, 0))
    # the wall's diagonals differ: the pairs of opposite faces are these only where they agree
    wall = (vertices[faces][:, :, 0] == 1).all(axis=1)
    assert wall.sum() == 4
    doubled = np.concatenate([faces[~wall], faces[wall][:2], faces[wall][:2][:, ::-1]])
    found = cancelled(doubled)
    assert len(found) == 20 and open_edges(found)[0] == 0
    assert abs(volume(vertices, found) - 2) < 1e-12


def test_equal_faces_of_one_side_are_kept_twice_and_degenerate_ones_go() -> None:
    faces = np.array([[0, 1, 2], [1, 2, 0], [0, 2, 1], [3, 3, 4], [2, 1, 3]])
    assert cancelled(faces).tolist() == [[0, 1, 2], [2, 1, 3]] or (
        np.sort(cancelled(faces)[0]).tolist() == [0, 1, 2]
    )
    twice = cancelled(np.array([[0, 1, 2], [2, 0, 1]]))
    assert twice.tolist() == [[0, 1, 2]] * 2


def test_a_sound_mesh_is_left_alone() -> None:
    vertices, faces, source = separated(CUBE, CUBE_FACES)
    assert (vertices == CUBE).all() and (faces == CUBE_FACES).all()
    assert source.tolist() == list(range(8))


def test_a_third_face_at_an_edge_stays_open() -> None:
    vertices = np.array([[0, 0, 0], [0, 0, 1], [1, 0, 0], [-1, 1, 0], [-1, -1, 0]], float)
    faces = np.array([[0, 1, 2], [1, 0, 3], [0, 1, 4]])
    _, found, _ = separated(vertices, faces)
    assert len(found) == 3 and max(np.unique(np.sort(found), axis=0, return_counts=True)[1]) == 1
    # one pair keeps its edge, the third face has it alone
    assert open_edges(found) == (7, 8)


def test_one_surface_that_runs_twice_through_an_edge() -> None:
    # four tents over one edge and round again: a pinched torus, made by merging two opposite edges
    ring = [(np.cos(a), np.sin(a)) for a in np.arange(6) * np.pi / 3]
    points = np.array([(x, y, z) for z in (0.0, 1.0) for x, y in ring])
    sides = [(i, (i + 1) % 6) for i in range(6)]
    faces = [f for i, j in sides for f in ((i, j, j + 6), (i, j + 6, i + 6))]
    faces += [(0, i + 1, i) for i in range(1, 5)] + [(6, i + 6, i + 7) for i in range(1, 5)]
    merged = np.arange(12)
    merged[[3, 9]] = [0, 6]
    pinched = cancelled(merged[np.array(faces)])
    assert open_edges(pinched)[0] > 0
    _, found, _ = separated(points, pinched)
    assert open_edges(found)[0] == 0
