"""Functional maps: conversions, masks and solves against loops, closed forms and gradcheck.

Spectral ICP: fixed point, orthogonality, a plain loop.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import bumpy_sphere, moved, permuted, rotation

from geo3d.errors import NumericalError, ShapeError
from geo3d.spectral.basis import Basis, eigenbasis
from geo3d.spectral.fmap import (
    check_p2p,
    fmap_to_p2p,
    icp,
    laplacian_mask,
    p2p_to_fmap,
    resolvent_mask,
    solve_fmap,
)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def two_vertices(heights: list[float]) -> Basis:
    """Return the functions 1 and h on two vertices of mass 1/2."""
    evecs = torch.tensor([[1.0, heights[0]], [1.0, heights[1]]], dtype=torch.float64)
    return Basis(torch.tensor([0.0, 1.0]).double(), evecs, torch.tensor([0.5, 0.5]).double())


def test_two_vertices_by_hand() -> None:
    one, two = two_vertices([1.0, -1.0]), two_vertices([-1.0, 1.0])
    swap, same = torch.tensor([1, 0]), torch.tensor([0, 1])
    # the second function of 1 equals that of 2 where vertices are swapped, minus it where not
    torch.testing.assert_close(p2p_to_fmap(swap, one, two), torch.eye(2).double())
    flipped = torch.diag(torch.tensor([1.0, -1.0])).double()
    torch.testing.assert_close(p2p_to_fmap(same, one, two), flipped)
    assert fmap_to_p2p(flipped, one.evecs, two.evecs).tolist() == [0, 1]
    assert fmap_to_p2p(torch.eye(2).double(), one.evecs, two.evecs).tolist() == [1, 0]


def test_direction_and_layout() -> None:
    """C has shape (k2, k1) and takes coefficients of f to those of f[p2p_21]."""
    one, two = eigenbasis(bumpy_sphere(2), 12), eigenbasis(bumpy_sphere(1, seed=3), 9)
    p2p_21 = torch.randint(0, 162, (42,), generator=torch.Generator().manual_seed(1))
    fmap_12 = p2p_to_fmap(p2p_21, one, two)
    assert fmap_12.shape == (9, 12)
    coefficients = random(12, 2)
    pulled = one.reconstruct(coefficients)[p2p_21]
    torch.testing.assert_close(fmap_12 @ coefficients, two.project(pulled))
    for i, j in ((0, 0), (3, 7), (8, 11)):
        entry = sum(
            float(two.mass[v] * two.evecs[v, i] * one.evecs[int(p2p_21[v]), j]) for v in range(42)
        )
        assert float(fmap_12[i, j]) == pytest.approx(entry, abs=1e-12)


def test_identity_and_permutation_are_recovered() -> None:
    mesh = bumpy_sphere(2)
    basis = eigenbasis(mesh, 30)
    identity = p2p_to_fmap(torch.arange(162), basis, basis)
    torch.testing.assert_close(identity, torch.eye(30).double(), atol=1e-9, rtol=0)
    assert torch.equal(fmap_to_p2p(identity, basis.evecs, basis.evecs), torch.arange(162))
    copy, order = permuted(moved(mesh, rotation(0)))
    other = eigenbasis(copy, 30)
    p2p_21 = torch.from_numpy(order)
    fmap_12 = p2p_to_fmap(p2p_21, basis, other)
    torch.testing.assert_close(fmap_12.T @ fmap_12, torch.eye(30).double(), atol=1e-6, rtol=0)
    assert torch.equal(fmap_to_p2p(fmap_12, basis.evecs, other.evecs), p2p_21)


def test_wider_tables_are_cut_to_the_map() -> None:
    basis = eigenbasis(bumpy_sphere(2), 30)
    fmap_12 = random(10, 8)
    expected = fmap_to_p2p(fmap_12, basis.evecs[:, :8], basis.evecs[:, :10])
    assert torch.equal(fmap_to_p2p(fmap_12, basis.evecs, basis.evecs), expected)


def test_solve_by_hand() -> None:
    # one coefficient each: minimise (2 c - 6)^2 + w d c^2, so c = 12 / (4 + w d)
    a, b, mask = (torch.tensor([[x]]).double() for x in (2.0, 6.0, 4.0))
    assert float(solve_fmap(a, b)) == pytest.approx(3.0)
    assert float(solve_fmap(a, b, mask, 0.5)) == pytest.approx(2.0)


def test_solve_row_by_row() -> None:
    a, b, mask = random(6, 20), random(5, 20, seed=1), random(5, 6, seed=2).square()
    found = solve_fmap(a, b, mask, 0.7).numpy()
    gram = a.numpy() @ a.numpy().T
    for i in range(5):
        row = np.linalg.solve(gram + 0.7 * np.diag(mask[i].numpy()), a.numpy() @ b[i].numpy())
        np.testing.assert_allclose(found[i], row, rtol=1e-10)


def test_solve_minimises_its_energy() -> None:
    a, b, mask = random(4, 9), random(3, 9, seed=1), random(3, 4, seed=2).square()
    fmap = solve_fmap(a, b, mask, 0.3).requires_grad_()
    energy = (fmap @ a - b).square().sum() + 0.3 * (mask * fmap.square()).sum()
    (slope,) = torch.autograd.grad(energy, fmap)
    torch.testing.assert_close(slope, torch.zeros(3, 4).double(), atol=1e-10, rtol=0)


def test_solve_without_mask_is_least_squares_and_finds_a_true_map() -> None:
    a, truth = random(6, 15), random(5, 6, seed=1)
    torch.testing.assert_close(solve_fmap(a, truth @ a), truth)
    b = random(5, 15, seed=2)
    expected = np.linalg.lstsq(a.numpy().T, b.numpy().T, rcond=None)[0].T
    np.testing.assert_allclose(solve_fmap(a, b), expected, rtol=1e-9)
    zero = torch.zeros(5, 6).double()
    torch.testing.assert_close(solve_fmap(a, b, zero, 1.0), solve_fmap(a, b))
    # a mask weighs nothing until it is told to
    torch.testing.assert_close(solve_fmap(a, b, zero + 5), solve_fmap(a, b))


def test_batches_are_independent() -> None:
    a, b, mask = random(3, 4, 9), random(3, 5, 9, seed=1), random(3, 5, 4, seed=2).square()
    together = solve_fmap(a, b, mask, 0.1)
    assert together.shape == (3, 5, 4)
    for i in range(3):
        torch.testing.assert_close(together[i], solve_fmap(a[i], b[i], mask[i], 0.1))


def test_solve_has_right_gradients() -> None:
    a = random(3, 7).requires_grad_()
    b = random(4, 7, seed=1).requires_grad_()
    mask = random(4, 3, seed=2).square().requires_grad_()
    assert torch.autograd.gradcheck(lambda x, y, d: solve_fmap(x, y, d, 0.5), (a, b, mask))
    assert torch.autograd.gradcheck(lambda x, y: solve_fmap(x, y), (a, b))


def test_laplacian_mask_by_hand() -> None:
    found = laplacian_mask(torch.tensor([0.0, 2.0, 5.0]), torch.tensor([1.0, 3.0]))
    assert found.tolist() == [[1.0, 1.0, 16.0], [9.0, 1.0, 4.0]]


def test_resolvent_mask_is_a_distance_of_resolvents() -> None:
    evals_1, evals_2 = random(5).square(), random(4, seed=1).square()
    found = resolvent_mask(evals_1, evals_2, gamma=0.7)
    top = max(float(evals_1.max()), float(evals_2.max()))
    for i in range(4):
        for j in range(5):
            first, second = (float(x / top) ** 0.7 for x in (evals_1[j], evals_2[i]))
            # |1 / (a - i) - 1 / (b - i)|^2 of the complex resolvents at i
            gap = abs(1 / (first - 1j) - 1 / (second - 1j)) ** 2
            assert float(found[i, j]) == pytest.approx(gap, abs=1e-12)


def test_masks_are_zero_on_equal_spectra_and_transpose_when_swapped() -> None:
    evals_1, evals_2 = random(6).square(), random(4, seed=1).square()
    for mask in (laplacian_mask, resolvent_mask):
        assert not mask(evals_1, evals_1).diagonal().any()
        torch.testing.assert_close(mask(evals_1, evals_2), mask(evals_2, evals_1).T)
        assert (mask(evals_1, evals_2) >= 0).all()
    assert float(resolvent_mask(1e6 * evals_1, 1e6 * evals_2).max()) <= 1.25
    torch.testing.assert_close(
        resolvent_mask(7 * evals_1, 7 * evals_2), resolvent_mask(evals_1, evals_2)
    )


def test_bad_vertex_maps_are_refused() -> None:
    for p2p_21 in ([0, 1], [0, 1, 2, 4], [0, 1, 2, -1]):
        with pytest.raises(ShapeError) as caught:
            check_p2p(torch.tensor(p2p_21), n_source=4, n_target=4)
        assert caught.value.code == "fmap.bad_p2p"
    check_p2p(torch.tensor([3, 0, 0]), n_source=4, n_target=3)
    with pytest.raises(ShapeError) as caught:
        check_p2p(torch.zeros(4, dtype=torch.int64), n_source=4, n_target=3)
    assert "other way" in caught.value.message
    one, two = two_vertices([1.0, -1.0]), two_vertices([-1.0, 1.0])
    with pytest.raises(ShapeError) as caught:
        p2p_to_fmap(torch.tensor([0, 2]), one, two)
    assert caught.value.code == "fmap.bad_p2p"


def test_coefficients_that_do_not_fit_are_refused() -> None:
    unchecked = getattr(solve_fmap, "__wrapped__", solve_fmap)
    for a, b, mask in (
        (random(3, 7), random(4, 6), None),
        (random(3, 7), random(4, 7), random(3, 4)),
        (random(2, 3, 7), random(4, 7), None),
    ):
        with pytest.raises(ShapeError) as caught:
            unchecked(a, b, mask, 1.0)
        assert caught.value.code == "fmap.bad_shape"


def test_too_few_descriptors_are_singular() -> None:
    a = torch.zeros(3, 2).double()
    for mask in (None, torch.zeros(4, 3).double()):
        with pytest.raises(NumericalError) as caught:
            solve_fmap(a, random(4, 2), mask, 1.0)
        assert caught.value.code == "fmap.singular"


def test_the_identity_stays() -> None:
    basis = eigenbasis(bumpy_sphere(2), 15)
    identity = torch.eye(15, dtype=torch.float64)
    torch.testing.assert_close(icp(identity, basis, basis, 3), identity, atol=1e-9, rtol=0)
    start = random(6, 6)
    assert torch.equal(icp(start, basis, basis, 0), start)


def test_singular_values_become_one() -> None:
    one, two = eigenbasis(bumpy_sphere(2), 15), eigenbasis(bumpy_sphere(2, seed=1), 15)
    for shape in ((12, 12), (10, 13), (13, 10)):
        found = icp(random(*shape), one, two, 2)
        assert found.shape == shape
        singular = torch.linalg.svdvals(found)
        torch.testing.assert_close(singular, torch.ones_like(singular), atol=1e-10, rtol=0)


def test_a_plain_loop_gives_the_same() -> None:
    one, two = eigenbasis(bumpy_sphere(1), 12), eigenbasis(bumpy_sphere(1, seed=1), 12)
    phi_1, phi_2 = one.evecs.numpy()[:, :7], two.evecs.numpy()[:, :8]
    fmap = np.eye(8, 7)
    for _ in range(3):
        embedded = phi_1 @ fmap.T
        images = [int(((embedded - row) ** 2).sum(axis=1).argmin()) for row in phi_2]
        fitted = np.linalg.lstsq(phi_2, phi_1[images], rcond=None)[0]
        u, _, vt = np.linalg.svd(fitted, full_matrices=False)
        fmap = u @ vt
    found = icp(torch.eye(8, 7, dtype=torch.float64), one, two, 3)
    np.testing.assert_allclose(found, fmap, atol=1e-10)


def test_a_noisy_map_improves() -> None:
    mesh = bumpy_sphere(2)
    copy, order = permuted(moved(mesh, rotation(2)))
    one, two = eigenbasis(mesh, 30), eigenbasis(copy, 30)
    truth = torch.from_numpy(order)
    start = p2p_to_fmap(truth, one, two) + 0.3 * random(30, 30)
    before, after = (
        float((fmap_to_p2p(fmap, one.evecs, two.evecs) == truth).double().mean())
        for fmap in (start, icp(start, one, two, 5))
    )
    assert before < 0.9 and after > 0.99
