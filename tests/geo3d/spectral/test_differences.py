"""Shape differences of maps whose distortion is known."""

from __future__ import annotations

import pytest
import torch
from helpers import bumpy_sphere, permuted

from geo3d.errors import ShapeError
from geo3d.mesh.mesh import Mesh
from geo3d.spectral.basis import eigenbasis
from geo3d.spectral.differences import area_difference, conformal_difference
from geo3d.spectral.fmap import p2p_to_fmap


def test_an_isometry_and_a_scaling_distort_what_they_should() -> None:
    mesh = bumpy_sphere(2)
    copy, order = permuted(Mesh(3 * mesh.vertices, mesh.faces, name="larger"), seed=3)
    one, two = eigenbasis(mesh, 20), eigenbasis(copy, 20)
    fmap_12 = p2p_to_fmap(torch.from_numpy(order), one, two)
    identity = torch.eye(20, dtype=torch.float64)
    assert torch.allclose(area_difference(fmap_12), 9 * identity, atol=1e-6)
    bent = conformal_difference(fmap_12, one.evals, two.evals)
    assert torch.allclose(bent, identity, atol=1e-5)


def test_operators_say_how_inner_products_change() -> None:
    rng = torch.Generator().manual_seed(0)
    fmap_12 = torch.randn(5, 4, dtype=torch.float64, generator=rng)
    evals_1 = torch.tensor([0.0, 1.0, 2.0, 5.0], dtype=torch.float64)
    evals_2 = torch.tensor([0.0, 1.5, 2.0, 4.0, 6.0], dtype=torch.float64)
    f, g = torch.randn(2, 4, dtype=torch.float64, generator=rng)
    there = (fmap_12 @ f) @ (fmap_12 @ g)
    assert torch.allclose(f @ area_difference(fmap_12) @ g, there)
    f, g = (torch.cat([torch.zeros(1).double(), h[1:]]) for h in (f, g))
    bent = conformal_difference(fmap_12, evals_1, evals_2)
    there = (fmap_12 @ f) @ (evals_2 * (fmap_12 @ g))
    assert torch.allclose(f @ (evals_1 * (bent @ g)), there)
    assert torch.equal(bent[0], torch.eye(4).double()[0])


def test_eigenvalues_must_fit() -> None:
    with pytest.raises(ShapeError) as caught:
        conformal_difference(torch.zeros(3, 4), torch.ones(3), torch.ones(4))
    assert caught.value.code == "fmap.bad_shape"
