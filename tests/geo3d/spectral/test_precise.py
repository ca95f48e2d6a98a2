"""Precise maps against projection on every triangle, and worked projections on one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import bumpy_sphere, moved, permuted, rotation
from scipy.optimize import minimize

from geo3d.spectral import precise as module
from geo3d.spectral.basis import eigenbasis
from geo3d.spectral.fmap import fmap_to_p2p, p2p_to_fmap
from geo3d.spectral.precise import SurfacePoints, precise_map


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def embedded(found: SurfacePoints, points: torch.Tensor, faces: torch.Tensor) -> torch.Tensor:
    return found.interpolate(points, faces)


def dense_distances(queries: np.ndarray, points: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Return the distance of each query to the nearest triangle, all regions of all tried."""
    best = np.full(len(queries), np.inf)
    for a, b, c in points[faces]:
        edge = np.stack([b - a, c - a], axis=1)
        weights = np.linalg.lstsq(edge, (queries - a).T, rcond=None)[0]
        inside = (weights >= 0).all(axis=0) & (weights.sum(axis=0) <= 1)
        gap = np.linalg.norm(queries - a - (edge @ weights).T, axis=1)
        best = np.where(inside, np.minimum(best, gap), best)
        for p, q in ((a, b), (b, c), (c, a)):
            t = ((queries - p) @ (q - p) / ((q - p) @ (q - p))).clip(0, 1)
            best = np.minimum(best, np.linalg.norm(queries - p - t[:, None] * (q - p), axis=1))
    return best


@pytest.mark.parametrize(
    ("query", "weights"),
    [
        ([0.25, 0.25], [0.5, 0.25, 0.25]),
        ([-1.0, -1.0], [1.0, 0.0, 0.0]),
        ([0.3, -2.0], [0.7, 0.3, 0.0]),
        ([-5.0, 0.4], [0.6, 0.0, 0.4]),
        ([1.0, 1.0], [0.0, 0.5, 0.5]),
        ([3.0, -1.0], [0.0, 1.0, 0.0]),
    ],
)
def test_one_triangle_by_hand(query: list[float], weights: list[float]) -> None:
    corners = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]).double()
    faces = torch.tensor([[0, 1, 2]])
    identity = torch.eye(2).double()
    found = precise_map(identity, corners, torch.tensor([query]).double(), faces)
    torch.testing.assert_close(found.barycentric, torch.tensor([weights]).double())
    assert found.face_ids.tolist() == [0]


@pytest.mark.parametrize("k", [2, 3, 8])
def test_projection_on_all_triangles_agrees(k: int) -> None:
    mesh = bumpy_sphere(1)
    points, queries = random(42, k), 1.5 * random(30, k, seed=1)
    faces = torch.from_numpy(mesh.faces.copy())
    found = precise_map(torch.eye(k).double(), points, queries, faces)
    assert (found.barycentric >= 0).all()
    torch.testing.assert_close(found.barycentric.sum(1), torch.ones(30).double())
    gaps = (embedded(found, points, faces) - queries).norm(dim=1)
    expected = dense_distances(queries.numpy(), points.numpy(), mesh.faces)
    np.testing.assert_allclose(gaps, expected, atol=1e-10)


def test_an_optimiser_finds_nothing_nearer() -> None:
    corners, faces = random(3, 5), torch.tensor([[0, 1, 2]])
    for seed in range(5):
        query = random(1, 5, seed=10 + seed)
        found = precise_map(torch.eye(5).double(), corners, query, faces)
        gap = float((embedded(found, corners, faces) - query).norm())

        def distance(w: np.ndarray, query: torch.Tensor = query) -> float:
            return float(np.square(w @ corners.numpy() - query.numpy()[0]).sum())

        best = minimize(
            distance,
            np.full(3, 1 / 3),
            bounds=[(0, 1)] * 3,
            constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
            method="SLSQP",
        )
        assert gap == pytest.approx(np.sqrt(best.fun), abs=1e-5)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    points, queries = random(42, 6), random(30, 6, seed=1)
    faces = torch.from_numpy(bumpy_sphere(1).faces.copy())
    whole = precise_map(torch.eye(6).double(), points, queries, faces)
    for entries in (1, 700, 5000):
        monkeypatch.setattr(module, "BLOCK_ENTRIES", entries)
        parts = precise_map(torch.eye(6).double(), points, queries, faces)
        assert torch.equal(parts.face_ids, whole.face_ids)
        assert torch.equal(parts.barycentric, whole.barycentric)


def test_degenerate_triangles_count_as_their_edges() -> None:
    corners = torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]]).double()
    query = torch.tensor([[1.25, 1.0]]).double()
    for face in ([0, 1, 2], [0, 2, 2], [2, 0, 1]):
        faces = torch.tensor([face])
        found = precise_map(torch.eye(2).double(), corners, query, faces)
        landed = embedded(found, corners, faces)
        torch.testing.assert_close(landed, torch.tensor([[1.25, 0.0]]).double())


def test_it_is_never_further_than_the_nearest_vertex() -> None:
    mesh = bumpy_sphere(2)
    one, two = eigenbasis(mesh, 20), eigenbasis(bumpy_sphere(2, seed=1), 20)
    fmap_12 = torch.eye(20).double() + 0.1 * random(20, 20)
    faces = torch.from_numpy(mesh.faces.copy())
    found = precise_map(fmap_12, one.evecs, two.evecs, faces)
    table = one.evecs @ fmap_12.T
    vertex = fmap_to_p2p(fmap_12, one.evecs, two.evecs)
    to_surface = (embedded(found, table, faces) - two.evecs).norm(dim=1)
    to_vertex = (table[vertex] - two.evecs).norm(dim=1)
    assert (to_surface <= to_vertex + 1e-12).all() and (to_surface < 0.99 * to_vertex).any()


def test_a_permutation_comes_back_as_vertices() -> None:
    mesh = bumpy_sphere(2)
    copy, order = permuted(moved(mesh, rotation(3)))
    one, two = eigenbasis(mesh, 30), eigenbasis(copy, 30)
    truth = torch.from_numpy(order)
    fmap_12 = p2p_to_fmap(truth, one, two)
    faces = torch.from_numpy(mesh.faces.copy())
    found = precise_map(fmap_12, one.evecs, two.evecs, faces)
    assert torch.equal(found.nearest_vertices(faces), truth)
    positions = found.interpolate(torch.from_numpy(mesh.vertices.copy()), faces)
    np.testing.assert_allclose(positions, copy.vertices @ rotation(3), atol=1e-4)


def test_surface_points_by_hand() -> None:
    points = SurfacePoints(torch.tensor([1, 0]), torch.tensor([[0.2, 0.7, 0.1], [0.5, 0.0, 0.5]]))
    faces = torch.tensor([[0, 1, 2], [3, 2, 1]])
    values = torch.tensor([[0.0], [10.0], [20.0], [30.0]])
    torch.testing.assert_close(points.interpolate(values, faces), torch.tensor([[21.0], [10.0]]))
    # on a tie the first corner
    assert points.nearest_vertices(faces).tolist() == [2, 0]
