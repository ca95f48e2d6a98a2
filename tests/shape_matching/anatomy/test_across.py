"""Maps by places, between a quadruped and a bird."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

from geo3d.synth.creatures import generate_creature, pose
from geo3d.synth.creatures.kinship import counterparts
from shape_matching.anatomy import across
from shape_matching.anatomy.across import far_from_isometric, with_places
from shape_matching.anatomy.network import ANATOMY, Anatomy, AnatomyConfig
from shape_matching.config import MatchConfig
from shape_matching.match import match
from shape_matching.search.choice import Choice
from shape_matching.search.prepare import Prepared, prepare


@cache
def pair() -> tuple[Prepared, Prepared, np.ndarray]:
    """Return both shapes and the true map."""
    dog, crow = generate_creature("quadruped", 322, 1500), generate_creature("bird", 341, 1500)
    truth = counterparts(dog, crow)
    one, two = (
        prepare(pose(creature, 1, 0.3), 100, 600, "auto", torch.device("cpu"), False)
        for creature in (dog, crow)
    )
    return one, two, truth


def error(p2p_21: Tensor) -> float:
    """Return the mean straight distance to the truth x100, on shapes of unit area."""
    one, _, truth = pair()
    known = truth >= 0
    gap = one.mesh.vertices[p2p_21.numpy()[known]] - one.mesh.vertices[truth[known]]
    return 100 * float(np.linalg.norm(gap, axis=1).mean())


def searched(p2p_21: np.ndarray, rank: float = 0.0) -> Choice:
    scores = {"residual": 30.0, "orientation": 0.5}
    return Choice(torch.eye(40), torch.from_numpy(p2p_21), rank, scores)


def test_a_wrong_map_gives_way_to_one_by_places() -> None:
    one, two, truth = pair()
    wrong = searched(np.roll(np.resize(np.arange(one.mesh.n_vertices), len(truth)), 700))
    found = with_places([wrong], one, two, None, ANATOMY.load())
    assert len(found) == 3 and found[2] is wrong
    assert error(wrong.p2p_21) > 25
    assert error(found[0].p2p_21) < 7
    assert found[0].scores["orientation"] > 0 > found[1].scores["orientation"]
    assert found[0].p2p_12 is not None and len(found[0].p2p_12) == one.mesh.n_vertices


def test_a_right_map_stays_and_is_preferred_to_a_wrong_one() -> None:
    one, two, _ = pair()
    network = ANATOMY.load()
    wrong = searched(np.zeros(two.mesh.n_vertices, np.int64))
    right = with_places([wrong], one, two, None, network)[0]
    as_found = Choice(right.fmap_12, right.p2p_21, 0.0, right.scores)
    assert with_places([as_found], one, two, None, network) == [as_found]
    assert with_places([wrong, as_found], one, two, None, network)[:2] == [as_found, wrong]


def test_places_that_are_not_sure_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two, _ = pair()
    wrong = searched(np.zeros(two.mesh.n_vertices, np.int64))
    blind = Anatomy(AnatomyConfig(), torch.Generator().manual_seed(0))
    monkeypatch.setattr(across, "SURE", 1e-6)
    assert with_places([wrong], one, two, None, blind) == [wrong]
    many = Anatomy(AnatomyConfig(points=900, eigenpairs=300), torch.Generator().manual_seed(0))
    assert with_places([wrong], one, two, None, many) == [wrong]


def test_what_is_far_from_isometric() -> None:
    assert far_from_isometric(searched(np.zeros(3, np.int64)))
    near = Choice(torch.eye(144), torch.zeros(3, dtype=torch.long), 0.0, {"residual": 20.0})
    assert not far_from_isometric(near)


def test_landmarks_are_obeyed_across_kinds_without_a_remark_on_mirrors() -> None:
    one, two, truth = pair()
    known = np.flatnonzero(truth >= 0)
    some = known[np.linspace(0, len(known) - 1, 4).astype(int)]
    landmarks = np.stack([truth[some], some], axis=1)
    config = MatchConfig(kinds="yes", cache=False)
    found = match(one.mesh, two.mesh, config, landmarks=landmarks)
    assert (found.p2p_21[some] == truth[some]).all()
    assert error(torch.from_numpy(found.p2p_21)) < 9
    assert not any("mirror image" in note for note in found.notes)
    assert any("where on a body" in note for note in found.notes)
