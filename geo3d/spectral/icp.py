"""Spectral ICP: alternate vertex map and nearest orthogonal functional map at a fixed size.

Notation as in `geo3d.spectral.fmap`.  Source: Ovsjanikov et al. 2012, section 6.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from geo3d.spectral.basis import Basis
from geo3d.spectral.fmap import fmap_to_p2p


def icp(
    fmap_12: Float[Tensor, "k2 k1"], basis_1: Basis, basis_2: Basis, iterations: int
) -> Float[Tensor, "k2 k1"]:
    """Return the map after ``iterations`` rounds; singular values become 1, the size stays."""
    k2, k1 = fmap_12.shape
    evecs_2 = basis_2.evecs[:, :k2]
    for _ in range(iterations):
        p2p_21 = fmap_to_p2p(fmap_12, basis_1.evecs, basis_2.evecs)
        fitted = torch.linalg.lstsq(evecs_2, basis_1.evecs[p2p_21, :k1]).solution
        left, _, right = torch.linalg.svd(fitted, full_matrices=False)
        fmap_12 = left @ right
    return fmap_12
