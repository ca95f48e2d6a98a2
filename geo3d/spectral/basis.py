"""The Laplace-Beltrami eigenbasis of a mesh or point cloud.

Notation: Phi (v, k) eigenvectors, Lambda (k,) eigenvalues in ascending order, M the lumped mass;
L Phi = M Phi diag(Lambda) and Phi^T M Phi = I.  Inner products are <f, g> = f^T M g, so
Phi is orthonormal with respect to M, not to the identity.  Signs are fixed: in each eigenvector the
entry of largest magnitude is positive.  Eigenvalues are in 1/area units; matching normalises shapes
to unit area first.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg as spla
import torch
from jaxtyping import Float
from torch import Tensor

from geo3d.errors import InputError, NumericalError
from geo3d.files import atomic_path, cache_dir
from geo3d.mesh.mesh import Mesh
from geo3d.mesh.operators import LaplacianKind, laplacian
from geo3d.npz import read_npz

log = logging.getLogger(__name__)

SHIFT = 1e-8
"""Added to the diagonal of L and used as the spectral shift, as in the published code."""
VERSION = 1
"""Part of the cache key; to be raised when operators or solver change what comes out."""
ATTEMPTS = 4
"""The diagonal grows tenfold per attempt when the factorisation or ARPACK fails."""


@dataclass(frozen=True, eq=False)
class Basis:
    """A truncated eigenbasis."""

    evals: Float[Tensor, " k"]
    """Eigenvalues, ascending, clipped at 0."""
    evecs: Float[Tensor, "v k"]
    """Eigenvectors, orthonormal under the mass."""
    mass: Float[Tensor, " v"]
    """Lumped vertex areas."""

    @property
    def k(self) -> int:
        """Number of eigenpairs."""
        return len(self.evals)

    def truncate(self, k: int) -> Basis:
        """Keep the first ``k`` eigenpairs."""
        return Basis(self.evals[:k], self.evecs[:, :k], self.mass)

    def to(
        self, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Basis:
        """Move or cast all three tensors."""
        return Basis(*(x.to(device=device, dtype=dtype) for x in self._tensors()))

    def project(self, functions: Float[Tensor, "v c"]) -> Float[Tensor, "k c"]:
        """Return spectral coefficients Phi^T M f."""
        return self.evecs.T @ (self.mass[:, None] * functions)

    def reconstruct(self, coefficients: Float[Tensor, "k c"]) -> Float[Tensor, "v c"]:
        """Return the functions Phi a."""
        return self.evecs @ coefficients

    def _tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.evals, self.evecs, self.mass


def eigenbasis(mesh: Mesh, k: int, kind: LaplacianKind = "auto", *, cache: bool = True) -> Basis:
    """Return the first ``k`` eigenpairs in float64, from the cache when they are there.

    The cache is keyed by the content of vertices and faces, ``k`` and ``kind``; a damaged entry is
    recomputed.  See also `geo3d.mesh.operators.laplacian`, whose errors pass through.

    Raises:
        InputError: ``spectral.too_many_eigenpairs`` unless 1 <= k <= v - 2.
        NumericalError: ``spectral.eigen_failed`` when all attempts fail.
    """
    if not 1 <= k <= mesh.n_vertices - 2:
        raise InputError(
            "spectral.too_many_eigenpairs",
            f"{mesh.name}: {k} eigenpairs asked for, but {mesh.n_vertices} vertices allow "
            f"1 to {mesh.n_vertices - 2}.",
            "Lower k or use a finer mesh.",
        )
    if not cache:
        return _computed(mesh, k, kind)
    path = cache_dir() / "spectral" / f"{mesh.content_hash()[:32]}-{k}-{kind}-{VERSION}.npz"
    return _read_cached(path, mesh.n_vertices, k) or _store(path, _computed(mesh, k, kind))


def _computed(mesh: Mesh, k: int, kind: LaplacianKind) -> Basis:
    stiffness, mass = laplacian(mesh, kind)
    evals, evecs = _eigenpairs(stiffness, mass, k, mesh.name)
    order = np.argsort(evals, kind="stable")
    evals, evecs = np.clip(evals[order], 0.0, None), evecs[:, order]
    peaks = evecs[np.abs(evecs).argmax(axis=0), np.arange(k)]
    evecs = evecs * np.where(peaks < 0, -1.0, 1.0)
    return Basis(*(torch.from_numpy(np.ascontiguousarray(x)) for x in (evals, evecs, mass)))


def _eigenpairs(
    stiffness: sp.csr_matrix, mass: np.ndarray, k: int, name: str
) -> tuple[np.ndarray, np.ndarray]:
    n = len(mass)
    start = np.random.default_rng(0).standard_normal(n)
    reason = ""
    for attempt in range(ATTEMPTS):
        shifted = (stiffness + SHIFT * 10.0**attempt * sp.eye(n)).tocsc()
        try:
            evals, evecs = spla.eigsh(shifted, k, sp.diags(mass).tocsc(), sigma=SHIFT, v0=start)
        except (RuntimeError, spla.ArpackError) as error:
            reason = str(error)
            log.warning("%s: eigenpairs failed (%s); retrying", name, reason)
            continue
        if np.isfinite(evals).all() and np.isfinite(evecs).all():
            return evals, evecs
        reason = "non-finite eigenvectors"
    raise NumericalError(
        "spectral.eigen_failed",
        f"{name}: the eigenbasis could not be computed ({reason}).",
        "Look for defects with `geo3d check FILE`, or use the robust Laplacian.",
    )


def _read_cached(path: Path, n_vertices: int, k: int) -> Basis | None:
    shapes = {"evals": (k,), "evecs": (n_vertices, k), "mass": (n_vertices,)}
    # doubles, and a little for the headers
    size = 8 * sum(math.prod(shape) for shape in shapes.values()) + 4096
    try:
        stored = read_npz(path, shapes, size)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        log.warning("ignoring the damaged cache entry %s (%s)", path.name, error)
        return None
    arrays = list(stored.values())
    if any(
        x.shape != y or x.dtype != np.float64 for x, y in zip(arrays, shapes.values(), strict=True)
    ):
        log.warning("ignoring the cache entry %s: it holds other arrays", path.name)
        return None
    return Basis(*(torch.from_numpy(x) for x in arrays))


def _store(path: Path, basis: Basis) -> Basis:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, evals=basis.evals, evecs=basis.evecs, mass=basis.mass)
    except OSError as error:
        log.warning("the eigenbasis could not be cached: %s", error)
    return basis
