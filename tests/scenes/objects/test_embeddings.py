"""Codes of times and places, cubes as tokens."""

from __future__ import annotations

import math

import pytest
import torch

from geo3d.errors import ShapeError
from scenes.objects.embeddings import (
    TimestepEmbedder,
    grid_positions,
    patchify,
    position_sinusoids,
    rotary_angles,
    rotate,
    time_sinusoids,
    time_to_steps,
    unpatchify,
)


def test_times_by_hand() -> None:
    assert time_to_steps(torch.tensor([0.25])).item() == 250
    code = time_sinusoids(torch.tensor([2.0]), 4)
    expected = [math.cos(2), math.cos(2 / 100), math.sin(2), math.sin(2 / 100)]
    torch.testing.assert_close(code, torch.tensor([expected]))


def test_positions_by_hand() -> None:
    code = position_sinusoids(torch.tensor([[1, 2, 3]]), 14)[0]
    rate = [1.0, 1e-2]
    expected = [f(p * r) for p in (1, 2, 3) for f in (math.sin, math.cos) for r in rate]
    torch.testing.assert_close(code, torch.tensor([*expected, 0.0, 0.0]))


def test_grid_runs_along_its_last_axis() -> None:
    assert grid_positions(2)[:3].tolist() == [[0, 0, 0], [0, 0, 1], [0, 1, 0]]


def test_patchify_by_hand_and_back() -> None:
    x = torch.arange(2 * 64).float().reshape(1, 2, 4, 4, 4)
    cells = patchify(x, 2)
    assert cells.shape == (1, 16, 2, 2, 2)
    for c, px, py, pz in ((1, 0, 1, 1), (0, 1, 0, 1)):
        channel = ((c * 2 + px) * 2 + py) * 2 + pz
        assert torch.equal(cells[0, channel], x[0, c, px::2, py::2, pz::2])
    assert torch.equal(unpatchify(cells, 2), x)


@pytest.mark.parametrize("call", [lambda x: patchify(x, 3), lambda x: unpatchify(x, 2)])
def test_cubes_must_fit(call: object) -> None:
    with pytest.raises(ShapeError) as error:
        call(torch.zeros(1, 4, 4, 4, 4))  # type: ignore[operator]
    assert error.value.code == "patchify.no_divisor"


def test_rotation_depends_on_differences_of_places_only() -> None:
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 1, 2, 12, generator=generator)
    scores = []
    for shift in (0, 5):
        a = rotary_angles(torch.tensor([[1 + shift, 2, 3]]), 12)
        b = rotary_angles(torch.tensor([[4 + shift, 1, 7]]), 12)
        scores.append((rotate(query, a) * rotate(key, b)).sum(-1))
    torch.testing.assert_close(scores[0], scores[1], rtol=1e-4, atol=1e-5)
    assert rotate(query, a).norm() == pytest.approx(query.norm().item(), rel=1e-6)


def test_rotation_leaves_spare_pairs_alone() -> None:
    angles = rotary_angles(torch.tensor([[9, 9, 9]]), 16)
    assert angles.shape == (1, 8) and angles[0, 6:].tolist() == [0, 0]
    x = torch.ones(1, 1, 16)
    assert torch.equal(rotate(x, angles)[..., 12:], x[..., 12:])
    assert not torch.equal(rotate(x, angles)[..., :12], x[..., :12])


def test_embedder_tells_times_apart() -> None:
    torch.manual_seed(0)
    codes = TimestepEmbedder(8)(torch.tensor([0.0, 10.0, 1000.0]))
    assert codes.shape == (3, 8) and torch.pdist(codes).min() > 1e-3
