"""Pairs of different bodies: their truth, the rows, what is kept."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from apps.bench import kinds
from geo3d.mesh.mesh import Mesh
from geo3d.synth.creatures import generate_creature
from geo3d.synth.creatures.kinship import counterparts
from shape_matching.correspondence import Correspondence


def test_truth_of_a_pair_is_without_error() -> None:
    pair = kinds.creature_pair("biped", "quadruped", 300, 1500)
    assert pair.truth.shape == (pair.target.n_vertices,)
    known = pair.truth >= 0
    assert 0.5 < known.mean() < 1
    assert kinds.error_of(pair, pair.truth.clip(min=0)) < 0.1
    assert kinds.error_of(pair, np.zeros(len(pair.truth), np.int64)) > 20
    marks = kinds.landmarks(pair, 3)
    assert (pair.truth[marks[:, 1]] == marks[:, 0]).all() and len(set(marks[:, 1])) == 3


def test_a_standing_person_has_the_parts_of_a_biped() -> None:
    # a biped in the place of a scanned person: as high, and looking the same way
    biped = generate_creature("biped", 300, 1500)
    person = kinds.standing_person(Mesh(100 * biped.rest.vertices + 7, biped.rest.faces))
    names = [bone.name for bone in person.bones]
    owner = person.weights.argmax(axis=1)
    points = person.rest.vertices
    assert points[:, 1].min() == 0 and points[:, 1].max() == 1
    assert points[owner == names.index("head"), 1].min() > 0.8
    assert points[owner == names.index("foot_left"), 1].max() < 0.15
    assert (points[owner == names.index("hand_left"), 0] > 0.1).all()
    found = counterparts(person, biped)
    gap = np.linalg.norm(biped.rest.vertices[found.clip(min=0)] - biped.rest.vertices, axis=1)
    assert np.median(gap[found >= 0]) < 0.1


def test_rows_are_means_of_groups_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def perfect(source: Mesh, target: Mesh, *_: object, **__: object) -> Correspondence:
        calls.append(len(calls))
        truth = kinds.creature_pair("bird", "biped", 1, 1500).truth
        wrong = truth.clip(min=0) if len(calls) == 1 else np.zeros(len(truth), np.int64)
        none = np.zeros(source.n_vertices, np.int64)
        confidence = np.ones(len(truth))
        return Correspondence(source, target, wrong, none, None, confidence, probability=0.9)

    monkeypatch.setattr(kinds, "match", perfect)
    items = [lambda: kinds.creature_pair("bird", "biped", 1, 1500)] * 2
    config = kinds.KindsConfig()
    for _ in range(2):
        rows = kinds._bench(tmp_path, config, items, lambda *_, **__: None)
    assert len(calls) == 2
    assert [row["pairs"] for row in rows] == [2, 2]
    assert rows[-1]["wrong"] == 1 and rows[-1]["wrong_flagged"] == 0
    first = json.loads((tmp_path / "000.json").read_text())
    assert first["error"] < 0.1 and first["probability"] == 0.9


def test_tuning_and_test_pairs_have_seeds_of_their_own() -> None:
    config = kinds.KindsConfig(each=10)
    assert len(kinds.pairs(config, kinds.TUNE, ())) == 10 * len(kinds.BODIES)
    last = kinds.TUNE + 20 * len(kinds.BODIES) + len(kinds.TUNE_PEOPLE)
    assert last < kinds.TEST
    assert not set(kinds.TUNE_PEOPLE) & set(kinds.TEST_PEOPLE)
