"""Coupled refinement: its parts by hand, and a known map recovered whatever the pose or mirror."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import bumpy_sphere, icosphere, moved, permuted, rotation

from geo3d.mesh.mesh import Mesh
from geo3d.spectral.fmap import p2p_to_fmap
from shape_matching.search.coupled import _signs, points_of, refine_coupled
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
