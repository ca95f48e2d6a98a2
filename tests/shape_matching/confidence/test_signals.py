"""What a finished map tells about itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from geo3d.mesh.mesh import Mesh
from geo3d.synth.creatures import generate_creature, pose
from geo3d.synth.creatures.generate import Creature
from shape_matching.confidence import signals as module
from shape_matching.confidence.defects import Shape, cut, random_defects, seams, specks
from shape_matching.confidence.signals import KNOWN, LOCAL, WHOLE, Signals, signals
from shape_matching.correspondence import Correspondence


@pytest.fixture(scope="module")
def biped() -> Creature:
    return generate_creature("biped", 3, 1500)


@pytest.fixture(scope="module")
def pair(biped: Creature) -> tuple[Mesh, Mesh]:
    return pose(biped, 1), pose(biped, 2)


def seen(pair: tuple[Mesh, Mesh], p2p_21: np.ndarray, p2p_12: np.ndarray | None = None) -> Signals:
    back = p2p_21 if p2p_12 is None else p2p_12
    found = signals(Correspondence(*pair, p2p_21, back, None, np.ones(len(p2p_21))))
    assert found is not None
    return found


def column(found: Signals, name: str) -> np.ndarray:
    return found.local[:, LOCAL.index(name)]


def value(found: Signals, name: str) -> float:
    return float(found.whole[WHOLE.index(name)])


def test_a_right_map_shows_nothing(biped: Creature, pair: tuple[Mesh, Mesh]) -> None:
    found = seen(pair, np.arange(biped.rest.n_vertices))
    assert np.isfinite(found.local).all()
    known = np.isfinite(found.whole)
    assert [name for name, k in zip(WHOLE, known, strict=True) if not k] == [
        name for name in KNOWN if name != "pieces"
    ]
    assert column(found, "roundtrip").max() == 0
    assert np.median(column(found, "stretch")) < 0.1
    assert (column(found, "turned_over") > 0.5).mean() < 0.03
    assert value(found, "mirrored") == 0 and value(found, "one_sided") > 0.95


def test_a_mirrored_map_is_told_from_a_right_one(biped: Creature, pair: tuple[Mesh, Mesh]) -> None:
    found = seen(pair, biped.symmetry)
    assert value(found, "mirrored") == 1 and value(found, "one_sided") > 0.95


def test_exchanged_limbs_are_turned_over_where_they_are(
    biped: Creature, pair: tuple[Mesh, Mesh]
) -> None:
    owner = biped.weights.argmax(axis=1)
    head = np.isin(
        owner, [i for i, b in enumerate(biped.bones) if b.group in ("head", "ear", "snout")]
    )
    map_21 = np.where(head, biped.symmetry, np.arange(len(owner)))
    found = seen(pair, map_21)
    turned = column(found, "turned_over") > 0.5
    assert turned[head[found.samples]].mean() > 0.7
    assert turned[~head[found.samples]].mean() < 0.1
    everywhere = found.spread(pair[1], column(found, "turned_over"))
    assert everywhere.shape == (pair[1].n_vertices,)
    assert everywhere[head].mean() > 0.6 > 0.2 > everywhere[~head].mean()


def test_nonsense_shows_everywhere(pair: tuple[Mesh, Mesh]) -> None:
    order = np.random.default_rng(0).permutation(pair[0].n_vertices)
    found = seen(pair, order, np.argsort(order))
    assert np.median(column(found, "stretch")) > 0.3
    assert np.median(column(found, "roughness")) > 0.7


def test_position_rotation_and_unit_do_not_matter(biped: Creature, pair: tuple[Mesh, Mesh]) -> None:
    turn = Rotation.from_rotvec([0.3, -1.0, 2.0]).as_matrix()
    moved = tuple(
        replace(m, vertices=1000 * (m.vertices.astype(float) @ turn.T + [3.0, 0, -7])) for m in pair
    )
    ids = np.arange(biped.rest.n_vertices)
    one, two = seen(pair, ids), seen((moved[0], moved[1]), ids)
    np.testing.assert_array_equal(one.samples, two.samples)
    np.testing.assert_allclose(one.whole, two.whole, atol=1e-6)
    np.testing.assert_allclose(one.local, two.local, atol=1e-6)


def test_large_shapes_are_seen_through_clusters(
    biped: Creature, pair: tuple[Mesh, Mesh], monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = np.arange(biped.rest.n_vertices)
    exact = seen(pair, ids)
    monkeypatch.setattr(module, "MOST_VERTICES", 600)
    rough = seen(pair, ids)
    assert np.median(column(rough, "stretch")) < 0.12
    assert abs(value(rough, "size_change") - value(exact, "size_change")) < 0.05


def test_seams_are_no_gaps(biped: Creature, pair: tuple[Mesh, Mesh]) -> None:
    ids = np.arange(biped.rest.n_vertices)
    torn = [seams(Shape(m, ids), np.random.default_rng(i)) for i, m in enumerate(pair)]
    first = [np.unique(t.template_ids, return_index=True)[1] for t in torn]
    maps = first[0][torn[1].template_ids], first[1][torn[0].template_ids]
    found = seen((torn[0].mesh, torn[1].mesh), *maps)
    assert column(found, "roundtrip").max() == 0
    assert np.quantile(column(found, "stretch"), 0.9) < 0.15
    assert value(found, "open_source") == value(found, "open_target") == 0


def test_what_has_no_counterpart_is_left_aside(biped: Creature, pair: tuple[Mesh, Mesh]) -> None:
    ids = np.arange(biped.rest.n_vertices)
    inside = pair[1].vertices[:, 1] > np.median(pair[1].vertices[:, 1])
    found = Correspondence(*pair, np.where(inside, ids, -1), ids, None, np.ones(len(ids)))
    result = signals(found)
    assert result is not None and inside[result.samples].all()
    assert value(result, "left_target") == pytest.approx(0.5, abs=0.02)
    assert signals(replace(found, p2p_21=np.full(len(ids), -1))) is None


def test_defects_know_where_their_vertices_come_from(biped: Creature) -> None:
    shape = Shape(biped.rest, np.arange(biped.rest.n_vertices))
    for i, defect in enumerate((cut, seams, specks, random_defects, random_defects)):
        bad = defect(shape, np.random.default_rng(i))
        known = bad.template_ids >= 0
        assert known.mean() > 0.2
        if defect in (cut, seams, specks):
            np.testing.assert_array_equal(
                bad.mesh.vertices[known], biped.rest.vertices[bad.template_ids[known]]
            )
