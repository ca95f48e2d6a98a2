"""Latent bases of maps that agree, of maps that do not, and of maps that connect nothing."""

from __future__ import annotations

import itertools

import pytest
import torch

from geo3d.errors import ShapeError
from geo3d.spectral.collections import agreement, disagreement, latent_basis

N, K = 5, 6


def rotations() -> torch.Tensor:
    """Return a random orthogonal matrix for each shape."""
    rng = torch.Generator().manual_seed(0)
    return torch.linalg.qr(torch.randn(N, K, K, dtype=torch.float64, generator=rng))[0]


def network(wrong: tuple[tuple[int, int], ...] = ()) -> tuple[torch.Tensor, torch.Tensor]:
    """Return maps C_ij = Q_j Q_i^T of all ordered pairs; wrong ones have other signs."""
    turns = rotations()
    edges = list(itertools.permutations(range(N), 2))
    signs = torch.tensor([1.0, 1, -1, 1, -1, -1], dtype=torch.float64)
    fmaps = [
        turns[j] @ (torch.diag(signs) if (i, j) in wrong or (j, i) in wrong else torch.eye(K))
        .double() @ turns[i].T
        for i, j in edges
    ]  # fmt: skip
    return torch.stack(fmaps), torch.tensor(edges)


def test_maps_that_agree_have_a_common_space() -> None:
    fmaps, edges = network()
    latent = latent_basis(fmaps, edges, torch.ones(len(edges)).double(), N, 4)
    assert torch.allclose(disagreement(fmaps, edges, latent), torch.zeros(1).double(), atol=1e-6)
    total = torch.einsum("nkm,nkl->ml", latent, latent)
    assert torch.allclose(total, N * torch.eye(4).double())


def test_the_latent_basis_minimises_the_energy() -> None:
    fmaps, edges = network(((0, 1), (2, 4)))
    weights = torch.linspace(0.2, 1, len(edges)).double()
    latent = latent_basis(fmaps, edges, weights, N, 2)

    def energy(y: torch.Tensor) -> float:
        gap = fmaps @ y[edges[:, 0]] - y[edges[:, 1]]
        return float((weights * gap.flatten(1).square().sum(1)).sum())

    rng = torch.Generator().manual_seed(1)
    for size in (0.01, 0.1, 1.0):
        change = size * torch.randn(N * K, 2, dtype=torch.float64, generator=rng)
        other = torch.linalg.qr(latent.reshape(N * K, 2) + change)[0] * N**0.5
        assert energy(latent) <= energy(other.reshape(N, K, 2)) + 1e-9


def test_maps_that_contradict_the_others_count_for_nothing() -> None:
    wrong = ((0, 1), (2, 4))
    fmaps, edges = network(wrong)
    weights = agreement(fmaps, edges, N)
    is_wrong = torch.tensor([(i, j) in wrong or (j, i) in wrong for i, j in edges.tolist()])
    assert float(weights[is_wrong].max()) < 0.01 and float(weights[~is_wrong].min()) > 0.5
    latent = latent_basis(fmaps, edges, weights, N, K)
    turns = rotations()
    for i, j in edges.tolist():
        truth = turns[j] @ turns[i].T
        assert torch.allclose(truth @ latent[i], latent[j], atol=0.02)


def test_shapes_that_nothing_connects_are_refused() -> None:
    fmaps, edges = network()
    inside = (edges < 3).all(1) | (edges >= 3).all(1)
    with pytest.raises(ShapeError) as caught:
        agreement(fmaps[inside], edges[inside], N)
    assert caught.value.code == "collection.not_connected"
