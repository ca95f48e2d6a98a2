"""Maps and descriptors of other programs become vertex maps, whatever their unit."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from helpers import bumpy_sphere, moved, permuted, rotation

from geo3d.errors import InputError
from geo3d.mesh.mesh import Mesh
from geo3d.mesh.ops import normalized
from geo3d.spectral.basis import Basis, eigenbasis
from geo3d.spectral.fmap import p2p_to_fmap
from shape_matching.starts import FunctionalStart, start_p2p


@functools.cache
def pair() -> tuple[Mesh, Mesh, np.ndarray]:
    mesh = bumpy_sphere(2)
    copy, order = permuted(moved(mesh, 5 * rotation(1)), seed=3)
    return mesh, copy, order


def bases(own_units: bool) -> tuple[Basis, Basis]:
    one, two, _ = pair()
    ready = (one, two) if own_units else (normalized(one), normalized(two))
    first, second = (eigenbasis(mesh, 40) for mesh in ready)
    return first, second


@pytest.mark.parametrize("own_units", [True, False])
def test_a_functional_map_becomes_its_vertex_map(own_units: bool) -> None:
    one, two, truth = pair()
    used = bases(own_units)
    fmap_12 = p2p_to_fmap(torch.from_numpy(truth), *used)
    found = start_p2p(FunctionalStart(fmap_12.numpy(), bases=used), one, two)
    assert (found == truth).all()
    if not own_units:
        assert (start_p2p(FunctionalStart(fmap_12), one, two) == truth).all()


@pytest.mark.parametrize("own_units", [True, False])
def test_descriptors_that_correspond_give_their_map(own_units: bool) -> None:
    one, two, truth = pair()
    first = np.concatenate([normalized(one).vertices, normalized(one).vertices ** 2], axis=1)
    start = FunctionalStart(descriptors=(first, first[truth]), bases=bases(own_units))
    found = start_p2p(start, one, two)
    gap = np.linalg.norm(one.vertices[found] - one.vertices[truth], axis=1)
    assert gap.mean() < 0.1 * np.ptp(one.vertices)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"fmap_12": np.eye(4), "descriptors": (np.ones((162, 2)), np.ones((162, 2)))},
        {"fmap_12": np.eye(50), "bases": "small"},
        {"fmap_12": np.full((4, 4), np.nan)},
        {"fmap_12": np.ones(4)},
        {"descriptors": (np.ones((162, 2)), np.ones((161, 2)))},
        {"descriptors": (np.ones((162, 2)), np.ones((162, 3)))},
        {"descriptors": (np.zeros((162, 2)), np.zeros((162, 2)))},
        {"fmap_12": np.eye(4), "bases": "other"},
    ],
)
def test_what_does_not_fit_is_refused(given: dict[str, Any]) -> None:
    one, two, _ = pair()
    if given.get("bases") == "small":
        given = {**given, "bases": bases(False)}
    elif given.get("bases") == "other":
        given = {**given, "bases": (eigenbasis(bumpy_sphere(1), 5), bases(False)[1])}
    with pytest.raises(InputError) as caught:
        start_p2p(FunctionalStart(**given), one, two)
    assert caught.value.code == "match.bad_start"
