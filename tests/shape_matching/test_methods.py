"""The table of methods: every one gives a correspondence, and the baselines do what they say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from helpers import bumpy_sphere, moved, permuted, rotation

from geo3d.config import load_config
from geo3d.mesh.mesh import Mesh
from geo3d.mesh.ops import normalized
from geo3d.spectral.fmap import nearest
from shape_matching.config import MatchConfig
from shape_matching.match import match
from shape_matching.methods import METHODS, match_nearest, match_zoomout

CONFIG = load_config(MatchConfig, preset="fast", overrides=["k_final=40", "starts=[frames]"])


def test_the_default_method_is_match() -> None:
    assert METHODS["axiomatic"] is match
    assert {"axiomatic", "zoomout", "nearest"} <= METHODS.keys()


LONG = {
    "zero-shot-proper",
    "zero-shot-released",
    "zero-shot",
    "optimised",
    "optimised-no-prior",
}
"""Eighty steps of optimisation each; "mask-only" shares their code; test_improve.py tests it."""


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in LONG else n for n in METHODS]
)
def test_every_method_maps_an_aligned_copy(name: str) -> None:
    source = bumpy_sphere(2)
    target, truth = permuted(moved(source, 2.0 * np.eye(3), 7.0))
    events: list[Mapping[str, Any]] = []
    found = METHODS[name](source, target, CONFIG, progress=events.append, device="cpu")
    assert np.array_equal(found.p2p_21, truth)
    assert np.array_equal(found.p2p_12, np.argsort(truth))
    assert found.confidence.min() > 0.9 and found.probability is not None


def test_nearest_uses_positions_and_nothing_else() -> None:
    source, target = bumpy_sphere(2), bumpy_sphere(2, seed=1)
    found = match_nearest(source, target, CONFIG)
    one, two = (torch.from_numpy(normalized(m).vertices.copy()) for m in (source, target))
    assert torch.equal(torch.from_numpy(found.p2p_21), nearest(two, one))
    assert found.fmap_12 is None and found.scores == {} and not found.ambiguous
    # turned shapes are beyond it
    turned, truth = permuted(moved(source, rotation(1)))
    wrong = match_nearest(source, turned, CONFIG)
    assert (wrong.p2p_21 == truth).mean() < 0.2


def test_nearest_takes_point_clouds() -> None:
    cloud = Mesh(bumpy_sphere(2).vertices, np.zeros((0, 3), np.int64))
    target, truth = permuted(cloud)
    found = match_nearest(cloud, target, CONFIG)
    assert np.array_equal(found.p2p_21, truth) and found.confidence.mean() > 0.5


def test_zoomout_starts_from_one_map() -> None:
    source = bumpy_sphere(2)
    target, truth = permuted(moved(source, rotation(1)))
    events: list[Mapping[str, Any]] = []
    found = match_zoomout(source, target, CONFIG, progress=events.append)
    assert np.array_equal(found.p2p_21, truth)
    kept = [e["metrics"]["kept"] for e in events if "kept" in e["metrics"]]
    assert kept and set(kept) == {1}
