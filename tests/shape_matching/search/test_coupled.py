"""Coupled refinement: its parts by hand, and a known map recovered whatever the pose or mirror.

Maps of decimated meshes carried back to the original vertices.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import bumpy_sphere, grid, icosphere, moved, permuted, rotation

from geo3d.mesh.closest import closest_points
from geo3d.mesh.decimate import Decimated, decimate
from geo3d.mesh.mesh import Mesh
from geo3d.mesh.ops import total_area
from geo3d.progress import ignore_progress
from geo3d.spectral.fmap import p2p_to_fmap
from shape_matching.correspondence import Correspondence
from shape_matching.search.coupled import (
    _signs,
    fine_representatives,
    points_of,
    refine_coupled,
    upsample,
)
from shape_matching.search.prepare import Prepared, prepare

CPU = torch.device("cpu")
K = 60


def ready(mesh: Mesh) -> Prepared:
    return prepare(mesh, K, 400, "auto", CPU)


def disturbed_map(one: Prepared, two: Prepared, p2p_21: np.ndarray, k: int = 20) -> torch.Tensor:
    """Return the map of size k with a tenth of noise on it."""
    fmap = p2p_to_fmap(torch.from_numpy(p2p_21), one.basis.truncate(k), two.basis.truncate(k))
    noise = torch.randn(fmap.shape, generator=torch.Generator().manual_seed(1))
    return fmap + 0.1 * noise / k**0.5


def recovered(source: Mesh, target: Mesh, order: np.ndarray, samples: bool = False) -> float:
    """Return the share of vertices that both refined directions send to the right place."""
    one, two = ready(source), ready(target)
    chosen = (one.samples, two.samples) if samples else None
    start = disturbed_map(one, two, order)
    fmap, p2p_21, p2p_12 = refine_coupled(start, one, two, K, samples=chosen)
    assert fmap.shape == (K, K)
    right_21 = (p2p_21.numpy() == order).mean()
    right_12 = (order[p2p_12.numpy()] == np.arange(len(order))).mean()
    return float(min(right_21, right_12))


@pytest.fixture(scope="module")
def pair() -> tuple[Mesh, Mesh, np.ndarray]:
    """A shape without symmetry, and the same turned, its vertices shuffled."""
    source = bumpy_sphere(3)
    target, order = permuted(source)
    return source, moved(target, rotation(3)), order


def test_a_disturbed_map_is_recovered(pair: tuple[Mesh, Mesh, np.ndarray]) -> None:
    assert recovered(*pair) > 0.99
    assert recovered(*pair, samples=True) > 0.99


def test_mirror_images_and_faces_inside_out(pair: tuple[Mesh, Mesh, np.ndarray]) -> None:
    source, target, order = pair
    inside_out = replace(target, faces=target.faces[:, ::-1].copy())
    mirrored = Mesh(target.vertices * [-1.0, 1, 1], inside_out.faces)
    assert recovered(source, inside_out, order) > 0.99
    assert recovered(source, mirrored, order) > 0.99


def test_what_is_turned_inside_out_is_noticed(pair: tuple[Mesh, Mesh, np.ndarray]) -> None:
    source, target, order = pair
    inverse = torch.from_numpy(np.argsort(order))
    maps = torch.from_numpy(order), inverse
    one = points_of(ready(source))
    flipped = target.faces[:, ::-1].copy()
    cases = (
        (target, (1.0, 1.0)),
        (replace(target, faces=flipped), (-1.0, -1.0)),
        (Mesh(target.vertices * [-1.0, 1, 1], flipped), (-1.0, 1.0)),
    )
    for shape, expected in cases:
        assert _signs(maps, one, points_of(ready(shape)), 20) == expected


def test_point_clouds_are_refined(pair: tuple[Mesh, Mesh, np.ndarray]) -> None:
    source, target, order = pair
    nothing = np.zeros((0, 3), np.int64)
    clouds = Mesh(source.vertices, nothing), Mesh(target.vertices, nothing)
    assert recovered(*clouds, order) > 0.9


def test_the_pose_in_space_does_not_matter(pair: tuple[Mesh, Mesh, np.ndarray]) -> None:
    source, target, order = pair
    one, two = ready(source), ready(target)
    turned = ready(moved(target, rotation(5)))
    # the same basis, so that only the positions differ
    turned = replace(turned, basis=two.basis)
    start = disturbed_map(one, two, order)
    maps = [refine_coupled(start, one, other, K)[1] for other in (two, turned)]
    assert (maps[0] == maps[1]).float().mean() > 0.999


def test_fit_is_weighted_least_squares() -> None:
    points = points_of(ready(bumpy_sphere(3)))
    values = torch.randn(len(points.rows), 2, generator=torch.Generator().manual_seed(0))
    root = points.weights.sqrt()[:, None]
    expected = torch.linalg.lstsq(
        (root * points.rows[:, :12]).double(), (root * values).double()
    ).solution
    torch.testing.assert_close(points.fit(values, 12).double(), expected, atol=1e-4, rtol=1e-3)


def test_normals_of_a_round_sphere_point_outwards() -> None:
    shape = ready(icosphere(3))
    points = points_of(shape)
    normals = points.normals(points.fit(points.positions, 4))
    outward = torch.nn.functional.normalize(points.positions, dim=1)
    assert float((normals * outward).sum(1).min()) > 0.99


def coarse_result(one: Decimated, two: Decimated, p2p_21: np.ndarray) -> Correspondence:
    p2p_12 = np.zeros(one.mesh.n_vertices, np.int64)
    p2p_12[p2p_21] = np.arange(len(p2p_21))
    confidence = np.ones(len(p2p_21))
    return Correspondence(
        one.mesh, two.mesh, p2p_21, p2p_12, np.eye(3), confidence, {"lead": 1.0}, True, ("n",)
    )


def identity(decimated: Decimated) -> Correspondence:
    return coarse_result(decimated, decimated, np.arange(decimated.mesh.n_vertices))


def test_no_decimation_changes_nothing() -> None:
    mesh = bumpy_sphere(2)
    whole = decimate(mesh, mesh.n_vertices)
    order = np.random.default_rng(0).permutation(162)
    found = upsample(coarse_result(whole, whole, order), mesh, mesh, whole, whole, ignore_progress)
    assert np.array_equal(found.p2p_21, order)
    assert np.array_equal(found.p2p_12[order], np.arange(162))


def test_the_identity_stays_near_the_identity() -> None:
    mesh = bumpy_sphere(3)
    coarse = decimate(mesh, 160)
    found = upsample(identity(coarse), mesh, mesh, coarse, coarse, ignore_progress)
    gaps = np.linalg.norm(mesh.vertices[found.p2p_21] - mesh.vertices, axis=1)
    edge = np.sqrt(total_area(coarse.mesh) / coarse.mesh.n_faces)
    assert gaps.mean() < 0.2 * edge and np.quantile(gaps, 0.95) < edge
    assert found.confidence.mean() > 0.9
    # the vertices of a coarse face do not all land on its corners
    assert len(np.unique(found.p2p_21)) > 0.6 * mesh.n_vertices


def test_a_rotated_target_gets_the_same_map() -> None:
    mesh = bumpy_sphere(3)
    coarse = decimate(mesh, 160)
    turned = moved(mesh, 2.0 * rotation(1), 4.0)
    turned_coarse = Decimated(
        moved(coarse.mesh, 2.0 * rotation(1), 4.0), coarse.face_ids, coarse.barycentric
    )
    there = coarse_result(coarse, turned_coarse, np.arange(coarse.mesh.n_vertices))
    found = upsample(there, mesh, turned, coarse, turned_coarse, ignore_progress)
    expected = upsample(identity(coarse), mesh, mesh, coarse, coarse, ignore_progress)
    assert (found.p2p_21 == expected.p2p_21).mean() > 0.98
    np.testing.assert_allclose(found.confidence, expected.confidence, atol=0.05)


def test_shapes_notes_and_the_rest() -> None:
    source, target = bumpy_sphere(3), moved(bumpy_sphere(3), np.eye(3))
    one, two = decimate(source, 160), decimate(target, 160)
    events: list[Mapping[str, Any]] = []
    found = upsample(identity(one), source, target, one, two, events.append)
    assert found.source is source and found.target is target
    assert found.p2p_21.shape == found.p2p_12.shape == found.confidence.shape == (642,)
    assert found.p2p_21.dtype == np.int64 and found.p2p_21.min() >= 0
    assert found.ambiguous and found.scores == {"lead": 1.0}
    assert found.notes[0] == "n" and "carried back to 642 and 642" in found.notes[1]
    assert [event["step"] for event in events] == [1, 2]


def test_thin_sheets_keep_their_sides() -> None:
    """Two layers closer to each other than their vertices: each side stays on its side."""
    top, few, up = grid(12), grid(5), np.array([0, 0, 0.02])
    layers = np.concatenate([top.vertices + up, top.vertices])
    faces = np.concatenate([top.faces, top.faces[:, ::-1] + top.n_vertices])
    sheet = Mesh(layers, faces)
    coarse_mesh = Mesh(
        np.concatenate([few.vertices + up, few.vertices]),
        np.concatenate([few.faces, few.faces[:, ::-1] + few.n_vertices]),
    )
    near = closest_points(coarse_mesh, layers)
    coarse = Decimated(coarse_mesh, near.face_ids, near.barycentric)
    found = upsample(identity(coarse), sheet, sheet, coarse, coarse, ignore_progress)
    assert ((found.p2p_21 < 144) == (np.arange(288) < 144)).all()


def test_representatives_are_near_and_owned() -> None:
    mesh = bumpy_sphere(3)
    coarse = decimate(mesh, 160)
    found = fine_representatives(coarse, mesh)
    assert found.shape == (coarse.mesh.n_vertices,) and found.dtype == np.int64
    gaps = np.linalg.norm(mesh.vertices[found] - coarse.mesh.vertices, axis=1)
    edge = np.sqrt(total_area(coarse.mesh) / coarse.mesh.n_faces)
    assert gaps.max() < edge
    owner, weight = coarse.nearest_coarse(), coarse.barycentric.max(axis=1)
    for vertex in range(coarse.mesh.n_vertices):
        owned = np.flatnonzero(owner == vertex)
        if len(owned):
            assert found[vertex] in owned
            assert weight[found[vertex]] == pytest.approx(weight[owned].max())


def test_representatives_of_vertices_that_own_nothing() -> None:
    fine = Mesh(np.array([[0.1, 0, 0], [0.9, 0, 0], [0.1, 0.2, 0]]), np.array([[0, 1, 2]]))
    coarse_mesh = Mesh(np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]), np.array([[0, 1, 2]]))
    weights = np.array([[0.9, 0.1, 0.0], [0.1, 0.9, 0.0], [0.7, 0.1, 0.2]])
    coarse = Decimated(coarse_mesh, np.zeros(3, np.int64), weights)
    # vertex 0 owns 0 and 2 and takes 0; vertex 2 owns none, the nearest is 2
    assert fine_representatives(coarse, fine).tolist() == [0, 1, 2]
