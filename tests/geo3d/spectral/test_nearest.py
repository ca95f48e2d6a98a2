"""Nearest neighbours against naive loops, over blocks, batches, ties and precisions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import rotation

from geo3d.spectral import fmap as module
from geo3d.spectral.fmap import nearest


def naive(queries: torch.Tensor, points: torch.Tensor) -> list[int]:
    found = []
    for query in queries.tolist():
        distances = [
            sum((a - b) ** 2 for a, b in zip(query, p, strict=True)) for p in points.tolist()
        ]
        found.append(distances.index(min(distances)))
    return found


def cloud(n: int, k: int, seed: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(n, k, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def test_path_by_hand() -> None:
    points = torch.tensor([[0.0], [1.0], [4.0]])
    queries = torch.tensor([[-3.0], [0.4], [0.6], [2.4], [2.6], [9.0]])
    assert nearest(queries, points).tolist() == [0, 0, 1, 1, 2, 2]


def test_the_first_wins_a_tie() -> None:
    points = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [-1.0, 0.0]])
    assert nearest(torch.tensor([[1.0, 0.0], [0.0, 0.0]]), points).tolist() == [0, 0]


@pytest.mark.parametrize(("p", "n", "k"), [(40, 30, 3), (25, 60, 20), (1, 1, 1), (5, 1, 4)])
def test_naive_loops_agree(p: int, n: int, k: int) -> None:
    queries, points = cloud(p, k, 0), cloud(n, k, 1)
    assert nearest(queries, points).tolist() == naive(queries, points)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, points = cloud(101, 6, 2, torch.float32), cloud(37, 6, 3, torch.float32)
    whole = nearest(queries, points)
    for entries in (1, 37, 100, 37 * 100):
        monkeypatch.setattr(module, "BLOCK_ENTRIES", entries)
        assert torch.equal(nearest(queries, points), whole)


def test_batches_are_independent(monkeypatch: pytest.MonkeyPatch) -> None:
    queries = torch.stack([cloud(20, 5, seed) for seed in range(4)])
    points = torch.stack([cloud(15, 5, seed) for seed in range(10, 14)])
    monkeypatch.setattr(module, "BLOCK_ENTRIES", 15 * 4 * 7)
    together = nearest(queries, points)
    assert together.shape == (4, 20)
    for i in range(4):
        assert together[i].tolist() == naive(queries[i], points[i])


def test_motion_scale_and_order_change_nothing() -> None:
    queries, points = cloud(50, 3, 4), cloud(40, 3, 5)
    turn = torch.from_numpy(rotation(2))
    expected = nearest(queries, points)
    assert torch.equal(nearest(7 * queries @ turn.T - 2, 7 * points @ turn.T - 2), expected)
    order = torch.from_numpy(np.random.default_rng(0).permutation(40))
    assert torch.equal(order[nearest(queries, points[order])], expected)


def test_float64_is_compared_in_float64() -> None:
    points = torch.tensor([[1.0], [1.0 + 1e-6]], dtype=torch.float64)
    assert nearest(points, points).tolist() == [0, 1]
    assert nearest(points.float(), points.float()).tolist() == [0, 0]


def test_inputs_stay_as_they_are() -> None:
    queries, points = cloud(6, 3, 6), cloud(5, 3, 7)
    before = queries.clone(), points.clone()
    nearest(queries, points)
    assert torch.equal(queries, before[0]) and torch.equal(points, before[1])


def test_no_queries_give_no_answers() -> None:
    assert nearest(torch.zeros(0, 3), torch.zeros(4, 3)).shape == (0,)
