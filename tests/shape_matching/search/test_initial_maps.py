"""Judging maps: the right map, its mirror twin and a bad one are told apart; distinct by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import bumpy_sphere, icosphere, moved, permuted, rotation
from scipy.spatial import KDTree

from geo3d.mesh.mesh import Mesh
from geo3d.spectral.fmap import p2p_to_fmap
from shape_matching.search.initial_maps import (
    Appraisal,
    appraise,
    curvature_agreement,
    distinct,
    from_p2p,
    roughness,
)
from shape_matching.search.prepare import Prepared, prepare

CPU = torch.device("cpu")


def twin_shape() -> tuple[Mesh, np.ndarray]:
    """Return a shape that is its own mirror image at x = 0, and each vertex's mirror vertex."""
    mesh = icosphere(3)
    x, y, z = mesh.vertices.T
    # a smooth radius, even in x, without another symmetry
    radius = 1.0 + 0.3 * y + 0.25 * z**3 + 0.2 * x**2 * z
    shape = Mesh(mesh.vertices * radius[:, None], mesh.faces)
    return shape, KDTree(mesh.vertices).query(mesh.vertices * [-1.0, 1, 1])[1]


def ready(mesh: Mesh) -> Prepared:
    return prepare(mesh, 40, 400, "auto", CPU)


def identity_map(one: Prepared, two: Prepared, p2p_21: np.ndarray, k: int = 20) -> torch.Tensor:
    return p2p_to_fmap(torch.from_numpy(p2p_21), one.basis.truncate(k), two.basis.truncate(k))


def test_right_mirrored_and_bad_maps() -> None:
    mesh, mirror = twin_shape()
    # the icosphere is symmetric, so mirror vertices are exact
    np.testing.assert_allclose(mesh.vertices[mirror], mesh.vertices * [-1.0, 1, 1], atol=1e-6)
    copy, order = permuted(moved(mesh, rotation(2)))
    one, two = ready(mesh), ready(copy)
    noise = torch.randn(20, 20, generator=torch.Generator().manual_seed(0)) / 20**0.5
    maps = torch.stack(
        [identity_map(one, two, order), identity_map(one, two, mirror[order]), noise]
    )
    judged = appraise(maps, one, two, 400)
    right, twin, bad = (judged.orientation[i].item() for i in range(3))
    assert right > 0.95 and twin < -0.95 and abs(bad) < 0.5
    # mirror twins have equal residuals, so only orientation decides
    assert judged.residual[2] > 10 * judged.residual[0]
    assert judged.coverage[0] > 0.95 and judged.coverage[1] > 0.9 > 2 * judged.coverage[2]
    assert int(judged.score().argmax()) == 0


def test_residual_and_coverage_are_plain_means() -> None:
    one, two = ready(bumpy_sphere(2)), ready(bumpy_sphere(2, seed=1))
    fmap = torch.eye(12) + 0.1 * torch.randn(12, 12, generator=torch.Generator().manual_seed(0))
    judged = appraise(fmap[None], one, two, 50)
    embedded = (one.rows[:50, :12] @ fmap.T).double().numpy()
    queries = two.rows[:50, :12].double().numpy()
    gaps = ((queries[:, None] - embedded[None]) ** 2).sum(-1)
    assert float(judged.residual[0]) == pytest.approx(gaps.min(axis=1).mean(), rel=1e-4)
    assert float(judged.coverage[0]) == pytest.approx(len(set(gaps.argmin(axis=1))) / 50)


def test_hypotheses_are_judged_one_by_one() -> None:
    one, two = ready(bumpy_sphere(2)), ready(bumpy_sphere(2, seed=1))
    maps = torch.randn(4, 10, 10, generator=torch.Generator().manual_seed(1))
    together = appraise(maps, one, two, 100)
    for i in range(4):
        alone = appraise(maps[i : i + 1], one, two, 100)
        for name in ("orientation", "residual", "coverage"):
            torch.testing.assert_close(getattr(together, name)[i], getattr(alone, name)[0])


