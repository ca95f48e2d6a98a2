"""Golden cases of operators, spectra, descriptors, functional maps and ZoomOut."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import scipy.sparse as sp
import torch
from golden.reading import shape_beside

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

DESCRIPTORS: dict[str, Callable[[Basis, int], torch.Tensor]] = {"hks": hks, "wks": wks}


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
    basis = eigenbasis(mesh, len(case["evals"]), cache=False)
    # The first eigenvalue is 0 up to rounding.
    np.testing.assert_allclose(basis.evals.numpy(), case["evals"], rtol=1e-5, atol=1e-9)
    _same_eigenspaces(basis.evecs.numpy(), case["evecs"], case["evals"], mass)


def check_descriptors(path: Path) -> None:
    """Compare some columns of HKS and WKS; their number and the eigenpairs are told in words."""
    case = np.load(path)
    told = dict(re.findall(r"(n_descr|n_eig)=(\d+)", str(case["note"])))
    columns, k = int(told["n_descr"]), int(told["n_eig"])
    bases = {}
    for key in case.files:
        name, _, kind = key.partition("_")
        if kind not in DESCRIPTORS:
            continue
        if name not in bases:
            shape = np.load(path.with_name(f"operators_{name}.npz"))
            bases[name] = eigenbasis(Mesh(shape["verts"], shape["faces"]), k, cache=False)
        found = DESCRIPTORS[kind](bases[name], columns)
        found = unit_norm(found, bases[name].mass).numpy()[:, case["columns"]]
        np.testing.assert_allclose(found, case[key], rtol=1e-4)
    assert bases


def check_pyfm_mesh(path: Path) -> None:
    """Compare areas, stiffness, consistent mass, eigenvalues and descriptors."""
    case = np.load(path)
    shape = np.load(shape_beside(path, "mass", case["A_lumped"]))
    mesh = Mesh(shape["verts"], shape["faces"])
    stiffness, mass = laplacian(mesh)
    np.testing.assert_allclose(mass, case["A_lumped"], rtol=1e-6)
    np.testing.assert_allclose(mass.sum(), case["area"], rtol=1e-6)
    assert abs(stiffness - _csr(case, "W")).max() < 1e-9
    assert abs(fem_mass(mesh) - _csr(case, "Afem")).max() < 1e-9
    basis = eigenbasis(mesh, len(case["eigenvalues"]), cache=False)
    # the shift moves every eigenvalue by 1e-8 / mass, which only the first (0) can feel
    np.testing.assert_allclose(basis.evals[1:], case["eigenvalues"][1:], rtol=1e-5)
    for key in case.files:
        if told := re.fullmatch(r"(wks|hks)(\d+)_k(\d+)", key):
            found = DESCRIPTORS[told[1]](basis.truncate(int(told[3])), int(told[2]))
            np.testing.assert_allclose(found, case[key], rtol=1e-4, atol=1e-6)


def check_pyfm_fit(path: Path) -> None:
    """Compare the descriptor fit, its vertex maps in both embeddings, ICP and ZoomOut."""
    case = np.load(path)
    note = str(case["note"])
    weights = {name: float(value) for name, value in re.findall(r"(w_\w+) ([\d.e-]+)", note)}
    step = int(re.findall(r"step=(\d+)", note)[-1])
    one, two = (
        Basis(
            _double(case[f"ev{i}"]),
            _double(case[f"U{i}"]),
            _double(np.load(shape_beside(path, "evecs", case[f"U{i}"]))["mass"]),
        )
        for i in (1, 2)
    )
    k_2, k_1 = case["C_fit"].shape
    small_1, small_2 = one.truncate(k_1), two.truncate(k_2)
    descr_1, descr_2 = _double(case["descr1"]), _double(case["descr2"])
    commuting = (
        weights["w_dcomm"],
        multiplication_operators(small_1, descr_1),
        multiplication_operators(small_2, descr_2),
    )
    fitted = fit_fmap(
        small_1.project(descr_1),
        small_2.project(descr_2),
        small_1,
        small_2,
        w_lap=weights["w_lap"],
        commuting=(commuting,),
    )
    np.testing.assert_allclose(fitted, case["C_fit"], atol=2e-3)
    given = _double(case["C_fit"])
    _mostly_equal(fmap_to_p2p(given, one.evecs, two.evecs), case["p2p_fit"], 0.99)
    adjoint = nearest(two.evecs[:, :k_2] @ given, one.evecs[:, :k_1])
    _mostly_equal(adjoint, case["p2p_fit_adj"], 0.99)
    for key in case.files:
        if key.startswith("C_icp"):
            passes = int(key.removeprefix("C_icp"))
            np.testing.assert_allclose(icp(given, one, two, passes), case[key], atol=1e-6)
    fmap = given
    for k in range(k_1 + step, len(case["C_zo"]) + 1, step):
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
        "lap_D21": laplace_21,
        "res_D12": resolvent,
        "res_D21": resolvent_21,
    }
    masks = {
        ("lap", "12"): laplace,
        ("lap", "21"): laplace_21,
        ("res", "12"): resolvent,
        ("res", "21"): resolvent_21,
        ("diff_layer", "12"): case["diff_layer_D12"][0],
        ("diff_layer", "21"): case["diff_layer_D21"][0],
    }
    for name in case:
        if told := re.fullmatch(r"(\w+)_C(12|21)_([\d.p]+)", name):
            pair = (a, b) if told[2] == "12" else (b, a)
            weight = float(told[3].replace("p", "."))
            expected[name] = solve_fmap(*pair, masks[told[1], told[2]], weight)
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
    for name in (key for key in case.files if key.startswith("C_final")):
        step = int(name.removeprefix("C_final_step") if name != "C_final" else 1)
        found, p2p_21 = zoomout(_double(case["C_init"]), one, two, k_final, step)
        np.testing.assert_allclose(found, case[name], atol=1e-5)
        if step == 1:
            _mostly_equal(p2p_21, case["p2p_final"], 0.999)
            reverse = nearest(one.evecs @ found.T, two.evecs)
            _mostly_equal(reverse, case["p2p_final_dim1"], 0.999)
    truth = torch.from_numpy(case["p_gt"].astype(np.int64))
    for name in (key for key in case.files if key.startswith("fmap_gt")):
        k = int(name.removeprefix("fmap_gt"))
        true_map = p2p_to_fmap(truth, one.truncate(k), two.truncate(k))
        np.testing.assert_allclose(true_map, case[name], atol=1e-5)
        np.testing.assert_allclose(true_map.abs(), case[f"abs_{name}"], atol=1e-5)


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
