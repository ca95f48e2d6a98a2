"""The descriptor fit against a dense solve of the same energy; operators against worked cases."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from helpers import bumpy_sphere, grid

from geo3d.errors import NumericalError
from geo3d.mesh.mesh import Mesh
from geo3d.mesh.operators import gradient_operators, tangent_frames
from geo3d.spectral.basis import Basis, eigenbasis
from geo3d.spectral.fit import fit_fmap, multiplication_operators, orientation_operators
from geo3d.spectral.fmap import laplacian_mask, p2p_to_fmap

Gradient = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def gradient_of(mesh: Mesh) -> Gradient:
    matrices = gradient_operators(mesh, tangent_frames(mesh))

    def gradient(functions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        along_x, along_y = (torch.from_numpy(m @ functions.numpy()) for m in matrices)
        return along_x, along_y

    return gradient


def dense_fit(
    a: np.ndarray,
    b: np.ndarray,
    mask: np.ndarray,
    weights: tuple[float, float],
    commuting: list[tuple[float, np.ndarray, np.ndarray]],
    pinned: np.ndarray,
) -> np.ndarray:
    """Solve the energy as one least-squares problem in the entries of C, row after row."""
    k2, k1 = mask.shape
    rows = [np.sqrt(weights[0]) * np.kron(np.eye(k2), a.T)]
    right = [np.sqrt(weights[0]) * b.ravel()]
    rows.append(np.diag(np.sqrt(weights[1] * mask.ravel())))
    right.append(np.zeros(k2 * k1))
    for weight, first, second in commuting:
        for gamma, delta in zip(first, second, strict=True):
            system = np.kron(np.eye(k2), gamma.T) - np.kron(delta, np.eye(k1))
            rows.append(np.sqrt(weight) * system)
            right.append(np.zeros(k2 * k1))
    system, target = np.concatenate(rows), np.concatenate(right)
    is_free = np.arange(k2 * k1) % k1 != 0
    target = target - system[:, ~is_free] @ pinned
    solution = np.empty(k2 * k1)
    solution[~is_free] = pinned
    solution[is_free] = np.linalg.lstsq(system[:, is_free], target, rcond=None)[0]
    return solution.reshape(k2, k1)


def pair() -> tuple[Basis, Basis]:
    return eigenbasis(bumpy_sphere(2), 7), eigenbasis(bumpy_sphere(1, seed=2), 6)


@pytest.mark.parametrize("with_operators", [False, True])
def test_dense_least_squares_agree(with_operators: bool) -> None:
    one, two = pair()
    a, b = random(7, 9), random(6, 9, seed=1)
    commuting = ()
    if with_operators:
        commuting = (
            (0.3, random(2, 7, 7, seed=2), random(2, 6, 6, seed=3)),
            (0.05, random(1, 7, 7, seed=4), random(1, 6, 6, seed=5)),
        )
    found = fit_fmap(a, b, one, two, w_descr=0.8, w_lap=5.0, commuting=commuting)
    mask = laplacian_mask(one.evals, two.evals).numpy()
    pinned = np.zeros(6)
    sign = float(torch.sign(one.evecs[0, 0] * two.evecs[0, 0]))
    pinned[0] = sign * float((two.mass.sum() / one.mass.sum()).sqrt())
    expected = dense_fit(
        a.numpy(),
        b.numpy(),
        mask / mask.sum(),
        (0.8, 5.0),
        [(w, g.numpy(), d.numpy()) for w, g, d in commuting],
        pinned,
    )
    np.testing.assert_allclose(found, expected, atol=1e-7)


def test_equal_shapes_give_the_identity() -> None:
    one, _ = pair()
    descriptors = random(162, 12)
    operators = multiplication_operators(one, descriptors)
    coefficients = one.project(descriptors)
    found = fit_fmap(coefficients, coefficients, one, one, commuting=((0.1, operators, operators),))
    torch.testing.assert_close(found, torch.eye(7).double(), atol=1e-7, rtol=0)


def test_the_constant_function_goes_to_the_constant_function() -> None:
    one, two = pair()
    found = fit_fmap(random(7, 9), random(6, 9, seed=1), one, two)
    ones = torch.ones(162, 1, dtype=torch.float64)
    carried = two.reconstruct(found @ one.project(ones))
    torch.testing.assert_close(carried, torch.ones(42, 1).double(), atol=1e-6, rtol=0)


def test_nothing_to_fit_leaves_the_constant_alone() -> None:
    one, two = pair()
    found = fit_fmap(torch.zeros(7, 2).double(), torch.zeros(6, 2).double(), one, two)
    expected = torch.zeros(6, 7).double()
    scale = (two.mass.sum() / one.mass.sum()).sqrt()
    expected[0, 0] = scale * (one.evecs[0, 0] * two.evecs[0, 0]).sign()
    torch.testing.assert_close(found, expected)


def test_weights_that_are_not_given() -> None:
    one, two = pair()
    a, b = random(7, 4), random(6, 4, seed=1)
    assert torch.equal(
        fit_fmap(a, b, one, two), fit_fmap(a, b, one, two, w_descr=1.0, w_lap=1e-2, tolerance=1e-10)
    )


def test_multiplication_by_hand() -> None:
    evecs = torch.tensor([[1.0, 1.0], [1.0, -1.0]]).double()
    basis = Basis(torch.tensor([0.0, 1.0]).double(), evecs, torch.tensor([0.5, 0.5]).double())
    found = multiplication_operators(basis, torch.tensor([[3.0, 0.0], [3.0, 2.0]]).double())
    # times 3 is 3 I; times (0, 2) takes 1 to 1 - phi_1 and phi_1 to phi_1 - 1
    assert found.tolist() == [[[3.0, 0.0], [0.0, 3.0]], [[1.0, -1.0], [-1.0, 1.0]]]


def test_operators_weigh_by_mass_by_hand() -> None:
    """Vertices of areas 1/4 and 3/4, functions 1 and (a, -b) of unit norm and mean 0."""
    a, b = 3**0.5, 3**-0.5
    mass = torch.tensor([0.25, 0.75]).double()
    evecs = torch.tensor([[1.0, a], [1.0, -b]]).double()
    basis = Basis(torch.tensor([0.0, 1.0]).double(), evecs, mass)
    descriptor = torch.tensor([[4.0], [8.0]]).double()
    # mean 1/4 4 + 3/4 8; a - 6 b; 3 + 2
    table = torch.tensor([[[7.0, a - 6 * b], [a - 6 * b, 5.0]]]).double()
    torch.testing.assert_close(multiplication_operators(basis, descriptor), table)

    def gradient(functions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return functions, 2 * functions + 1

    # <n, grad f x grad g> = f (2 g + 1) - (2 f + 1) g = f - g
    found = orientation_operators(basis, descriptor, gradient)
    expected = [
        [
            sum(float(mass[v] * evecs[v, i] * (descriptor[v, 0] - evecs[v, j])) for v in (0, 1))
            for j in (0, 1)
        ]
        for i in (0, 1)
    ]
    torch.testing.assert_close(found[0], torch.tensor(expected).double())


def test_multiplication_commutes_with_true_maps() -> None:
    """On complete bases f -> f[p] intertwines multiplication by f and by f[p]."""
    one, two = eigenbasis(bumpy_sphere(1), 40), eigenbasis(bumpy_sphere(1, seed=4), 40)
    order = torch.randperm(42, generator=torch.Generator().manual_seed(0))
    descriptors = one.reconstruct(random(40, 2)[:40])
    fmap = p2p_to_fmap(order, one, two)
    first = multiplication_operators(one, descriptors)
    second = multiplication_operators(two, descriptors[order])
    gap = (fmap @ first - second @ fmap).norm() / (fmap @ first).norm()
    # 40 of 42 dimensions are in the bases
    assert float(gap) < 0.4
    wrong = multiplication_operators(two, descriptors)
    assert float((fmap @ first - wrong @ fmap).norm() / (fmap @ first).norm()) > 0.8


def test_orientation_by_hand_on_the_plane() -> None:
    mesh = grid(5)
    x, y = (torch.from_numpy(mesh.vertices[:, i].copy()) for i in (0, 1))
    mass = torch.full((25,), 1 / 25, dtype=torch.float64)
    table = torch.stack([torch.ones(25).double(), x, y], dim=1)
    basis = Basis(torch.zeros(3).double(), table, mass)
    found = orientation_operators(basis, torch.stack([x, y], dim=1), gradient_of(mesh))
    # <n, grad x x grad g> is 0, 0, 1 for g = 1, x, y; <n, grad y x grad g> is 0, -1, 0
    first_row = torch.tensor([[0.0, 0.0, 1.0], [0.0, -1.0, 0.0]]).double()
    torch.testing.assert_close(found[:, 0], first_row, atol=5e-3, rtol=0)


def test_orientation_changes_sign_under_a_mirror() -> None:
    mesh = bumpy_sphere(3)
    basis = eigenbasis(mesh, 10)
    mirrored = Mesh(mesh.vertices * [-1.0, 1, 1], mesh.faces[:, ::-1])
    descriptors = torch.from_numpy(mesh.vertices.copy())
    here = orientation_operators(basis, descriptors, gradient_of(mesh))
    there = orientation_operators(basis, descriptors, gradient_of(mirrored))
    scale = float(here.abs().max())
    assert scale > 0.1
    torch.testing.assert_close(there, -here, atol=2e-3 * scale, rtol=0)
    # turned inside out, the same positions have the opposite normals
    inside_out = Mesh(mesh.vertices, mesh.faces[:, ::-1])
    out = orientation_operators(basis, descriptors, gradient_of(inside_out))
    torch.testing.assert_close(out, -here, atol=2e-3 * scale, rtol=0)


def test_orientation_operators_tell_a_mirror_twin() -> None:
    """With them the fit prefers the map that keeps the sides, on a shape with a mirror symmetry."""
    mesh = bumpy_sphere(2)
    basis = eigenbasis(mesh, 10)
    descriptors = torch.from_numpy(mesh.vertices.copy())
    operators = orientation_operators(basis, descriptors, gradient_of(mesh))
    zero = torch.zeros(10, 1, dtype=torch.float64)
    kept = fit_fmap(zero, zero, basis, basis, w_lap=1e-6, commuting=((1.0, operators, operators),))
    turned = fit_fmap(
        zero, zero, basis, basis, w_lap=1e-6, commuting=((1.0, operators, -operators),)
    )
    assert float(kept.diagonal().mean()) > 0.9
    assert float(turned.diagonal()[1:].abs().mean()) < 0.5


def test_non_finite_descriptors_diverge() -> None:
    one, two = pair()
    a = random(7, 9)
    a[0, 0] = torch.nan
    with pytest.raises(NumericalError) as caught:
        fit_fmap(a, random(6, 9), one, two)
    assert caught.value.code == "fmap.fit_diverged"
