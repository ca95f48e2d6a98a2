"""Shape difference operators: where, and how, a map distorts areas and angles.

Notation as in `geo3d.spectral.fmap`.  A functional map C (k2, k1) carries functions of 1 to 2.  The
operators act on functions of shape 1 and answer how inner products change on the way:

    <f, V g>_1 = <C f, C g>_2   (areas),      (f, R g)_1 = (C f, C g)_2   (Dirichlet, conformal),

so that V = C^T C and R = Lambda_1^-1 C^T Lambda_2 C.  Both are the identity, V for maps that keep
areas, R for maps that keep angles.  Operators of several maps from the same shape are compared by
their entries.

Source: Rustamov, Ovsjanikov, Azencot, Ben-Chen, Chazal and Guibas 2013.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from geo3d.errors import ShapeError
from geo3d.spectral.descriptors import MIN_EVAL


def area_difference(fmap_12: Float[Tensor, "k2 k1"]) -> Float[Tensor, "k1 k1"]:
    """Return V = C^T C, for bases that are orthonormal under their masses.

    Eigenfunctions of large eigenvalues sit where 2 has more area than 1.
    """
    return fmap_12.T @ fmap_12


def conformal_difference(
    fmap_12: Float[Tensor, "_ _"], evals_1: Float[Tensor, " k1"], evals_2: Float[Tensor, " k2"]
) -> Float[Tensor, "k1 k1"]:
    """Return R = Lambda_1^-1 C^T Lambda_2 C on functions without constants.

    The rows and columns of functions with eigenvalue 0 are those of the identity: constants have no
    Dirichlet energy.  The operator does not change with the scale of either shape.

    Raises:
        ShapeError: ``fmap.bad_shape`` where eigenvalues and map do not fit.
    """
    if fmap_12.shape != (len(evals_2), len(evals_1)):
        raise ShapeError(
            "fmap.bad_shape",
            f"A map of shape {tuple(fmap_12.shape)} does not fit {len(evals_1)} and "
            f"{len(evals_2)} eigenvalues.",
            "The map has a row for each eigenvalue of 2 and a column for each of 1.",
        )
    energy = fmap_12.T @ (evals_2[:, None] * fmap_12)
    constant = evals_1 <= MIN_EVAL
    scaled = energy / torch.where(constant, torch.ones_like(evals_1), evals_1)[:, None]
    identity = torch.eye(len(evals_1), dtype=energy.dtype, device=energy.device)
    return torch.where(constant[:, None] | constant[None, :], identity, scaled)
