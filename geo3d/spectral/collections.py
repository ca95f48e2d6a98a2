"""Maps between many shapes made consistent: one latent space in which every shape is embedded.

Notation: n shapes, k eigenfunctions each, m latent functions; e directed edges (i, j), each with a
functional map C_ij (k, k) that carries functions of i to j.  Y_i (k, m) are the coefficients, in
the basis of shape i, of functions that correspond on all shapes: C_ij Y_i = Y_j.  Maps read off
the embeddings Phi_i Y_i agree along every cycle, but for the rounding to vertices.

    min_Y sum_ij w_ij |C_ij Y_i - Y_j|^2   with   sum_i Y_i^T Y_i = n I

is solved by the last eigenvectors of one matrix (n k, n k).  Wrong maps, mirror images say,
disagree with the others: iterated least squares lets them count for nothing.  That is done with
few functions, where right maps agree well; the weights then serve maps of any size.

Source: consistent latent bases, Wang, Huang and Guibas 2013, and Huang, Ren, Wonka and Ovsjanikov
2020 (Consistent ZoomOut), who give all maps the same weight and grow them by nearest neighbours;
weights after Geman and McClure 1987.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from geo3d.errors import ShapeError

ROUNDS = 8
"""Of iterated least squares."""


def latent_basis(
    fmaps: Float[Tensor, "e k k"],
    edges: Int64[Tensor, "e 2"],
    weights: Float[Tensor, " e"],
    n_shapes: int,
    size: int,
) -> Float[Tensor, "n k m"]:
    """Return Y.

    Args:
        edges: (from, to) of each map.
        size: m, at most k.

    Raises:
        ShapeError: ``collection.not_connected`` where maps do not lead from every shape to every
            other.
    """
    _require_connected(edges, n_shapes)
    k = fmaps.shape[-1]
    blocks = torch.zeros(n_shapes, n_shapes, k, k, dtype=torch.float64, device=fmaps.device)
    identity = torch.eye(k, dtype=torch.float64, device=fmaps.device)
    for (i, j), fmap, weight in zip(edges.tolist(), fmaps.double(), weights.tolist(), strict=True):
        blocks[i, i] += weight * fmap.T @ fmap
        blocks[j, j] += weight * identity
        blocks[i, j] -= weight * fmap.T
        blocks[j, i] -= weight * fmap
    matrix = blocks.transpose(1, 2).reshape(n_shapes * k, n_shapes * k)
    _, vectors = torch.linalg.eigh(matrix)
    return (n_shapes**0.5 * vectors[:, :size]).reshape(n_shapes, k, size).to(fmaps)


def disagreement(
    fmaps: Float[Tensor, "e k k"], edges: Int64[Tensor, "e 2"], latent: Float[Tensor, "n k m"]
) -> Float[Tensor, " e"]:
    """Return |C_ij Y_i - Y_j| / |Y_j| of each edge: 0 where a map agrees with the others."""
    gap = fmaps @ latent[edges[:, 0]] - latent[edges[:, 1]]
    return gap.flatten(1).norm(dim=1) / latent[edges[:, 1]].flatten(1).norm(dim=1)


def agreement(
    fmaps: Float[Tensor, "e k k"], edges: Int64[Tensor, "e 2"], n_shapes: int
) -> Float[Tensor, " e"]:
    """Return weights of maps: 1 for the one that fits the others best, near 0 for wrong ones.

    All k functions have to correspond; symmetric ones alone, which mirror images keep as well,
    would not tell them apart.  Most maps must be right.

    Raises:
        ShapeError: ``collection.not_connected``.
    """
    weights = torch.ones(len(edges), dtype=fmaps.dtype, device=fmaps.device)
    for _ in range(ROUNDS):
        latent = latent_basis(fmaps, edges, weights, n_shapes, fmaps.shape[-1])
        gap = disagreement(fmaps, edges, latent)
        # The median is the scale of what agrees as long as most maps are right.
        scale = gap.median().clamp(min=1e-3)
        weights = (scale**2 / (scale**2 + gap**2)).square()
        weights = weights / weights.max()
    return weights


def _require_connected(edges: Tensor, n_shapes: int) -> None:
    reached, before = {0}, set[int]()
    while reached != before:
        before = set(reached)
        reached |= {b for i, j in edges.tolist() for a, b in ((i, j), (j, i)) if a in before}
    if len(reached) < n_shapes:
        lost = sorted(set(range(n_shapes)) - reached)
        raise ShapeError(
            "collection.not_connected",
            f"No maps lead from shape 0 to the shapes {lost}.",
            "Match more pairs, or leave these shapes out.",
        )
