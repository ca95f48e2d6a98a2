"""Objects of coarse parts only are matched by points on their surfaces."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from helpers import icosphere, moved, rotation

from geo3d.config import load_config
from geo3d.mesh.mesh import Mesh
from shape_matching.config import MatchConfig
from shape_matching.match import match
from shape_matching.search import points
from shape_matching.search.points import is_coarse
from shape_matching.search.sound import sound

QUICK = {"starts": ("frames",), "n_samples": 300, "n_hypotheses": 8, "n_finalists": 2}
FAST = replace(load_config(MatchConfig, preset="fast"), k_final=24, **QUICK)
CUBE = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], float)
SIDES = np.array(
    [[0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1],
     [2, 3, 7], [2, 7, 6], [0, 2, 6], [0, 6, 4], [1, 5, 7], [1, 7, 3]]
)  # fmt: skip


def boards(*boxes: tuple[tuple[float, float, float], tuple[float, float, float]]) -> Mesh:
    """Return boxes (corner, size) as one mesh."""
    vertices = [np.array(corner) + CUBE * np.array(size) for corner, size in boxes]
    faces = [SIDES + 8 * i for i in range(len(boxes))]
    return Mesh(np.concatenate(vertices), np.concatenate(faces), name="boards")


CORNER = boards(((0, 0, 0), (4, 1, 1)), ((0, 1, 0), (1, 2, 1)), ((0, 0, 1), (1, 1, 5)))
"""Three arms of different lengths: no symmetry."""


def test_what_is_coarse() -> None:
    one_box = boards(((0, 0, 0), (4, 1, 1)))
    fine = moved(icosphere(2), 9 * np.eye(3))
    beside = np.concatenate([fine.faces, CORNER.faces + fine.n_vertices])
    both = Mesh(np.concatenate([fine.vertices, CORNER.vertices]), beside)
    assert [is_coarse(sound(mesh)) for mesh in (CORNER, one_box, fine, both)] == [1, 0, 0, 0]


@pytest.mark.slow
def test_coarse_parts_find_their_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(points, "N_POINTS", 700)
    assert is_coarse(sound(CORNER))
    turned = moved(CORNER, 2.0 * rotation(1), 3.0)
    found = match(CORNER, turned, FAST, device="cpu")
    gaps = np.linalg.norm(CORNER.vertices[found.p2p_21] - CORNER.vertices, axis=1)
    assert gaps.mean() < 0.3
    assert found.confidence.shape == (24,) and found.p2p_12.shape == (24,)
    assert "points on all surfaces" in " ".join(found.notes)
    marks = np.stack([np.arange(0, 24, 2)] * 2, axis=1)
    given = np.arange(24)
    for found in (
        match(CORNER, turned, FAST, device="cpu", landmarks=marks),
        match(CORNER, turned, FAST, device="cpu", initial_map=given),
    ):
        gaps = np.linalg.norm(CORNER.vertices[found.p2p_21] - CORNER.vertices, axis=1)
        assert gaps.mean() < 0.3
