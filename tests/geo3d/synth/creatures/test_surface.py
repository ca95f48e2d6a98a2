"""The skin of a skeleton: field, extraction, topology, symmetry."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import icosphere, torus

from geo3d.errors import NumericalError
from geo3d.mesh.mesh import Mesh
from geo3d.mesh.ops import face_cross
from geo3d.synth.creatures.skeleton import Bone, Plan, mirror_ids
from geo3d.synth.creatures.surface import (
    BLEND,
    capsule_distances,
    field_and_gradient,
    skin,
    topology_problem,
)

POST = Bone("post", -1, np.zeros(3), np.array([0.0, 1, 0]), (0.2, 0.2))


def test_capsule_distance_by_hand() -> None:
    points = np.array([[0.5, 0.5, 0], [0, 1.5, 0], [0, -1, 0], [0, 0.5, 0.1]])
    np.testing.assert_allclose(
        capsule_distances(points, [POST])[0], [0.3, 0.3, 0.8, -0.1], atol=1e-12
    )


def test_taper_and_flatness_by_hand() -> None:
    cone = Bone("cone", -1, np.zeros(3), np.array([0.0, 1, 0]), (0.2, 0.1), (2.0, 0.5))
    points = np.array([[0.3, 0.5, 0], [0, 0.5, 0.075], [0.4, 0, 0]])
    np.testing.assert_allclose(capsule_distances(points, [cone])[0], 0.0, atol=1e-12)


def test_the_union_of_two_equal_parts_is_a_little_larger() -> None:
    value, _ = field_and_gradient(np.array([[0.3, 0.5, 0.0]]), [POST, POST])
    assert value[0] == pytest.approx(0.1 - BLEND * np.log(2))


def test_gradient_equals_finite_differences() -> None:
    bones = [POST, Bone("b", 0, np.zeros(3), np.array([0.5, 0.4, 0.3]), (0.1, 0.05), (1.3, 0.7))]
    points = np.random.default_rng(0).uniform(-0.4, 0.8, (40, 3))
    _, gradient = field_and_gradient(points, bones)
    step = 1e-6
    for axis in range(3):
        shift = step * np.eye(3)[axis]
        up, _ = field_and_gradient(points + shift, bones)
        down, _ = field_and_gradient(points - shift, bones)
        np.testing.assert_allclose(gradient[:, axis], (up - down) / (2 * step), atol=1e-4)


def test_skin_of_a_capsule_has_its_area_and_volume() -> None:
    found = skin([POST], 2000)
    assert abs(found.mesh.n_vertices - 2000) < 200
    cross = face_cross(found.mesh)
    corner = found.mesh.vertices[found.mesh.faces[:, 0]]
    area, volume = np.linalg.norm(cross, axis=1).sum() / 2, (corner * cross).sum() / 6
    assert area == pytest.approx(2 * np.pi * 0.2 + 4 * np.pi * 0.04, rel=0.01)
    assert volume == pytest.approx(np.pi * 0.04 + 4 / 3 * np.pi * 0.008, rel=0.01)
    distances = capsule_distances(found.mesh.vertices, [POST])
    assert np.abs(distances).max() < 2e-3


def test_skin_is_symmetric_to_the_last_bit_and_has_good_triangles() -> None:
    plan = Plan()
    plan.add("trunk", "", (0, 0.5, 0), (0.15, 0.12), start=(0, 0, 0))
    plan.add("arm", "trunk", (0.4, 0.1, 0.1), (0.06, 0.05), start=(0.1, 0.4, 0), pair=True)
    found = skin(plan.bones, 1500)
    vertices, faces = found.mesh.vertices, found.mesh.faces
    np.testing.assert_array_equal(vertices[found.symmetry] * [-1, 1, 1], vertices)
    np.testing.assert_array_equal(found.symmetry[found.symmetry], np.arange(found.mesh.n_vertices))
    mirrored = np.sort(found.symmetry[faces], axis=1)
    assert {*map(tuple, mirrored)} == {*map(tuple, np.sort(faces, axis=1))}
    assert topology_problem(found.mesh) == ""
    sides = np.linalg.norm(vertices[faces] - vertices[faces[:, [1, 2, 0]]], axis=2)
    assert (sides.max(axis=1) / sides.min(axis=1)).max() < 5


def test_topology_problems_have_names() -> None:
    sphere = icosphere(1)
    assert topology_problem(sphere) == ""
    assert "1 handles" in topology_problem(torus(12, 8))
    assert "edges without" in topology_problem(Mesh(sphere.vertices, sphere.faces[1:]))
    two = Mesh(
        np.concatenate([sphere.vertices, sphere.vertices + 5]),
        np.concatenate([sphere.faces, sphere.faces + 42]),
    )
    assert "2 separate parts" in topology_problem(two)


def test_separate_parts_are_refused() -> None:
    far = Bone("far", 0, np.array([0.0, 3, 0]), np.array([0.0, 4, 0]), (0.2, 0.2))
    with pytest.raises(NumericalError, match=r"creature\.no_surface"):
        skin([POST, far], 1500)


def test_pairs_are_mirrored_and_hang_on_their_own_side() -> None:
    plan = Plan()
    plan.add("trunk", "", (0, 1, 0), (0.1, 0.1), start=(0, 0, 0))
    plan.add("arm", "trunk", (1, 0, 0.5), (0.1, 0.1), start=(0.2, 1, 0), pair=True)
    end = plan.add("hand", "arm", (1, 0, 0), (0.1, 0.1), pair=True)
    names = [bone.name for bone in plan.bones]
    assert names == ["trunk", "arm_left", "arm_right", "hand_left", "hand_right"]
    assert [bone.parent for bone in plan.bones] == [-1, 0, 0, 1, 2]
    np.testing.assert_allclose(end, [2.2, 1, 0.5])
    np.testing.assert_allclose(plan.bones[4].tail, [-2.2, 1, 0.5])
    assert mirror_ids(plan.bones).tolist() == [0, 2, 1, 4, 3]
    assert plan.bones[3].group == "hand"


def test_a_bones_frame_is_a_rotation_along_it() -> None:
    for tail in ([1.0, 0, 0], [0, 1.0, 0], [0.3, -0.4, 0.9]):
        frame = Bone("b", -1, np.zeros(3), np.array(tail), (1.0, 1.0)).frame()
        np.testing.assert_allclose(frame.T @ frame, np.eye(3), atol=1e-12)
        np.testing.assert_allclose(frame[:, 2], np.array(tail) / np.linalg.norm(tail))
        assert np.linalg.det(frame) == pytest.approx(1)
