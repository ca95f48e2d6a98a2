"""Exact nearest neighbours by blocks of dense products.

Notation: p queries, n points, k dimensions.  Maximising <q, x> - |x|^2 / 2 over the points x is
minimising |q - x|, so one matrix product and one row-wise argmax per block of queries suffice.  In
the 20 to 200 dimensions of spectral embeddings this beats space partitioning, whose trees visit
nearly every point.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

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
