"""The eigenbasis: known spectra, orthonormality, signs, invariances, and its cache on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse.linalg as spla
import torch
from helpers import bumpy_sphere, grid, icosphere, moved, permuted, rotation

from geo3d.errors import InputError, NumericalError
from geo3d.mesh.mesh import Mesh
from geo3d.mesh.operators import laplacian
from geo3d.spectral import basis as module
from geo3d.spectral.basis import Basis, eigenbasis

FIELDS = ("evals", "evecs", "mass")
NO_FACES = np.zeros((0, 3), np.int64)


def fresh(mesh: Mesh, k: int) -> Basis:
    return eigenbasis(mesh, k, cache=False)


def two_parts() -> Mesh:
    """Return a small sphere beside a bumpy one."""
    first, second = bumpy_sphere(2), icosphere(1, radius=0.3)
    vertices = np.concatenate([first.vertices, second.vertices + 4.0])
    return Mesh(vertices, np.concatenate([first.faces, second.faces + first.n_vertices]))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty cache folder of this test."""
    monkeypatch.setenv("GEO3D_CACHE", str(tmp_path))
    return tmp_path / "spectral"


def test_sphere_has_eigenvalues_l_times_l_plus_1() -> None:
    basis = fresh(icosphere(3), 25)
    expected = [degree * (degree + 1) for degree in range(5) for _ in range(2 * degree + 1)]
    # second order in the edge length: 0.7 % at l = 1, below 5 % at l = 4
    np.testing.assert_allclose(basis.evals[1:], expected[1:], rtol=0.05)
    np.testing.assert_allclose(basis.evals[1:4], 2.0, rtol=0.01)
    assert basis.evals[0] < 1e-5


def test_sphere_point_cloud_has_them_too() -> None:
    basis = fresh(Mesh(icosphere(3).vertices, NO_FACES), 9)
    np.testing.assert_allclose(basis.evals[1:], [2] * 3 + [6] * 5, rtol=0.1)


def test_square_with_free_boundary() -> None:
    basis = fresh(grid(25), 6)
    expected = np.pi**2 * np.array([1, 1, 2, 4, 4])
    np.testing.assert_allclose(basis.evals[1:], expected, rtol=0.01)
    # the eigenvector of 2 pi^2 is cos(pi x) cos(pi y), of norm 1/2
    x, y = grid(25).vertices[:, :2].T
    wave = np.cos(np.pi * x) * np.cos(np.pi * y)
    overlap = basis.project(torch.from_numpy(wave)[:, None])[3, 0]
    assert abs(float(overlap)) == pytest.approx(0.5, rel=0.01)


def test_dense_eigenproblem_agrees() -> None:
    mesh = bumpy_sphere(2)
    matrix, mass = laplacian(mesh)
    expected, vectors = scipy.linalg.eigh(matrix.toarray(), np.diag(mass))
    basis = fresh(mesh, 20)
    np.testing.assert_allclose(basis.evals[1:], expected[1:20], rtol=1e-6)
    overlap = basis.evecs.numpy().T @ (mass[:, None] * vectors[:, :20])
    np.testing.assert_allclose(np.abs(np.diag(overlap)), 1.0, atol=1e-6)


def test_orthonormal_under_the_mass_ascending_and_nonnegative() -> None:
    basis = fresh(bumpy_sphere(2), 30)
    gram = basis.evecs.T @ (basis.mass[:, None] * basis.evecs)
    torch.testing.assert_close(gram, torch.eye(30, dtype=torch.float64), atol=1e-9, rtol=0)
    assert (basis.evals.diff() >= 0).all() and basis.evals[0] >= 0
    assert basis.evals.dtype == basis.evecs.dtype == basis.mass.dtype == torch.float64


def test_signs_are_fixed_by_the_largest_entry() -> None:
    basis = fresh(bumpy_sphere(2), 30)
    peaks = basis.evecs.gather(0, basis.evecs.abs().argmax(0, keepdim=True))
    assert (peaks > 0).all()


