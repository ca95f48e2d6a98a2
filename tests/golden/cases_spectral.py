"""Golden cases of operators, spectra, descriptors, functional maps and ZoomOut."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import scipy.sparse as sp
import torch

from geo3d.mesh.mesh import Mesh
from geo3d.mesh.operators import fem_mass, gradient_operators, laplacian, tangent_frames
from geo3d.spectral.basis import Basis, eigenbasis
from geo3d.spectral.descriptors import hks, unit_norm, wks
from geo3d.spectral.fit import fit_fmap, multiplication_operators
from geo3d.spectral.fmap import (
    fmap_to_p2p,
    icp,
    laplacian_mask,
    nearest,
    p2p_to_fmap,
    resolvent_mask,
    solve_fmap,
)
from geo3d.spectral.zoomout import sizes, zoomout


def check_operators(path: Path) -> None:
    """Compare Laplacian, mass, frames, gradients and the eigenspaces of one mesh."""
    case = np.load(path)
    mesh = Mesh(case["verts"], case["faces"])
    stiffness, mass = laplacian(mesh)
    np.testing.assert_allclose(mass, case["mass"], rtol=1e-9)
    assert abs(stiffness - _csr(case, "L")).max() < 1e-4
    frames = tangent_frames(mesh)
    np.testing.assert_allclose(frames, case["frames"], atol=1e-6)
    for found, name in zip(gradient_operators(mesh, frames), ("gradX", "gradY"), strict=True):
        assert abs(found - _csr(case, name)).max() < 1e-4
    basis = eigenbasis(mesh, 64, cache=False)
    np.testing.assert_allclose(basis.evals.numpy(), case["evals"], rtol=1e-5)
    _same_eigenspaces(basis.evecs.numpy(), case["evecs"], case["evals"], mass)


def check_descriptors(path: Path) -> None:
    """Compare HKS and WKS with 128 columns on 128 eigenpairs."""
    case = np.load(path)
    for name in "ab":
        shape = np.load(path.with_name(f"operators_{name}.npz"))
        basis = eigenbasis(Mesh(shape["verts"], shape["faces"]), 128, cache=False)
        for kind, function in (("hks", hks), ("wks", wks)):
            if f"{name}_{kind}" in case:
                found = unit_norm(function(basis, 128), basis.mass).numpy()[:, case["columns"]]
                np.testing.assert_allclose(found, case[f"{name}_{kind}"], rtol=1e-4)


def check_pyfm_mesh(path: Path) -> None:
    """Compare areas, stiffness, consistent mass, eigenvalues and descriptors."""
    case = np.load(path)
    shape = np.load(path.with_name("operators_a.npz"))
    mesh = Mesh(shape["verts"], shape["faces"])
    stiffness, mass = laplacian(mesh)
    np.testing.assert_allclose(mass, case["A_lumped"], rtol=1e-6)
    np.testing.assert_allclose(mass.sum(), case["area"], rtol=1e-6)
    assert abs(stiffness - _csr(case, "W")).max() < 1e-9
    assert abs(fem_mass(mesh) - _csr(case, "Afem")).max() < 1e-9
    basis = eigenbasis(mesh, 64, cache=False)
    # the shift moves every eigenvalue by 1e-8 / mass, which only the first (0) can feel
    np.testing.assert_allclose(basis.evals[1:], case["eigenvalues"][1:], rtol=1e-5)
    narrow = basis.truncate(40)
    np.testing.assert_allclose(wks(narrow, 24), case["wks24_k40"], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(hks(narrow, 24), case["hks24_k40"], rtol=1e-4, atol=1e-6)


def check_pyfm_fit(path: Path) -> None:
    """Compare the descriptor fit, its vertex maps in both embeddings, ICP and ZoomOut."""
    case = np.load(path)
    masses = (
        np.load(path.with_name("pyfm_mesh.npz"))["A_lumped"],
        np.load(path.with_name("operators_b.npz"))["mass"],
    )
    one, two = (
        Basis(_double(case[f"ev{i}"]), _double(case[f"U{i}"]), _double(mass))
        for i, mass in ((1, masses[0]), (2, masses[1]))
    )
    small_1, small_2 = one.truncate(20), two.truncate(20)
    descr_1, descr_2 = _double(case["descr1"]), _double(case["descr2"])
    commuting = (
        0.1,
        multiplication_operators(small_1, descr_1),
        multiplication_operators(small_2, descr_2),
    )
    fitted = fit_fmap(
        small_1.project(descr_1),
        small_2.project(descr_2),
        small_1,
        small_2,
        w_lap=1e-2,
        commuting=(commuting,),
    )
    np.testing.assert_allclose(fitted, case["C_fit"], atol=2e-3)
    given = _double(case["C_fit"])
    _mostly_equal(fmap_to_p2p(given, one.evecs, two.evecs), case["p2p_fit"], 0.99)
    adjoint = nearest(two.evecs[:, :20] @ given, one.evecs[:, :20])
    _mostly_equal(adjoint, case["p2p_fit_adj"], 0.99)
    np.testing.assert_allclose(icp(given, one, two, 5), case["C_icp5"], atol=1e-6)
    fmap = given
    for k in range(22, 42, 2):
        p2p_21 = fmap_to_p2p(fmap, one.evecs, two.evecs)
        fmap = p2p_to_fmap(p2p_21, one.truncate(k), two.truncate(k))
    np.testing.assert_allclose(fmap, case["C_zo"], atol=1e-5)
    _mostly_equal(fmap_to_p2p(fmap, one.evecs, two.evecs), case["p2p_zo"], 0.99)


def check_fm_layer(path: Path) -> None:
    """Compare masks and the closed-form solves with them, in both directions."""
    case = {name: torch.from_numpy(value) for name, value in np.load(path).items()}
    a, b = case["A"], case["B"]
    evals_1, evals_2 = case["evals1"], case["evals2"]
    laplace, laplace_21 = laplacian_mask(evals_1, evals_2), laplacian_mask(evals_2, evals_1)
    resolvent, resolvent_21 = resolvent_mask(evals_1, evals_2), resolvent_mask(evals_2, evals_1)
    expected = {
        "raw_C12": solve_fmap(a, b),
        "raw_C21": solve_fmap(b, a),
        "lap_D12": laplace,
        "res_D12": resolvent,
        "res_D21": resolvent_21,
        "lap_C12_0.001": solve_fmap(a, b, laplace, 1e-3),
        "lap_C21_0.001": solve_fmap(b, a, laplace_21, 1e-3),
        "lap_C12_0.1": solve_fmap(a, b, laplace, 0.1),
        "lap_C21_0.1": solve_fmap(b, a, laplace_21, 0.1),
        "res_C12_1": solve_fmap(a, b, resolvent, 1.0),
        "res_C21_1": solve_fmap(b, a, resolvent_21, 1.0),
        "res_C12_100": solve_fmap(a, b, resolvent, 100.0),
        "res_C21_100": solve_fmap(b, a, resolvent_21, 100.0),
        "diff_layer_C12_0p1": solve_fmap(a, b, case["diff_layer_D12"][0], 0.1),
        "diff_layer_C21_0p1": solve_fmap(b, a, case["diff_layer_D21"][0], 0.1),
    }
    for name, found in expected.items():
        if name in case:
            scale = float(case[name].abs().max())
            np.testing.assert_allclose(
                found, case[name].reshape(found.shape), atol=1e-4 * scale, err_msg=name
            )


def check_zoomout(path: Path) -> None:
    """Compare every pass of ZoomOut in float64, and the coarse schedule."""
    case = np.load(path)
    k_final = int(case["k_final"])
    mass = _double(case["mass2"])
    one, two = (
        Basis(torch.zeros(k_final, dtype=torch.float64), _double(case[name]), mass)
        for name in ("U1", "U2")
    )
    fmap = _double(case["C_init"])
    schedule = sizes(int(case["k0"]), k_final, 1)
    assert len(schedule) == len(case["p2p_per_iter"])
    for k, expected in zip(schedule, case["p2p_per_iter"], strict=True):
        p2p_21 = fmap_to_p2p(fmap, one.evecs, two.evecs)
        _mostly_equal(p2p_21, expected, 0.999)
        fmap = p2p_to_fmap(p2p_21, one.truncate(k), two.truncate(k))
    for step, name in ((1, "C_final"), (10, "C_final_step10")):
        found, p2p_21 = zoomout(_double(case["C_init"]), one, two, k_final, step)
        np.testing.assert_allclose(found, case[name], atol=1e-5)
        if step == 1:
            _mostly_equal(p2p_21, case["p2p_final"], 0.999)
            reverse = nearest(one.evecs @ found.T, two.evecs)
            _mostly_equal(reverse, case["p2p_final_dim1"], 0.999)
    truth = torch.from_numpy(case["p_gt"].astype(np.int64))
    true_map = p2p_to_fmap(truth, one.truncate(30), two.truncate(30))
    np.testing.assert_allclose(true_map, case["fmap_gt30"], atol=1e-5)
    np.testing.assert_allclose(true_map.abs(), case["abs_fmap_gt30"], atol=1e-5)


def _csr(case: np.lib.npyio.NpzFile, name: str) -> sp.csr_matrix:
    return sp.csr_matrix(tuple(case[f"{name}_{part}"] for part in ("data", "indices", "indptr")))


def _double(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array.astype(np.float64))


def _mostly_equal(found: torch.Tensor, expected: np.ndarray, share: float) -> None:
    assert found.shape == expected.shape
    assert (found.numpy() == expected).mean() >= share


def _same_eigenspaces(
    found: np.ndarray, expected: np.ndarray, evals: np.ndarray, mass: np.ndarray
) -> None:
    """Compare projectors onto groups of close eigenvalues; the last group may be cut short."""
    starts = np.flatnonzero(np.r_[True, np.diff(evals) > 1e-3 * evals[1:], True])
    overlap = found.T @ (mass[:, None] * expected)
    for first, last in pairwise(starts[:-1]):
        block = overlap[first:last, first:last]
        singular = np.linalg.svd(block, compute_uv=False)
        np.testing.assert_allclose(singular, 1.0, atol=1e-5)
