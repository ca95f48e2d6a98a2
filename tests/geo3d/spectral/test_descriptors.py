"""Heat and wave kernel signatures against plain sums, symmetries and invariances."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from helpers import bumpy_sphere, icosphere, moved, permuted, rotation

from geo3d.errors import InputError
from geo3d.mesh.mesh import Mesh
from geo3d.spectral.basis import Basis, eigenbasis
from geo3d.spectral.descriptors import hks, unit_norm, wks

Signature = Callable[[Basis, int], torch.Tensor]
BOTH = pytest.mark.parametrize("signature", [hks, wks])


def small_basis() -> Basis:
    return eigenbasis(bumpy_sphere(2), 20)


def test_hks_is_the_plain_sum() -> None:
    basis = small_basis()
    found = hks(basis, 5)
    evals, evecs = basis.evals.tolist(), basis.evecs.tolist()
    ends = 4 * math.log(10) / evals[-1], 4 * math.log(10) / evals[1]
    for j in range(5):
        time = ends[0] * (ends[1] / ends[0]) ** (j / 4)
        weights = [math.exp(-time * value) for value in evals]
        for vertex in (0, 57, 161):
            heat = sum(w * f * f for w, f in zip(weights, evecs[vertex], strict=True))
            assert float(found[vertex, j]) == pytest.approx(heat / sum(weights), rel=1e-9)


def test_wks_is_the_plain_sum() -> None:
    basis = small_basis()
    found = wks(basis, 6)
    evals, evecs = basis.evals.tolist(), basis.evecs.tolist()
    first, last = math.log(evals[1]), math.log(evals[-1])
    sigma = 7 * (last - first) / 6
    for j in range(6):
        energy = first + 2 * sigma + j / 5 * (last - first - 4 * sigma)
        # the constant function has no logarithm and takes no part
        weights = [
            math.exp(-((energy - math.log(value)) ** 2) / (2 * sigma**2)) for value in evals[1:]
        ]
        for vertex in (0, 57, 161):
            parts = zip(weights, evecs[vertex][1:], strict=True)
            expected = sum(w * f * f for w, f in parts) / sum(weights)
            assert float(found[vertex, j]) == pytest.approx(expected, rel=1e-9)


@BOTH
def test_all_points_of_a_sphere_look_alike(signature: Signature) -> None:
    # 16 functions: all of degrees 0 to 3, whose squares sum to constants
    found = signature(eigenbasis(icosphere(3), 16), 10)
    spread = (found.amax(0) - found.amin(0)) / found.mean(0)
    assert float(spread.max()) < 0.03
    uneven = signature(eigenbasis(bumpy_sphere(3), 16), 10)
    assert float(((uneven.amax(0) - uneven.amin(0)) / uneven.mean(0)).max()) > 0.2


@BOTH
def test_motion_mirror_and_order(signature: Signature) -> None:
    mesh = bumpy_sphere(2)
    expected = signature(small_basis(), 8)
    mirrored = Mesh(mesh.vertices * [-1.0, 1, 1], mesh.faces[:, ::-1])
    for other in (moved(mesh, rotation(1), 3.0), mirrored):
        found = signature(eigenbasis(other, 20), 8)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-8)
    copy, order = permuted(mesh)
    found = signature(eigenbasis(copy, 20), 8)
    torch.testing.assert_close(found, expected[order], rtol=1e-5, atol=1e-8)


@BOTH
def test_scale_divides_by_the_area(signature: Signature) -> None:
    expected = signature(small_basis(), 8)
    found = signature(eigenbasis(moved(bumpy_sphere(2), 3 * np.eye(3)), 20), 8)
    torch.testing.assert_close(9 * found, expected, rtol=1e-4, atol=0)


@BOTH
def test_signs_of_eigenvectors_do_not_matter(signature: Signature) -> None:
    basis = small_basis()
    flipped = Basis(basis.evals, -basis.evecs, basis.mass)
    assert torch.equal(signature(flipped, 8), signature(basis, 8))


@BOTH
def test_a_second_constant_is_no_error(signature: Signature) -> None:
    """A shape in two parts may have an eigenvalue of exactly zero twice."""
    basis = small_basis()
    evals = basis.evals.clone()
    evals[:2] = 0.0
    assert torch.isfinite(signature(Basis(evals, basis.evecs, basis.mass), 8)).all()


def test_unit_norm() -> None:
    mass = torch.tensor([1.0, 4.0])
    # norms under the mass: sqrt(9 + 4 * 4) = 5, sqrt(4) = 2
    found = unit_norm(torch.tensor([[3.0, 0.0], [2.0, 1.0]]), mass)
    torch.testing.assert_close(found, torch.tensor([[0.6, 0.0], [0.4, 0.5]]))


@BOTH
def test_two_eigenpairs_are_too_few_and_three_are_enough(signature: Signature) -> None:
    assert torch.isfinite(signature(small_basis().truncate(3), 8)).all()
    with pytest.raises(InputError) as caught:
        signature(small_basis().truncate(2), 8)
    assert caught.value.code == "spectral.too_few_eigenpairs"
