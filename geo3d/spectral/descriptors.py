"""Spectral point descriptors: heat and wave kernel signatures.

Notation: v vertices, d descriptors; eigenpairs (lambda_i, phi_i).  Both depend on the intrinsic
geometry only, so that a surface and its mirror image have the same descriptors.

Source: HKS, Sun et al. 2009; WKS, Aubry et al. 2011.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from geo3d.errors import InputError
from geo3d.spectral.basis import Basis

MIN_EVAL = 1e-5
"""Eigenvalues at or below this count as zero in the logarithms of the WKS."""


def hks(basis: Basis, n_descriptors: int) -> Float[Tensor, "v d"]:
    """Return sum_i exp(-t lambda_i) phi_i^2 over sum_i exp(-t lambda_i), t log-spaced.

    Times run from 4 ln 10 / lambda_max to 4 ln 10 / lambda_1.
    """
    _require_eigenpairs(basis)
    span = 4 * math.log(10)
    low, high = math.log(span / float(basis.evals[-1])), math.log(span / _first(basis))
    times = torch.exp(_linspace(low, high, n_descriptors, basis.evals))
    return _filtered_energy(basis, torch.exp(-times[:, None] * basis.evals[None]))


def wks(basis: Basis, n_descriptors: int) -> Float[Tensor, "v d"]:
    """Return the log-normal energy filters of phi_i^2, normalised per energy.

    Energies are evenly spaced between log lambda_1 and log lambda_max with sigma = 7 range / d,
    inset by 2 sigma at both ends.
    """
    _require_eigenpairs(basis)
    kept = basis.evals > MIN_EVAL
    log_evals = basis.evals[kept].log()
    first, last = math.log(_first(basis)), float(log_evals[-1])
    sigma = 7 * (last - first) / n_descriptors
    energies = _linspace(first + 2 * sigma, last - 2 * sigma, n_descriptors, log_evals)
    filters = torch.exp(-((energies[:, None] - log_evals[None]) ** 2) / (2 * sigma**2))
    return _filtered_energy(Basis(basis.evals[kept], basis.evecs[:, kept], basis.mass), filters)


def unit_norm(descriptors: Float[Tensor, "v d"], mass: Float[Tensor, " v"]) -> Float[Tensor, "v d"]:
    """Scale each descriptor to unit norm under the mass inner product."""
    norms = (mass[:, None] * descriptors**2).sum(0).sqrt()
    return descriptors / norms


def _first(basis: Basis) -> float:
    """Return the eigenvalue after the constant's; a shape in parts has another zero there."""
    return max(float(basis.evals[1]), MIN_EVAL)


def _linspace(first: float, last: float, count: int, like: Tensor) -> Tensor:
    return torch.linspace(first, last, count, dtype=like.dtype, device=like.device)


def _filtered_energy(basis: Basis, filters: Float[Tensor, "d k"]) -> Float[Tensor, "v d"]:
    return (basis.evecs**2 @ filters.T) / filters.sum(1)


def _require_eigenpairs(basis: Basis) -> None:
    if basis.k < 3:
        raise InputError(
            "spectral.too_few_eigenpairs",
            f"Descriptors need at least 3 eigenpairs, got {basis.k}.",
            "Compute a larger basis.",
        )
