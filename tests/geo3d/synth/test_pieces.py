"""Pieces of meshes: what is kept, where it came from, what a camera sees."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from helpers import icosphere

from geo3d.errors import InputError, MeshError
from geo3d.mesh.mesh import Mesh
from geo3d.mesh.ops import total_area
from geo3d.synth.pieces import Piece, cut_by_ball, cut_by_plane, piece_of, scanned, turned

BALL = icosphere(3)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize("cut", [cut_by_plane, cut_by_ball])
def test_cuts_keep_their_share_and_know_where_from(cut: Callable[..., Piece]) -> None:
    piece = cut(BALL, 0.4, rng())
    assert total_area(piece.mesh) / total_area(BALL) == pytest.approx(0.4, abs=0.06)
    np.testing.assert_array_equal(piece.mesh.vertices, BALL.vertices[piece.vertex_ids])
    with pytest.raises(InputError, match=r"pieces\.bad_share"):
        cut(BALL, 1.0, rng())


def test_a_scan_sees_the_near_half() -> None:
    piece = scanned(BALL, rng())
    towards = rng().standard_normal(3)
    towards /= np.linalg.norm(towards)
    assert (piece.mesh.vertices @ towards > -0.01).all()
    assert total_area(piece.mesh) / total_area(BALL) == pytest.approx(0.5, abs=0.06)


def test_what_stands_behind_is_hidden() -> None:
    towards = rng().standard_normal(3)
    towards /= np.linalg.norm(towards)
    behind = Mesh(
        np.concatenate([BALL.vertices, 0.5 * BALL.vertices - 3 * towards]),
        np.concatenate([BALL.faces, BALL.faces + BALL.n_vertices]),
    )
    assert (scanned(behind, rng()).vertex_ids < BALL.n_vertices).all()


def test_the_largest_part_stays() -> None:
    height = BALL.vertices[:, 2]
    piece = piece_of(BALL, (height > 0.6) | (height < 0.2))
    assert (piece.mesh.vertices[:, 2] < 0.2).all()
    with pytest.raises(MeshError, match=r"pieces\.nothing_left"):
        piece_of(BALL, np.zeros(BALL.n_vertices, bool))


def test_turning_is_a_rotation() -> None:
    found = turned(BALL, rng()).vertices
    rotation = np.linalg.lstsq(BALL.vertices, found, rcond=None)[0]
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-9)
    assert np.linalg.det(rotation) == pytest.approx(1)
