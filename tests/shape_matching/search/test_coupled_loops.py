"""Coupled refinement and carrying back against plain loops over random shapes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import bumpy_sphere, grid
from prepared_helpers import nearest_rows, random_prepared

from geo3d.mesh.decimate import Decimated, decimate
from geo3d.mesh.mesh import Mesh
from geo3d.mesh.ops import vertex_normals
from shape_matching.search import coupled
from shape_matching.search.coupled import (
    Points,
    _fine_map,
    _signs,
    _torn,
    coupled_pass,
    points_of,
    refine_coupled,
)


def weighted_fit(points: Points, values: np.ndarray, k: int) -> np.ndarray:
    root = points.weights.numpy()[:, None] ** 0.5
    return np.linalg.lstsq(root * points.rows[:, :k].numpy(), root * values, rcond=None)[0]


def unit_normals(points: Points, coefficients: np.ndarray) -> np.ndarray:
    assert points.slopes is not None
    k = len(coefficients)
    across = np.cross(*(axis[:, :k].numpy() @ coefficients for axis in points.slopes))
    return across / np.linalg.norm(across, axis=1, keepdims=True)


@pytest.mark.parametrize("signs", [(1.0, -1.0), (-1.0, 1.0)])
@pytest.mark.parametrize("sampled", [False, True])
def test_a_pass_matches_in_the_weighted_product(signs: tuple[float, float], sampled: bool) -> None:
    """One pass, written out: embedding, both registrations, their normals, curvature."""
    shapes = random_prepared(1), random_prepared(2)
    one, two = (points_of(s, s.samples if sampled else None) for s in shapes)
    k, draw = 7, torch.Generator().manual_seed(3)
    n_1, n_2 = len(one.rows), len(two.rows)
    maps = (
        torch.randint(n_1, (n_2,), generator=draw),
        torch.randint(n_2, (n_1,), generator=draw),
    )
    found = coupled_pass(maps, one, two, k, signs)
    p2p_21, p2p_12 = (m.numpy() for m in maps)
    x_1, x_2 = one.positions.numpy(), two.positions.numpy()
    rows_1, rows_2 = one.rows[:, :k].numpy(), two.rows[:, :k].numpy()
    fmap_12 = weighted_fit(two, one.rows[:, :k].numpy()[p2p_21], k)
    sides = [[rows_1 @ fmap_12.T, rows_2]]
    spread = (one.evals[:k].sum().item() / 2) ** 0.5
    poses = (
        (weighted_fit(one, x_2[p2p_12], k), weighted_fit(two, x_2, k)),
        (weighted_fit(one, x_1, k), weighted_fit(two, x_1[p2p_21], k)),
    )
    for seen_1, seen_2 in poses:
        sides.append([0.45 * spread * rows_1 @ seen_1, 0.45 * spread * rows_2 @ seen_2])
        normals_1, normals_2 = unit_normals(one, seen_1), unit_normals(two, seen_2)
        sides.append([0.0225 * spread * normals_1, signs[0] * 0.0225 * spread * normals_2])
    assert one.curvature is not None and two.curvature is not None
    bends = one.curvature.numpy(), two.curvature.numpy()
    sides.append([0.015 * spread * bends[0], signs[1] * 0.015 * spread * bends[1]])
    all_1, all_2 = (np.concatenate(side, axis=1) for side in zip(*sides, strict=True))
    np.testing.assert_array_equal(found[0], nearest_rows(all_2, all_1))
    np.testing.assert_array_equal(found[1], nearest_rows(all_1, all_2))


def test_the_cross_product_of_both_slopes_is_the_normal() -> None:
    slopes = torch.tensor([[0.0, 1.0], [0.0, 2.0]]), torch.tensor([[0.0, 0.0], [3.0, 0.0]])
    plane = Points(
        torch.eye(2), slopes, torch.zeros(2, 1), torch.zeros(2, 3), torch.ones(2), torch.ones(2)
    )
    # x = function 1, y = function 0: along the first axis x grows, along the second y
    coefficients = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    found = plane.normals(coefficients)
    torch.testing.assert_close(found[1], torch.tensor([0.0, 0.0, 1.0]))
    torch.testing.assert_close(found[0], torch.zeros(3))


def test_a_function_without_points_does_not_stop_a_fit() -> None:
    rows = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    rows[:, 2] = 0.0
    flat = torch.zeros(20, 4)
    points = Points(
        rows, (flat, flat), torch.zeros(20, 1), torch.zeros(20, 3), torch.ones(20), torch.ones(4)
    )
    found = points.fit(torch.ones(20, 1), 4)
    assert torch.isfinite(found).all() and found[2].abs() < 1e-3


@pytest.mark.parametrize("sampled", [False, True])
def test_sizes_of_the_passes_and_when_all_vertices_are_seen(
    sampled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = random_prepared(1, 96, 3, 200), random_prepared(2, 96, 3, 200)
    seen: list[tuple[int, int, int]] = []

    def watched(maps: object, one: Points, two: Points, k: int, signs: object) -> object:
        seen.append((k, len(one.rows), len(two.rows)))
        return coupled_pass(maps, one, two, k, signs)  # type: ignore[arg-type]

    monkeypatch.setattr(coupled, "coupled_pass", watched)
    events: list[dict] = []
    start = torch.eye(50)
    samples = (one.samples, two.samples) if sampled else None
    fmap, p2p_21, p2p_12 = refine_coupled(
        start, one, two, 90, samples=samples, progress=lambda e: events.append(dict(e))
    )
    sizes = [40, 48, 56, 64, 72, 80, 90]
    few = 200 if sampled else 642
    assert seen == [(k, few, few) for k in sizes[:-4]] + [(k, 642, 642) for k in sizes[-4:]]
    assert [(e["step"], e["metrics"]["k"]) for e in events] == list(enumerate(sizes, 1))
    whole = points_of(one), points_of(two)
    expected = weighted_fit(whole[1], one.basis.evecs[p2p_21, :90].numpy(), 90)
    np.testing.assert_allclose(fmap, expected, atol=2e-2)
    assert p2p_12.shape == (642,)


def test_maps_no_larger_than_the_last_size_are_passed_once() -> None:
    one, two = random_prepared(1), random_prepared(2)
    events: list[dict] = []
    refine_coupled(torch.eye(20), one, two, 8, progress=lambda e: events.append(dict(e)))
    assert [e["metrics"]["k"] for e in events] == [8]


def random_decimated(seed: int, fine: Mesh) -> Decimated:
    """Return a coarse mesh whose fine vertices lie anywhere on it."""
    random = np.random.default_rng(seed)
    coarse = bumpy_sphere(1, seed)
    weights = random.dirichlet(np.ones(3), fine.n_vertices)
    return Decimated(coarse, random.integers(coarse.n_faces, size=fine.n_vertices), weights)


def test_a_torn_triangle_is_six_first_edges_wide() -> None:
    mesh = grid(3, 3)
    whole = decimate(mesh, 9)
    first = whole.mesh.vertices[whole.mesh.faces]
    lengths = [np.linalg.norm(corners[0] - corners[1]) for corners in first]
    assert _torn(whole, whole) == pytest.approx(6 * np.mean(lengths))


@pytest.mark.parametrize("smooth", [True, False])
def test_the_fine_map_is_written_out(smooth: bool) -> None:
    """Corners' mean or the heaviest corner; of eight near vertices the best on the right side."""
    fine_1, fine_2 = bumpy_sphere(2, 1), bumpy_sphere(2, 2)
    start, end = random_decimated(3, fine_2), random_decimated(4, fine_1)
    random = np.random.default_rng(5)
    coarse_map = np.arange(42) if smooth else random.integers(42, size=42)
    found = _fine_map(coarse_map, start, end, fine_1)
    images, normals = end.mesh.vertices[coarse_map], vertex_normals(end.mesh)
    owners = end.mesh.faces[end.face_ids, end.barycentric.argmax(axis=1)]
    wanted, nearest, heaviest = [], [], []
    for i in range(fine_2.n_vertices):
        corners, weights = start.mesh.faces[start.face_ids[i]], start.barycentric[i]
        heaviest.append(corners[weights.argmax()])
        spread = np.linalg.norm(np.ptp(images[corners], axis=0))
        is_torn = spread >= _torn(start, end)
        wanted.append(images[heaviest[i]] if is_torn else weights @ images[corners])
        distances = np.linalg.norm(fine_1.vertices - wanted[i], axis=1)
        nearest.append([(distances[j], j) for j in np.argsort(distances)[:8]])
    farthest = max(distance for row in nearest for distance, _ in row)
    for i, row in enumerate(nearest):
        image, costs = coarse_map[heaviest[i]], []
        for distance, j in row:
            if normals[owners[j]] @ normals[image] < 0:
                away = end.mesh.vertices[owners[j]] - end.mesh.vertices[image]
                distance += np.linalg.norm(away) + farthest
            costs.append(distance)
        assert found[i] == row[int(np.argmin(costs))][1], i


@pytest.mark.parametrize(
    ("first", "second", "sign"),
    # the sums of products are 0.5, -2.5 and 0
    [([1.0, 1.0], [-0.5, 1.0], 1.0), ([1.0, -3.0], [0.5, 1.0], -1.0), ([1, 1], [1, -1], 1.0)],
)
def test_curvatures_agree_by_the_sum_of_their_products(
    first: list[float], second: list[float], sign: float
) -> None:
    eye = torch.eye(2)
    flat = eye, eye
    one, two = (
        Points(eye, flat, torch.tensor(x)[:, None].float(), torch.zeros(2, 3), eye[0], eye[0])
        for x in (first, second)
    )
    order = torch.tensor([0, 1])
    assert _signs((order, order), one, two, 2) == (1.0, sign)
