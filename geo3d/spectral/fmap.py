"""Functional maps: conversions to and from vertex maps, and closed-form solves.

Notation: shape 1 is the source, shape 2 the target.  ``fmap_12`` C (k2, k1) carries spectral
coefficients of functions on 1 to coefficients on 2; ``p2p_21`` (v2,) sends every vertex of 2 to a
vertex of 1.  Pulling a function f on 1 back along p2p_21 gives f[p2p_21] on 2, hence
C = Phi_2^T M_2 Phi_1[p2p_21].  Masks D_12 (k2, k1) have the layout of C: row = shape 2.

Source: Ovsjanikov et al. 2012; resolvent mask, Ren et al. 2019; regularised closed form, Donati et
al. 2020 (GeomFMaps).

Exact nearest neighbours by blocks of dense products.

Notation: p queries, n points, k dimensions.  Maximising <q, x> - |x|^2 / 2 over the points x is
minimising |q - x|, so one matrix product and one row-wise argmax per block of queries suffice.  In
the 20 to 200 dimensions of spectral embeddings this beats space partitioning, whose trees visit
nearly every point.

Spectral ICP: alternate vertex map and nearest orthogonal functional map at a fixed size.

Notation as in `geo3d.spectral.fmap`.  Source: Ovsjanikov et al. 2012, section 6.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from geo3d.errors import NumericalError, ShapeError
from geo3d.spectral.basis import Basis


def p2p_to_fmap(
    p2p_21: Int64[Tensor, " v2"], basis_1: Basis, basis_2: Basis
) -> Float[Tensor, "k2 k1"]:
    """Return C = Phi_2^T M_2 Phi_1[p2p_21] in the full sizes of the two bases.

    Raises:
        ShapeError: ``fmap.bad_p2p`` for a wrong length or an index out of range.
    """
    check_p2p(p2p_21, n_source=len(basis_1.mass), n_target=len(basis_2.mass))
    return basis_2.project(basis_1.evecs[p2p_21])


def fmap_to_p2p(
    fmap_12: Float[Tensor, "k2 k1"],
    evecs_1: Float[Tensor, "v1 _"],
    evecs_2: Float[Tensor, "v2 _"],
) -> Int64[Tensor, " v2"]:
    """Return for each vertex of 2 the vertex of 1 nearest in the embedding Phi_1 C^T against Phi_2.

    Eigenvector tables may be wider than the map; their leading columns are used.
    """
    k2, k1 = fmap_12.shape
    return nearest(evecs_2[:, :k2], evecs_1[:, :k1] @ fmap_12.T)


def solve_fmap(
    coefficients_1: Float[Tensor, "*b k1 c"],
    coefficients_2: Float[Tensor, "*b k2 c"],
    mask_12: Float[Tensor, "*b k2 k1"] | None = None,
    weight: float = 0.0,
) -> Float[Tensor, "*b k2 k1"]:
    """Return argmin_C |C A - B|^2 + weight sum_ij D_ij C_ij^2, all rows in one batched solve.

    Row i solves (A A^T + weight diag(D_i)) c_i = A b_i.  Differentiable.  The dtype of the
    coefficients decides the precision; use float64 for ill-conditioned descriptors.

    Raises:
        ShapeError: ``fmap.bad_shape`` when the coefficient counts or the mask do not fit.
        NumericalError: ``fmap.singular`` when a system cannot be solved.
    """
    _check_solve(coefficients_1, coefficients_2, mask_12)
    normal = coefficients_1 @ coefficients_1.transpose(-1, -2)
    right = coefficients_2 @ coefficients_1.transpose(-1, -2)
    try:
        if mask_12 is None:
            return torch.linalg.solve(normal, right, left=False)
        systems = normal.unsqueeze(-3) + weight * torch.diag_embed(mask_12)
        return torch.linalg.solve(systems, right)
    except torch.linalg.LinAlgError as error:
        raise NumericalError(
            "fmap.singular",
            "The descriptors do not determine a functional map (singular system).",
            "Use more descriptors than eigenfunctions, or a mask with a positive weight.",
        ) from error


def laplacian_mask(
    evals_1: Float[Tensor, " k1"], evals_2: Float[Tensor, " k2"]
) -> Float[Tensor, "k2 k1"]:
    """Return (lambda2_i - lambda1_j)^2: penalises maps that do not commute with the Laplacians."""
    return (evals_2[:, None] - evals_1[None]) ** 2


def resolvent_mask(
    evals_1: Float[Tensor, " k1"], evals_2: Float[Tensor, " k2"], gamma: float = 0.5
) -> Float[Tensor, "k2 k1"]:
    """Return the resolvent commutativity mask with exponent ``gamma``; bounded by construction."""
    scale = torch.maximum(evals_1.max(), evals_2.max())
    a1, a2 = (evals_1 / scale) ** gamma, (evals_2 / scale) ** gamma
    real_1, real_2 = a1 / (a1**2 + 1), a2 / (a2**2 + 1)
    imag_1, imag_2 = 1 / (a1**2 + 1), 1 / (a2**2 + 1)
    return (real_2[:, None] - real_1[None]) ** 2 + (imag_2[:, None] - imag_1[None]) ** 2


def check_p2p(p2p_21: Tensor, *, n_source: int, n_target: int) -> None:
    """Refuse a vertex map of the wrong length or with indices outside the source.

    Raises:
        ShapeError: ``fmap.bad_p2p``.
    """
    if p2p_21.shape != (n_target,):
        side = " (it has the source's: the map runs the other way?)"
        hint = side if p2p_21.shape == (n_source,) else ""
        raise ShapeError(
            "fmap.bad_p2p",
            f"The map has shape {tuple(p2p_21.shape)}, the target {n_target} vertices{hint}.",
            "p2p_21 holds one source vertex for every target vertex, in target order.",
        )
    if n_target and (int(p2p_21.min()) < 0 or int(p2p_21.max()) >= n_source):
        raise ShapeError(
            "fmap.bad_p2p",
            f"Map entries run from {int(p2p_21.min())} to {int(p2p_21.max())}, "
            f"the source has vertices 0 to {n_source - 1}.",
            "Indices are 0-based; .vts files count from 1.",
        )


def _check_solve(first: Tensor, second: Tensor, mask: Tensor | None) -> None:
    fits = first.shape[:-2] == second.shape[:-2] and first.shape[-1] == second.shape[-1]
    if mask is not None:
        fits = fits and mask.shape[-2:] == (second.shape[-2], first.shape[-2])
    if not fits:
        shapes = [tuple(x.shape) for x in (first, second, mask) if x is not None]
        raise ShapeError(
            "fmap.bad_shape",
            f"Coefficients and mask do not fit together: {shapes}.",
            "Expected (k1, c), (k2, c) and a mask (k2, k1).",
        )


BLOCK_ENTRIES = 5_000_000
"""Scores held at once: 20 MB in float32, which a core's cache hierarchy and any GPU take well."""


def nearest(
    queries: Float[Tensor, "*b p k"], points: Float[Tensor, "*b n k"]
) -> Int64[Tensor, "*b p"]:
    """Return for each query the index of its nearest point (the first one on a tie).

    Leading axes are batch axes.  Both tensors have one dtype and device; float64 inputs are
    compared in float64.
    """
    half_norms = (points * points).sum(-1).unsqueeze(-2) / 2
    transposed = points.transpose(-1, -2)
    per_query = max(1, half_norms.numel())
    block = max(1, BLOCK_ENTRIES // per_query)
    found = [
        _row_argmax(queries[..., i : i + block, :] @ transposed, half_norms)
        for i in range(0, max(1, queries.shape[-2]), block)
    ]
    return torch.cat(found, dim=-1)


def _row_argmax(scores: Tensor, half_norms: Tensor) -> Tensor:
    scores.sub_(half_norms)
    if scores.device.type == "cpu":
        # NumPy's argmax is vectorised along contiguous rows; torch's is several times slower.
        return torch.from_numpy(scores.numpy().argmax(axis=-1))
    return scores.argmax(dim=-1)


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
