"""Parts find their counterparts, and maps come back in the order of the files."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from helpers import bumpy_sphere, icosphere, moved, permuted, rotation

from geo3d.config import load_config
from geo3d.errors import InputError
from geo3d.mesh.mesh import Mesh
from shape_matching.config import MatchConfig
from shape_matching.correspondence import Correspondence
from shape_matching.match import match
from shape_matching.search.parts import follow

FAST = replace(load_config(MatchConfig, preset="fast"), k_final=40, starts=("wks",))
BODY, OTHER = bumpy_sphere(2), bumpy_sphere(2, seed=7)
TURN = rotation(4)


def joined(*meshes: Mesh) -> Mesh:
    """Return the meshes side by side as one."""
    starts = np.cumsum([0, *(mesh.n_vertices for mesh in meshes)])
    vertices = np.concatenate([mesh.vertices for mesh in meshes])
    faces = [mesh.faces + start for mesh, start in zip(meshes, starts, strict=False)]
    return Mesh(vertices, np.concatenate(faces), name="joined")


def placed(mesh: Mesh, size: float, *place: float) -> Mesh:
    return moved(mesh, size * np.eye(3), np.array(place))


def run(source: Mesh, target: Mesh, **known: np.ndarray) -> Correspondence:
    found = match(source, target, FAST, device="cpu", **known)
    assert found.source is source and found.target is target
    assert found.p2p_21.shape == found.confidence.shape == (target.n_vertices,)
    assert found.p2p_12.shape == (source.n_vertices,)
    assert 0 <= found.p2p_21.min() and found.p2p_21.max() < source.n_vertices
    assert 0 <= found.p2p_12.min() and found.p2p_12.max() < target.n_vertices
    return found


SPECKS = [placed(icosphere(0), 0.05, x, 2.5, 0) for x in (-2.0, 0, 2)]


@pytest.mark.parametrize("side", ["source", "target", "both"])
def test_specks_change_nothing_of_the_body(side: str) -> None:
    """The largest part is matched as if alone (case `stray_triangle`)."""
    plain, order = permuted(moved(BODY, TURN), seed=3)
    source = joined(*SPECKS, BODY) if side != "target" else BODY
    target = joined(plain, *SPECKS[:2]) if side != "source" else plain
    start = 36 if side != "target" else 0
    n = plain.n_vertices
    found, clean = run(source, target), run(BODY, plain)
    np.testing.assert_array_equal(found.p2p_21[:n] - start, clean.p2p_21)
    np.testing.assert_array_equal(found.p2p_12[start : start + n], clean.p2p_12)
    assert (found.confidence[:n] > 0.6 * clean.confidence).all()
    assert (found.p2p_21[:n] - start == order).mean() > 0.95
    if side == "target":
        assert (found.confidence[n:] == 0).all() and (clean.confidence > 0).all()
        assert "24 target vertices without counterpart take the map" in found.notes[-1]


def test_doubled_vertices_share_the_map_and_the_confidence() -> None:
    """As texture charts and flat shading double them (case `atlas20_glb`)."""
    plain = moved(BODY, TURN)
    corners = plain.faces.ravel()
    flat = Mesh(plain.vertices[corners], np.arange(len(corners)).reshape(-1, 3))
    found, clean = run(BODY, flat), run(BODY, plain)
    assert (BODY.vertices[found.p2p_21] == BODY.vertices[clean.p2p_21][corners]).all(1).mean() > 0.9
    assert found.confidence.min() > 0.3
    assert len(found.notes) == 1 and "doubled along seams" in found.notes[0]


def test_eyes_follow_the_head() -> None:
    eyes = [placed(bumpy_sphere(1, seed), 0.1, *at) for seed, at in enumerate(
        ((0.5, 0.4, 0.3), (-0.5, 0.4, 0.3)))]  # fmt: skip
    source = joined(BODY, *eyes)
    target, order = permuted(moved(joined(eyes[1], BODY, eyes[0]), 3 * TURN, 5.0), seed=1)
    truth = np.r_[204 + np.arange(42), np.arange(162), 162 + np.arange(42)][order]
    found = run(source, target)
    inside = truth >= 162
    part = (found.p2p_21 - 162) // 42
    assert (part[inside] == (truth[inside] - 162) // 42).all()
    assert (found.p2p_21[inside] == truth[inside]).mean() > 0.9
    assert found.confidence[inside].mean() > 0.8
    assert "2 further parts were matched, each with its counterpart." in found.notes


def test_two_bodies_apart_are_told_apart_by_their_spectra() -> None:
    source = joined(BODY, placed(OTHER, 1.02, 9, 0, 0))
    target = joined(placed(moved(OTHER, TURN), 1.01, 0, 0, 0), placed(BODY, 1.0, 0, 9, 0))
    n = BODY.n_vertices
    found = run(source, target)
    truth = np.r_[n + np.arange(n), np.arange(n)]
    assert (found.p2p_21 == truth).mean() > 0.95
    assert found.confidence.min() > 0


def test_the_one_body_of_the_source_is_found_beside_a_larger_one() -> None:
    target = joined(placed(OTHER, 1.3, 9, 0, 0), moved(BODY, TURN))
    n = BODY.n_vertices
    found = run(BODY, target)
    assert (found.p2p_21[n:] == np.arange(n)).mean() > 0.95
    assert (found.confidence[:n] == 0).all()


def test_landmarks_and_maps_choose_among_bodies_of_equal_size() -> None:
    target = joined(BODY, placed(moved(BODY, TURN), 1.0, 9, 0, 0))
    n = BODY.n_vertices
    marks = np.arange(0, n, 20)
    found = run(BODY, target, landmarks=np.stack([marks, n + marks], axis=1))
    assert (found.p2p_21[n:] == np.arange(n)).mean() > 0.95 and (found.confidence[:n] == 0).all()
    speckled = joined(BODY, *SPECKS)
    given = np.r_[np.full(n, n + 3), np.arange(n)]
    found = run(speckled, target, initial_map=given)
    assert (found.p2p_21[n:] == np.arange(n)).mean() > 0.95


def test_landmarks_beside_the_matched_parts_are_refused_when_too_few_remain() -> None:
    target = joined(BODY, *SPECKS)
    marks = np.array([[0, 0], [1, 1], [2, BODY.n_vertices + 1]])
    with pytest.raises(InputError) as caught:
        run(BODY, target, landmarks=marks)
    assert caught.value.code == "landmarks.bad" and "2 of 3" in str(caught.value)


def test_outliers_of_a_cloud_take_their_neighbours_map() -> None:
    """They do not pull the map (case `cloud_outliers`)."""
    body = bumpy_sphere(3)
    cloud = Mesh(body.vertices, np.zeros((0, 3), np.int64), name="cloud")
    far = Mesh(np.concatenate([cloud.vertices, 5 * rotation(2)]), cloud.faces, name="far")
    found, clean = run(cloud, far), run(cloud, cloud)
    np.testing.assert_array_equal(found.p2p_21[:-3], clean.p2p_21)
    assert (found.confidence[-3:] == 0).all() and found.notes[0].startswith("far: set aside 3")


@pytest.mark.parametrize("mirrored", [False, True])
def test_followers_move_with_a_similarity(mirrored: bool) -> None:
    rng = np.random.default_rng(0)
    start, points = rng.standard_normal((40, 3)), rng.standard_normal((7, 3))
    matrix = 2.5 * rotation(1) @ np.diag([1, 1, -1 if mirrored else 1])
    moved_points = follow(points, start, start @ matrix.T + 3.0, mirrored)
    np.testing.assert_allclose(moved_points, points @ matrix.T + 3.0, atol=1e-10)