def test_motion_scale_and_order() -> None:
    mesh = bumpy_sphere(2)
    basis = fresh(mesh, 15)
    turned = fresh(moved(mesh, rotation(4), 2.0), 15)
    torch.testing.assert_close(turned.evals, basis.evals, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(turned.evecs, basis.evecs, rtol=0, atol=1e-6)
    # lengths times 3: eigenvalues fall by 9, unit norm over 9 times the area divides by 3
    larger = fresh(moved(mesh, 3 * np.eye(3)), 15)
    torch.testing.assert_close(larger.evals[1:] * 9, basis.evals[1:], rtol=1e-6, atol=0)
    torch.testing.assert_close(larger.evecs * 3, basis.evecs, rtol=0, atol=1e-6)
    copy, order = permuted(mesh)
    shuffled = fresh(copy, 15)
    torch.testing.assert_close(shuffled.evals, basis.evals, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(shuffled.evecs, basis.evecs[order], rtol=0, atol=1e-6)


def test_separate_parts_have_a_constant_each() -> None:
    basis = fresh(two_parts(), 6)
    assert basis.evals[1] < 1e-4 < 1e-2 < basis.evals[2]


def test_project_and_reconstruct_are_inverse_on_the_span() -> None:
    basis = fresh(bumpy_sphere(2), 12)
    coefficients = torch.randn(
        12, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    functions = basis.reconstruct(coefficients)
    torch.testing.assert_close(basis.project(functions), coefficients, rtol=0, atol=1e-9)
    ones = torch.ones(len(basis.mass), 1, dtype=torch.float64)
    torch.testing.assert_close(basis.reconstruct(basis.project(ones)), ones, rtol=0, atol=1e-8)


def test_truncate_and_to() -> None:
    basis = fresh(bumpy_sphere(1), 10)
    small = basis.truncate(4)
    assert small.k == 4 and small.evecs.shape == (42, 4)
    assert torch.equal(small.evecs, basis.evecs[:, :4]) and small.mass is basis.mass
    single = basis.to(dtype=torch.float32)
    assert {single.evals.dtype, single.evecs.dtype, single.mass.dtype} == {torch.float32}


def test_cache_is_hit_and_gives_the_same_bits(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mesh = bumpy_sphere(1)
    expected = fresh(mesh, 10)
    assert not cache.exists()
    first = eigenbasis(mesh, 10)
    assert len(list(cache.iterdir())) == 1
    monkeypatch.setattr(module, "_computed", None)
    # another object with the same content, and colours that do not matter
    copy = Mesh(mesh.vertices, mesh.faces, np.zeros((42, 3), np.uint8), "copy")
    second = eigenbasis(copy, 10)
    for name in FIELDS:
        assert torch.equal(getattr(expected, name), getattr(first, name))
        assert torch.equal(getattr(expected, name), getattr(second, name))


def test_cache_tells_shapes_sizes_and_operators_apart(cache: Path) -> None:
    mesh = bumpy_sphere(1)
    bases = [eigenbasis(mesh, 10), eigenbasis(mesh, 9), eigenbasis(mesh, 10, "robust")]
    bases.append(eigenbasis(bumpy_sphere(1, seed=1), 10))
    assert len(list(cache.iterdir())) == 4
    assert [b.k for b in bases] == [10, 9, 10, 10]
    assert not torch.equal(bases[0].evals, bases[3].evals)


@pytest.mark.parametrize("damage", ["torn", "emptied", "text", "other_arrays", "single", "flipped"])
def test_damaged_entries_are_computed_again(
    cache: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    mesh = bumpy_sphere(1)
    expected = eigenbasis(mesh, 10)
    (path,) = cache.iterdir()
    content = path.read_bytes()
    if damage == "other_arrays":
        np.savez(path, evals=np.zeros(3), evecs=np.zeros((42, 3)), mass=np.zeros(42))
    elif damage == "single":
        np.savez(path, **{n: getattr(expected.to(dtype=torch.float32), n) for n in FIELDS})
    elif damage == "flipped":
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :])
    else:
        path.write_bytes({"torn": content[:900], "emptied": b"", "text": b"no basis"}[damage])
    again = eigenbasis(mesh, 10)
    assert torch.equal(again.evecs, expected.evecs) and torch.equal(again.evals, expected.evals)
    assert path.read_bytes() == content
    assert "ignoring the" in caplog.text


def test_a_cache_that_cannot_be_written_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "spectral").write_text("a file where the folder should be")
    monkeypatch.setenv("GEO3D_CACHE", str(tmp_path))
    assert eigenbasis(bumpy_sphere(1), 5).k == 5
    assert "could not be cached" in caplog.text


@pytest.mark.parametrize("k", [0, -1, 41, 1000])
def test_sizes_that_the_mesh_does_not_carry_are_refused(k: int) -> None:
    with pytest.raises(InputError) as caught:
        eigenbasis(icosphere(1), k)
    assert caught.value.code == "spectral.too_many_eigenpairs" and "40" in caught.value.message


def test_failing_solvers_are_retried_then_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    solve, shifts = spla.eigsh, []

    def flaky(matrix: object, *rest: object, **more: object) -> object:
        shifts.append(float(matrix.diagonal()[0]))  # type: ignore[attr-defined]
        if len(shifts) < 3:
            raise RuntimeError("Factor is exactly singular")
        return solve(matrix, *rest, **more)

    monkeypatch.setattr(module.spla, "eigsh", flaky)
    assert fresh(bumpy_sphere(1), 5).k == 5
    assert len(shifts) == 3 and shifts[0] < shifts[1] < shifts[2]

    def broken(*rest: object, **more: object) -> object:
        raise RuntimeError("Factor is exactly singular")

    monkeypatch.setattr(module.spla, "eigsh", broken)
    with pytest.raises(NumericalError) as caught:
        fresh(bumpy_sphere(1), 5)
    assert caught.value.code == "spectral.eigen_failed" and "singular" in caught.value.message