def test_the_orientation_of_point_clouds_is_estimated() -> None:
    mesh, flip = twin_shape()
    solid, cloud = ready(mesh), ready(Mesh(mesh.vertices, np.zeros((0, 3), np.int64)))
    maps = torch.stack([torch.arange(mesh.n_vertices), torch.from_numpy(flip)])
    for one, two in ((solid, cloud), (cloud, solid)):
        fmaps = torch.stack([from_p2p(one, two, p2p)[0] for p2p in maps])
        same, mirrored = appraise(fmaps, one, two, 100).orientation.tolist()
        assert same > 0.5 and mirrored < -0.5


def test_better_orientation_and_residual_score_higher() -> None:
    base = {"orientation": 0.2, "residual": 1.0, "coverage": 0.5}
    for changed in ({"orientation": 0.4}, {"residual": 0.5}):
        pairs = {name: torch.tensor([v, changed.get(name, v)]) for name, v in base.items()}
        before, after = Appraisal(**pairs).score().tolist()
        assert after > before


def test_orientation_beyond_a_cap_does_not_count() -> None:
    judged = Appraisal(torch.tensor([0.3, 0.6, 0.9]), torch.ones(3), torch.ones(3))
    low, middle, high = judged.score(orientation_cap=0.5).tolist()
    assert low < middle == high


def test_distinct_by_hand() -> None:
    # scalars 0, 0.4, 1, 1.3, 3 with scores 1, 5, 2, 4, 3
    maps = torch.tensor([0.0, 0.4, 1.0, 1.3, 3.0])[:, None, None]
    scores = torch.tensor([1.0, 5.0, 2.0, 4.0, 3.0])
    # best first 0.4; then 1.3 (0.9 away), 3; 1 is near 1.3, 0 is near 0.4
    assert distinct(maps, scores, 5, 1, 0.5).tolist() == [1, 3, 4]
    assert distinct(maps, scores, 2, 1, 0.5).tolist() == [1, 3]
    assert distinct(maps, scores, 5, 1, 0.0).tolist() == [1, 3, 4, 2, 0]


def test_distinct_looks_at_the_leading_block_only() -> None:
    maps = torch.zeros(2, 3, 3)
    maps[1, 2, 2] = 9.0
    scores = torch.tensor([0.0, 1.0])
    assert distinct(maps, scores, 2, 2, 0.5).tolist() == [1]
    assert distinct(maps, scores, 2, 3, 0.5).tolist() == [1, 0]


def test_roughness_is_the_dirichlet_energy_and_grows_with_tears() -> None:
    mesh, mirror = twin_shape()
    one = ready(mesh)
    identity = torch.arange(mesh.n_vertices)
    # the identity pulls back the surface itself, whose Dirichlet energy is twice its area, 1
    torn = identity.clone()
    torn[::10] = torch.from_numpy(mirror)[::10]
    maps = torch.stack([identity, torch.from_numpy(mirror), torn])
    energy = roughness(maps, one, one)
    np.testing.assert_allclose(energy[:2], 2.0, rtol=1e-4)
    assert energy[2] > 4.0


def test_curvature_tells_a_map_from_its_turned_twin() -> None:
    # a bump on one side only: turning the sphere by pi keeps orientation and smoothness
    sphere = icosphere(3)
    x, y, z = sphere.vertices.T
    radius = 1.0 + 0.3 * np.exp(-8 * ((x - 1) ** 2 + y**2 + z**2))
    one = ready(Mesh(sphere.vertices * radius[:, None], sphere.faces))
    turned = KDTree(sphere.vertices).query(sphere.vertices * [-1.0, 1, -1])[1]
    maps = torch.stack([torch.arange(sphere.n_vertices), torch.from_numpy(turned)])
    agreement = curvature_agreement(maps, one, one)
    np.testing.assert_allclose(agreement[0], 1.0, atol=1e-4)
    assert agreement[1] < 0.5


def test_the_curvature_of_point_clouds_agrees_with_that_of_their_surface() -> None:
    mesh, _ = twin_shape()
    cloud = ready(Mesh(mesh.vertices, np.zeros((0, 3), np.int64)))
    maps = torch.arange(mesh.n_vertices)[None]
    assert float(curvature_agreement(maps, cloud, ready(mesh))) > 0.9
