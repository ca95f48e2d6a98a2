"""Functional maps from descriptors with operator commutativity: one quadratic energy, solved by
conjugate gradients to its minimum.

Notation as in `geo3d.spectral.fmap`; A (k1, c), B (k2, c) are descriptor coefficients and
(Gamma_i, Delta_i) pairs of operators (k1, k1), (k2, k2) that the map should intertwine:

    E(C) = w_descr/2 |C A - B|^2 + w_lap/2 sum_ij D_ij C_ij^2
         + w_comm/2 sum_i |C Gamma_i - Delta_i C|^2.

Operators that multiply by a descriptor make the map respect products of functions; orientation
operators g -> <n, grad f x grad g> tell a surface from its mirror image.  The constant function is
pinned: the first column of C is sqrt(area ratio) times the first unit vector.

Source: Nogneng and Ovsjanikov 2017 (multiplication); Ren et al. 2018 (orientation).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from geo3d.errors import NumericalError
from geo3d.spectral.basis import Basis
from geo3d.spectral.fmap import laplacian_mask

Operators = Float[Tensor, "_ _ _"]


def multiplication_operators(
    basis: Basis, descriptors: Float[Tensor, "v d"]
) -> Float[Tensor, "d k k"]:
    """Return Phi^T M diag(f) Phi for every descriptor f."""
    weighted = basis.mass[:, None] * basis.evecs
    return torch.einsum("vi,vd,vj->dij", weighted, descriptors, basis.evecs)


def orientation_operators(
    basis: Basis,
    descriptors: Float[Tensor, "v d"],
    gradient: Callable[[Tensor], tuple[Tensor, Tensor]],
) -> Float[Tensor, "d k k"]:
    """Return the operators of g -> <n, grad f x grad g> for every descriptor f.

    Args:
        gradient: takes functions (v, c) to their two tangential derivatives, each (v, c).
    """
    weighted = basis.mass[:, None] * basis.evecs
    f_x, f_y = gradient(descriptors)
    g_x, g_y = gradient(basis.evecs)
    return torch.einsum("vi,vd,vj->dij", weighted, f_x, g_y) - torch.einsum(
        "vi,vd,vj->dij", weighted, f_y, g_x
    )


def fit_fmap(
    coefficients_1: Float[Tensor, "k1 c"],
    coefficients_2: Float[Tensor, "k2 c"],
    basis_1: Basis,
    basis_2: Basis,
    *,
    w_descr: float = 1.0,
    w_lap: float = 1e-2,
    commuting: tuple[tuple[float, Operators, Operators], ...] = (),
    tolerance: float = 1e-10,
) -> Float[Tensor, "k2 k1"]:
    """Return the minimiser of E; the Laplacian mask D is scaled to unit sum.

    Args:
        commuting: triples (weight, Gamma (d, k1, k1), Delta (d, k2, k2)).
        tolerance: relative residual at which the iteration ends.

    Raises:
        NumericalError: ``fmap.fit_diverged``.
    """
    mask = laplacian_mask(basis_1.evals, basis_2.evals)
    mask = mask / mask.sum()
    gram = coefficients_1 @ coefficients_1.T

    def hessian(fmap: Tensor) -> Tensor:
        total = w_descr * fmap @ gram + w_lap * mask * fmap
        for weight, first, second in commuting:
            gap = fmap @ first - second @ fmap
            total = total + weight * (
                torch.einsum("dij,dkj->ik", gap, first) - torch.einsum("dji,djk->ik", second, gap)
            )
        return total

    pinned = torch.zeros(len(mask), mask.shape[1], dtype=gram.dtype, device=gram.device)
    pinned[0, 0] = (basis_2.mass.sum() / basis_1.mass.sum()).sqrt()
    pinned[0, 0] *= torch.sign(basis_1.evecs[0, 0] * basis_2.evecs[0, 0])
    right = w_descr * coefficients_2 @ coefficients_1.T - hessian(pinned)
    free = torch.nn.functional.pad(
        _conjugate_gradients(
            lambda x: hessian(torch.nn.functional.pad(x, (1, 0)))[:, 1:], right[:, 1:], tolerance
        ),
        (1, 0),
    )
    return pinned + free


def _conjugate_gradients(
    apply: Callable[[Tensor], Tensor], right: Tensor, tolerance: float
) -> Tensor:
    solution, residual = torch.zeros_like(right), right
    direction, norm = residual, residual.square().sum()
    target = tolerance**2 * float(norm)
    for _ in range(10 * right.numel()):
        if float(norm) <= target:
            return solution
        image = apply(direction)
        step = norm / (direction * image).sum()
        solution, residual = solution + step * direction, residual - step * image
        previous, norm = norm, residual.square().sum()
        direction = residual + norm / previous * direction
        if not bool(torch.isfinite(norm)):
            break
    raise NumericalError(
        "fmap.fit_diverged",
        "The functional map could not be fitted to the descriptors.",
        "Use float64, more descriptors, or a larger w_lap.",
    )
