"""The choice among finalists: what is different, what is taken."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from prepared_helpers import random_prepared

from geo3d.errors import InputError
from shape_matching.search.choice import Choice, different, lead, taken

ONE, TWO = random_prepared(1), random_prepared(2)
N = TWO.mesh.n_vertices


def choice(p2p_21: np.ndarray, rank: float) -> Choice:
    return Choice(torch.eye(6), torch.from_numpy(p2p_21), rank, {"residual": 1.0})


def opposite() -> np.ndarray:
    """Return for each vertex the one farthest from it."""
    points = ONE.mesh.vertices
    return np.linalg.norm(points[:, None] - points, axis=2).argmax(axis=1)


def test_maps_that_differ_in_a_part_are_kept_in_order() -> None:
    same, far = np.arange(N), opposite()
    part = np.where(np.arange(N) < N // 2, far, same)
    hardly = same.copy()
    hardly[0] = far[0]
    choices = [choice(p, -i) for i, p in enumerate((same, hardly, part, same, far))]
    light = TWO.basis.mass.clone()
    light[0] = 1e-3
    two = random_prepared(2)
    two.basis.mass[:] = light
    kept = different(choices, ONE, two)
    assert [c.rank for c in kept] == [0, -2, -4]


def test_the_lead_is_that_over_the_second() -> None:
    choices = [choice(np.arange(N), rank) for rank in (2.0, 1.5, -1.0)]
    assert lead(choices) == 0.5
    assert lead(choices[:1]) == float("inf")


def test_the_wanted_choice_and_the_best_other() -> None:
    choices = [choice(np.arange(N), rank) for rank in (2.0, 1.0, 0.0)]
    assert taken(choices, 1) == (choices[0], choices[1])
    assert taken(choices, 2) == (choices[1], choices[0])
    assert taken(choices[:1], 1) == (choices[0], None)
    with pytest.raises(InputError) as caught:
        taken(choices, 4)
    assert caught.value.code == "match.no_such_choice"
