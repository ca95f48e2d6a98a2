"""Whole creatures: sound, reproducible, with true correspondences."""

from __future__ import annotations

import numpy as np
import pytest

from geo3d.errors import ConfigError, InputError
from geo3d.mesh.geodesic import HeatSolver
from geo3d.mesh.intersect import self_intersecting_pairs
from geo3d.mesh.mesh import Mesh
from geo3d.mesh.ops import face_cross, total_area
from geo3d.synth.creatures import (
    KINDS,
    Creature,
    generate_creature,
    pose,
    remeshed,
    vary_proportions,
)
from geo3d.synth.creatures.surface import topology_problem


@pytest.fixture(scope="module")
def horse() -> Creature:
    return generate_creature("quadruped", 3, 2000)


def signed_volume(mesh: Mesh) -> float:
    return float((mesh.vertices[mesh.faces[:, 0]] * face_cross(mesh)).sum() / 6)


def check_sound(creature: Creature, n_vertices: int) -> None:
    rest = creature.rest
    assert topology_problem(rest) == ""
    assert signed_volume(rest) > 0
    assert 0.8 * n_vertices < rest.n_vertices < 1.35 * n_vertices
    assert len(self_intersecting_pairs(rest.vertices, rest.faces)[0]) == 0
    np.testing.assert_allclose(creature.weights.sum(axis=1), 1.0)
    np.testing.assert_array_equal(
        rest.vertices[creature.symmetry] * [-1.0, 1.0, 1.0], rest.vertices
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(4))
def test_every_creature_is_one_closed_symmetric_surface(kind: str, seed: int) -> None:
    creature = generate_creature(kind, seed, 2000)
    check_sound(creature, 2000)
    posed = pose(creature, seed)
    assert np.abs(posed.vertices - creature.rest.vertices).max() > 0.05
    hits, _ = self_intersecting_pairs(posed.vertices, posed.faces)
    assert len(hits) <= 20


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_two_hundred_seeds(kind: str) -> None:
    crossing = []
    for seed in range(200):
        creature = generate_creature(kind, seed)
        check_sound(creature, 3000)
        posed = pose(creature, seed)
        crossing.append(len(self_intersecting_pairs(posed.vertices, posed.faces)[0]))
    assert np.mean(np.array(crossing) > 20) <= 0.02


def test_the_same_seed_gives_the_same_creature_and_pose(horse: Creature) -> None:
    again = generate_creature("quadruped", 3, 2000)
    assert again.rest.content_hash() == horse.rest.content_hash()
    assert pose(again, 5).content_hash() == pose(horse, 5).content_hash()
    assert pose(again, 6).content_hash() != pose(horse, 5).content_hash()
    other = generate_creature("quadruped", 4, 2000)
    assert other.rest.content_hash() != horse.rest.content_hash()


def test_the_seed_decides_the_skeleton_whatever_the_resolution(horse: Creature) -> None:
    finer = generate_creature("quadruped", 3, 3000)
    assert finer.rest.n_vertices > 1.3 * horse.rest.n_vertices
    np.testing.assert_array_equal(
        [bone.tail for bone in finer.bones], [bone.tail for bone in horse.bones]
    )


def test_poses_keep_faces_and_bend_without_stretching_much(horse: Creature) -> None:
    posed = pose(horse, 1)
    np.testing.assert_array_equal(posed.faces, horse.rest.faces)
    assert total_area(posed) == pytest.approx(total_area(horse.rest), rel=0.05)
    sources = [0, horse.rest.n_vertices // 2]
    before = HeatSolver(horse.rest).distances(sources)
    after = HeatSolver(posed).distances(sources)
    assert np.abs(after - before).mean() < 0.06 * before.mean()


def test_no_amplitude_is_the_rest_pose(horse: Creature) -> None:
    np.testing.assert_allclose(pose(horse, 1, 0.0).vertices, horse.rest.vertices, atol=1e-12)
    np.testing.assert_allclose(
        vary_proportions(horse, 1, 0.0).rest.vertices, horse.rest.vertices, atol=1e-12
    )


def test_relatives_stay_symmetric_and_can_be_posed(horse: Creature) -> None:
    cousin = vary_proportions(horse, 2, 0.2)
    rest = cousin.rest
    np.testing.assert_allclose(
        rest.vertices[cousin.symmetry] * [-1.0, 1.0, 1.0], rest.vertices, atol=1e-9
    )
    assert np.abs(rest.vertices - horse.rest.vertices).max() > 0.03
    assert signed_volume(rest) > 0
    assert topology_problem(pose(cousin, 3)) == ""


def test_remeshing_keeps_the_shape_and_knows_every_vertex(horse: Creature) -> None:
    posed = pose(horse, 4)
    found = remeshed(horse, posed, 1500, seed=0)
    assert abs(found.mesh.n_vertices - 1500) <= 75
    assert topology_problem(found.mesh) == ""
    assert total_area(found.mesh) == pytest.approx(total_area(posed), rel=0.02)
    corners = posed.vertices[posed.faces[found.face_ids]]
    place = np.einsum("nc,ncd->nd", found.barycentric, corners)
    spacing = np.sqrt(total_area(posed) / posed.n_vertices)
    assert np.linalg.norm(place - found.mesh.vertices, axis=1).max() < 0.5 * spacing
    for here, there in (
        (found.mesh.vertices, posed.vertices[found.template_ids]),
        (posed.vertices, found.mesh.vertices[found.vertex_ids]),
    ):
        assert np.linalg.norm(here - there, axis=1).max() < 4 * spacing
    # the new vertices are not a subset of the old ones
    assert np.mean(found.barycentric.max(axis=1) > 0.999) < 0.05


def test_remeshing_is_reproducible_and_depends_on_the_seed(horse: Creature) -> None:
    posed = pose(horse, 4)
    first = remeshed(horse, posed, 1000, seed=0)
    assert remeshed(horse, posed, 1000, seed=0).mesh.content_hash() == first.mesh.content_hash()
    assert remeshed(horse, posed, 1000, seed=1).mesh.content_hash() != first.mesh.content_hash()


def test_errors(horse: Creature) -> None:
    with pytest.raises(ConfigError, match=r"creature\.unknown_kind"):
        generate_creature("dragon", 0)
    with pytest.raises(InputError, match=r"creature\.too_few_vertices"):
        generate_creature("bird", 0, 100)
    with pytest.raises(InputError, match=r"creature\.bad_amplitude"):
        pose(horse, 0, -1.0)
    with pytest.raises(InputError, match=r"creature\.bad_amount"):
        vary_proportions(horse, 0, 2.0)
