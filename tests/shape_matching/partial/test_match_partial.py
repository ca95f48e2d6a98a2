"""Pieces matched end to end: cut halves of creatures in other poses, given maps, landmarks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from helpers import icosphere

from geo3d.config import load_config
from geo3d.errors import InputError
from geo3d.mesh.geodesic import HeatSolver
from geo3d.mesh.mesh import Mesh
from geo3d.mesh.ops import total_area, vertex_areas
from geo3d.synth.creatures import generate_creature, pose
from geo3d.synth.pieces import Piece, cut_by_plane, turned
from shape_matching.config import MatchConfig
from shape_matching.correspondence import Correspondence
from shape_matching.match import match
from shape_matching.partial import isometry
from shape_matching.partial import match_partial as module
from shape_matching.partial.match_partial import looks_partial, wants_partial

FAST = load_config(MatchConfig, preset="fast")


@pytest.fixture(autouse=True, scope="module")
def small() -> Iterator[None]:
    """Search less, on fewer vertices."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(isometry, "WIDTH", 600)
        patch.setattr(module, "FINALISTS", 5)
        patch.setattr(module, "VERTICES", 1000)
        patch.setattr(module, "SAMPLES_1", 150)
        patch.setattr(module, "SAMPLES_2", 60)
        yield


@pytest.fixture(scope="module")
def pair() -> tuple[Mesh, Mesh, np.ndarray]:
    """Return a creature, half of it in another pose and place, and the vertices of the half."""
    creature = generate_creature("biped", 0, 1500)
    rng = np.random.default_rng(1)
    piece: Piece = cut_by_plane(pose(creature, 2, 0.4), 0.5, rng)
    return pose(creature, 1, 0.4), turned(piece.mesh, rng), piece.vertex_ids


def error(mesh: Mesh, images: np.ndarray, truth: np.ndarray) -> float:
    some = np.linspace(0, len(truth) - 1, 100).astype(int)
    rows = HeatSolver(mesh).distances(truth[some])
    found = rows[np.arange(len(some)), images[some]]
    return 100 * float(found.mean()) / total_area(mesh) ** 0.5


def overlap(mesh: Mesh, found: np.ndarray, ids: np.ndarray) -> float:
    true = np.isin(np.arange(mesh.n_vertices), ids)
    areas = vertex_areas(mesh)
    return float(areas[found & true].sum() / areas[found | true].sum())


@pytest.fixture(scope="module")
def found(pair: tuple[Mesh, Mesh, np.ndarray]) -> Correspondence:
    return match(pair[0], pair[1], FAST, device="cpu")


def test_a_half_is_found_on_the_whole(
    pair: tuple[Mesh, Mesh, np.ndarray], found: Correspondence
) -> None:
    """A plane cuts it off (case `half_body`)."""
    source, target, ids = pair
    assert looks_partial(source, target)
    assert found.overlap_1 is not None and found.overlap_2 is not None
    assert found.overlap_2.all() and (found.p2p_21 >= 0).all()
    assert error(source, found.p2p_21, ids) < 5
    assert overlap(source, found.overlap_1, ids) > 0.8
    assert (found.p2p_12[~found.overlap_1] == -1).all()
    assert any("have a counterpart" in note for note in found.notes)


def test_what_has_no_counterpart_gets_nothing(
    pair: tuple[Mesh, Mesh, np.ndarray], found: Correspondence
) -> None:
    source, target, _ = pair
    back = match(target, source, FAST, device="cpu")
    assert back.overlap_2 is not None and not back.overlap_2.all()
    carried = back.transfer(np.ones(target.n_vertices))
    assert np.isnan(carried[~back.overlap_2]).all() and (carried[back.overlap_2] == 1).all()
    assert (back.confidence[~back.overlap_2] == 0).all()
    assert np.array_equal(back.p2p_21, found.p2p_12)


def test_a_true_map_is_kept(pair: tuple[Mesh, Mesh, np.ndarray]) -> None:
    source, target, ids = pair
    kept = match(source, target, FAST, device="cpu", initial_map=ids)
    assert np.array_equal(kept.p2p_21, ids)


def test_landmarks_hold_exactly(pair: tuple[Mesh, Mesh, np.ndarray]) -> None:
    source, target, ids = pair
    rows = np.linspace(0, len(ids) - 1, 5).astype(int)
    landmarks = np.stack([ids[rows], rows], axis=1)
    led = match(source, target, FAST, device="cpu", landmarks=landmarks)
    assert np.array_equal(led.p2p_21[rows], ids[rows])
    assert error(source, led.p2p_21, ids) < 5


def test_what_is_taken_for_pieces() -> None:
    whole = icosphere(3)
    half = cut_by_plane(whole, 0.5, np.random.default_rng(0)).mesh
    nearly = cut_by_plane(whole, 0.95, np.random.default_rng(0)).mesh
    cloud = Mesh(whole.vertices, np.zeros((0, 3), np.int64))
    other_unit = replace(half, vertices=half.vertices * 1000)
    assert looks_partial(whole, half) and looks_partial(half, whole)
    for other in (whole, nearly, cloud, other_unit):
        assert not looks_partial(whole, other)
    assert wants_partial(whole, nearly, "yes") and not wants_partial(whole, half, "no")
    with pytest.raises(InputError, match=r"match\.partial_cloud"):
        wants_partial(whole, cloud, "yes")
