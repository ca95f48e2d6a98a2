"""Intervals of distances, and the search for maps that keep them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import bumpy_sphere

from geo3d.mesh.mesh import Mesh
from geo3d.mesh.ops import total_area
from geo3d.synth.pieces import cut_by_plane
from shape_matching.partial import isometry
from shape_matching.partial.isometry import MOST, SLACK, SOFT, STRETCH, beam, laterate, violation
from shape_matching.partial.surface import FAR, border_distance, surface_of


def cost(*ends: float) -> float:
    return float(violation(*(torch.tensor(x) for x in ends)))


def test_violation_by_hand() -> None:
    scale = SLACK + STRETCH * 0.4
    assert cost(0.4, 0.4, 0.4, 0.4) == 0
    assert cost(0.5, 0.5, 0.4, 0.4) == pytest.approx((0.1 / scale) ** 2)
    # a path of 0.5 around a cut, 0.4 on the whole: only a little
    assert cost(0.5, 0.2, 0.4, 0.4) == pytest.approx((SOFT * 0.1 / scale) ** 2, rel=1e-5)
    assert cost(3.0, 3.0, 0.4, 0.4) == MOST
    # no path on the piece: at least as far as over both borders
    assert cost(FAR, 0.2, 0.4, 0.4) == 0
    assert cost(FAR, 0.9, 0.4, 0.4) == MOST


def test_distance_to_the_border() -> None:
    strip = Mesh(
        np.array([[x, y, 0.0] for x in range(5) for y in range(5)]),
        np.array(
            [
                f
                for x in range(4)
                for y in range(4)
                for a in [5 * x + y]
                for f in ([a, a + 5, a + 1], [a + 1, a + 5, a + 6])
            ]
        ),
    )
    assert border_distance(strip).reshape(5, 5)[2].tolist() == [0, 1, 2, 1, 0]
    assert np.isinf(border_distance(bumpy_sphere(1))).all()


def test_the_beam_finds_a_piece_of_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isometry, "WIDTH", 300)
    ball = bumpy_sphere(3)
    piece = cut_by_plane(ball, 0.6, np.random.default_rng(0))
    unit = total_area(ball) ** 0.5
    one, two = surface_of(ball, unit, 80), surface_of(piece.mesh, unit, 40)
    pair = isometry.pairing(one, two)
    best = beam(pair)[0]
    every, fit = laterate(pair, best, torch.arange(len(best)))
    truth = piece.vertex_ids[two.samples]
    gap = one.rows[every.numpy(), truth]
    assert gap.mean() < 1.5 * one.rows.min(axis=0).mean() and float(fit.mean()) < 1
    with_nothing = beam(pair, nothing=0.01)[0]
    assert (with_nothing == len(one.samples)).float().mean() > 0.5


def test_the_first_items_of_every_key_are_kept() -> None:
    keys = torch.tensor([5, 3, 5, 5, 3, 8])
    assert isometry._first_of(keys, 1).tolist() == [0, 1, 5]
    assert isometry._first_of(keys, 2).tolist() == [0, 1, 2, 4, 5]
