"""Random combinations of defects: the pairs, their truth, the outcomes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from apps.bench import fuzz
from geo3d.errors import InputError
from geo3d.mesh.mesh import Mesh
from geo3d.synth.creatures import generate_creature
from shape_matching.confidence.defects import Shape
from shape_matching.correspondence import Correspondence


def plain() -> Shape:
    mesh = generate_creature("biped", 1, 1500).rest
    return Shape(mesh, np.arange(mesh.n_vertices))


def test_a_pair_is_the_same_every_time_and_has_its_truth() -> None:
    config = fuzz.FuzzConfig()
    one, again = fuzz.fuzz_pair(config, 3), fuzz.fuzz_pair(config, 3)
    assert one.done == again.done
    assert (one.source.vertices == again.source.vertices).all()
    assert (one.truth == again.truth).all() and len(one.truth) == one.target.n_vertices
    assert one.truth.max() < one.source.n_vertices and (one.truth >= 0).any()
    assert one.unit > 0


def test_doubled_corners_show_what_they_showed() -> None:
    shape = plain()
    found = fuzz.doubled(shape, np.random.default_rng(0))
    assert found.mesh.n_faces == shape.mesh.n_faces
    assert found.mesh.n_vertices > shape.mesh.n_vertices
    same = shape.mesh.vertices[found.template_ids]
    assert (found.mesh.vertices == same).all()
    assert (found.template_ids[found.mesh.faces] == shape.mesh.faces).all()


def test_turning_keeps_shape_and_changes_size() -> None:
    shape = plain()
    found = fuzz.moved(shape, np.random.default_rng(0), 100.0)
    gaps = [
        np.linalg.norm(s.mesh.vertices[1:] - s.mesh.vertices[:-1], axis=1) for s in (found, shape)
    ]
    assert np.allclose(gaps[0], 100 * gaps[1])


@pytest.mark.parametrize(
    ("right", "probability", "outcome"),
    [
        (True, 0.9, "right"),
        (True, 0.1, "right, doubted"),
        (False, 0.1, "wrong, doubted"),
        (False, 0.9, "confidently wrong"),
        (False, None, "refused"),
    ],
)
def test_outcomes(
    right: bool,
    probability: float | None,
    outcome: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shape = plain()
    truth = np.arange(shape.mesh.n_vertices)
    pair = fuzz.FuzzPair(shape.mesh, shape.mesh, truth, 1.0, ("nothing",))
    monkeypatch.setattr(fuzz, "fuzz_pair", lambda config, number: pair)

    def matched(source: Mesh, target: Mesh, *_: object, **__: object) -> Correspondence:
        if probability is None:
            raise InputError("mesh.bad", "no", "no")
        p2p = truth if right else np.zeros_like(truth)
        ones = np.ones(len(truth))
        return Correspondence(source, target, p2p, p2p, None, ones, probability=probability)

    monkeypatch.setattr(fuzz, "match", matched)
    rows = fuzz.bench_fuzz(tmp_path, fuzz.FuzzConfig(pairs=1))
    assert {row["outcome"]: row["pairs"] for row in rows}[outcome] == 1
    assert sum(row["pairs"] for row in rows) == 1
    monkeypatch.setattr(fuzz, "match", None)
    more = fuzz.bench_fuzz(tmp_path, fuzz.FuzzConfig(pairs=1))
    assert more == rows
