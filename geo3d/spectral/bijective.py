"""Maps in both directions at once: adjoint conversion and bijective ZoomOut.

Notation as in `geo3d.spectral.fmap`.  C_12 (k2, k1) embeds both shapes in the basis of 2, as
Phi_1 C_12^T and Phi_2; C_21 (k1, k2) embeds them in the basis of 1, as Phi_1 and Phi_2 C_21^T.
Side by side the two make one embedding, in which nearest neighbours from 2 to 1 and from 1 to 2
minimise the same distances.  A functional map of the next size has to fit both vertex maps:

    min_C |Phi_2 C - Phi_1[p2p_21]|^2_M2 + |Phi_2[p2p_12] C - Phi_1|^2_M1.

Source: adjoint operators, Huang and Ovsjanikov 2017; bijective ZoomOut, Ren, Melzi, Ovsjanikov and
Wonka 2020 (MapTree), whose energy has the two embeddings; the two-sided fit is ours.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from geo3d.errors import InputError
from geo3d.spectral.basis import Basis
from geo3d.spectral.fmap import nearest
from geo3d.spectral.zoomout import sizes


def adjoint_p2p(
    fmap_12: Float[Tensor, "k2 k1"],
    evecs_1: Float[Tensor, "v1 _"],
    evecs_2: Float[Tensor, "v2 _"],
) -> Int64[Tensor, " v2"]:
    """Return for each vertex of 2 the vertex of 1 nearest in the basis of 1: Phi_2 C against Phi_1.

    Delta functions are carried back by the adjoint of the map.  Unlike
    `geo3d.spectral.fmap.fmap_to_p2p` it gives the same for shapes of different scales.
    """
    k2, k1 = fmap_12.shape
    return nearest(evecs_2[:, :k2] @ fmap_12, evecs_1[:, :k1])


def bijective_zoomout(
    fmap_12: Float[Tensor, "k2 k1"],
    fmap_21: Float[Tensor, "k1 k2"],
    basis_1: Basis,
    basis_2: Basis,
    k_final: int,
    step: int = 1,
) -> tuple[Float[Tensor, "k k"], Int64[Tensor, " v2"], Int64[Tensor, " v1"]]:
    """Refine both directions together; return fmap_12 (k_final, k_final), p2p_21 and p2p_12.

    Args:
        fmap_21: where it is not known, ``fmap_12.T`` serves shapes of equal area.

    Raises:
        InputError: ``zoomout.bad_sizes``, also when a basis has fewer than k_final functions.
    """
    if min(basis_1.k, basis_2.k) < k_final:
        raise InputError(
            "zoomout.bad_sizes",
            f"ZoomOut to {k_final} needs as many eigenfunctions; there are "
            f"{basis_1.k} and {basis_2.k}.",
            "Compute larger bases or lower the final size.",
        )
    for k in sizes(min(fmap_12.shape), k_final, step):
        p2p_21, p2p_12 = both_p2p(fmap_12, fmap_21, basis_1, basis_2)
        one, two = basis_1.truncate(k), basis_2.truncate(k)
        fmap_12 = _two_sided(p2p_21, p2p_12, one, two)
        fmap_21 = _two_sided(p2p_12, p2p_21, two, one)
    return fmap_12, *both_p2p(fmap_12, fmap_21, basis_1, basis_2)


def both_p2p(
    fmap_12: Float[Tensor, "k2 k1"],
    fmap_21: Float[Tensor, "k1 k2"],
    basis_1: Basis,
    basis_2: Basis,
) -> tuple[Int64[Tensor, " v2"], Int64[Tensor, " v1"]]:
    """Return p2p_21 and p2p_12 by nearest neighbours in both bases side by side."""
    k2, k1 = fmap_12.shape
    rows_1, rows_2 = basis_1.evecs[:, :k1], basis_2.evecs[:, :k2]
    all_1 = torch.cat([rows_1 @ fmap_12.T, rows_1], dim=1)
    all_2 = torch.cat([rows_2, rows_2 @ fmap_21.T], dim=1)
    return nearest(all_2, all_1), nearest(all_1, all_2)


def _two_sided(p2p_21: Tensor, p2p_12: Tensor, one: Basis, two: Basis) -> Tensor:
    pulled = two.evecs[p2p_12]
    gram = two.project(two.evecs) + pulled.T @ (one.mass[:, None] * pulled)
    right = two.project(one.evecs[p2p_21]) + pulled.T @ (one.mass[:, None] * one.evecs)
    return torch.linalg.solve(gram, right)
