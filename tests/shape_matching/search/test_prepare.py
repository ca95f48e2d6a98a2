"""A prepared shape, piece by piece, against formulas written out here."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import bumpy_sphere, grid, icosphere

from geo3d.errors import MeshError
from geo3d.mesh.mesh import Mesh
from geo3d.mesh.operators import laplacian
from geo3d.mesh.ops import total_area, vertex_normals
from geo3d.mesh.sampling import farthest_point_samples
from geo3d.spectral.basis import eigenbasis
from shape_matching.search import prepare as prepare_module
from shape_matching.search.prepare import prepare

CPU = torch.device("cpu")


def test_fifty_vertices_are_enough_and_forty_nine_are_not() -> None:
    assert prepare(grid(10, 5), 8, 60, "auto", CPU).samples.shape == (50,)
    with pytest.raises(MeshError) as caught:
        prepare(grid(7), 8, 60, "auto", CPU)
    assert caught.value.code == "match.too_small"


def test_pieces_are_those_of_the_unit_mesh() -> None:
    mesh = bumpy_sphere(2)
    shape = prepare(mesh, 1000, 40, "auto", CPU)
    unit = shape.mesh
    assert total_area(unit) == pytest.approx(1.0)
    np.testing.assert_allclose(unit.vertices.mean(axis=0), 0.0, atol=1e-12)
    # two eigenpairs fewer than vertices: the solver needs some left
    assert shape.basis.k == mesh.n_vertices - 2
    samples = farthest_point_samples(unit, 40)
    np.testing.assert_array_equal(shape.samples, samples)
    assert shape.normals is not None and shape.slopes is not None and shape.gradients is not None
    np.testing.assert_allclose(shape.normals, vertex_normals(unit)[samples], atol=1e-6)
    for axis in (0, 1):
        assert torch.equal(shape.gradients[axis], shape.slopes[axis][shape.samples])
    stiffness, mass = laplacian(unit)
    assert abs(shape.stiffness - stiffness).max() == 0
    whole = shape.basis.evecs.T.numpy() @ (mass[:, None] * unit.vertices)
    np.testing.assert_allclose(shape.positions, whole, atol=1e-5)
    few = prepare(mesh, 12, 1000, "auto", CPU)
    assert few.basis.k == 12 and len(few.samples) == mesh.n_vertices


def test_curvature_is_smoothed_centred_and_scaled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clipped mean curvature after three heat flows, each column of mean 0 and unit norm."""
    mesh = bumpy_sphere(3)
    vertices = mesh.vertices.copy()
    vertices[7] *= 0.5  # a pit, whose curvature is cut
    shape = prepare(Mesh(vertices, mesh.faces), 50, 100, "auto", CPU)
    unit = shape.mesh
    stiffness, mass = laplacian(unit)
    bend = ((stiffness @ unit.vertices) * vertex_normals(unit)).sum(axis=1) / (2 * mass)
    assert np.median(bend) > 0
    basis = eigenbasis(unit, 50, cache=False)
    evecs, evals = basis.evecs.numpy(), basis.evals.numpy()
    limit = 0.6 * np.abs(bend).max()
    monkeypatch.setattr(prepare_module, "CURVATURE_LIMIT", limit)
    shape = prepare(replace(mesh, vertices=vertices), 50, 100, "auto", CPU)
    coefficients = evecs.T @ (mass * bend.clip(-limit, limit))
    assert shape.curvature is not None
    for column, time in zip(shape.curvature.T.numpy(), (3e-4, 1e-3, 3e-3), strict=True):
        smooth = evecs @ (np.exp(-time * evals) * coefficients)
        smooth -= (mass * smooth).sum() / mass.sum()
        np.testing.assert_allclose(column, smooth / np.sqrt((mass * smooth**2).sum()), atol=2e-4)


def test_a_round_sphere_has_no_curvature_to_tell() -> None:
    shape = prepare(icosphere(3), 20, 100, "auto", CPU)
    assert shape.curvature is not None and torch.isfinite(shape.curvature).all()


def test_a_cloud_is_scaled_as_one_with_its_basis() -> None:
    mesh = bumpy_sphere(2)
    cloud = Mesh(mesh.vertices * 3.0, np.zeros((0, 3), np.int64), name="dots")
    shape = prepare(cloud, 20, 100, "auto", CPU)
    basis = shape.basis
    assert float(basis.mass.sum()) == pytest.approx(1.0, rel=1e-5)
    gram = basis.evecs.T @ (basis.mass[:, None] * basis.evecs)
    torch.testing.assert_close(gram, torch.eye(20), atol=1e-4, rtol=0)
    # Eigenvalues are those of the Laplacian of the scaled points.
    scale = np.ptp(shape.mesh.vertices[:, 0]) / np.ptp(cloud.vertices[:, 0])
    own = eigenbasis(cloud, 20, cache=False)
    np.testing.assert_allclose(basis.evals, own.evals / scale**2, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(scale**2, 1 / float(own.mass.sum()), rtol=1e-4)
