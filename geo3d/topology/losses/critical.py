"""Cross-entropy on chosen pixels: what losses with critical pixels have in common."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from geo3d.topology.losses.inputs import working


def class_against_rest(
    logits: Float[Tensor, "b c *space"],
    truth: Float[Tensor, "b c *space"],
    k: int,
    chosen: Bool[Tensor, "b ..."],
) -> Float[Tensor, ""]:
    """Return the mean binary cross-entropy of class k over chosen pixels; 0 if there are none.

    Args:
        logits: scores; log p_k and log(1 - p_k) are taken in one step, so nothing overflows.
        truth: one map per class.
        k: the class.
        chosen: pixels, on any device.
    """
    b, *at = chosen.to(logits.device).nonzero(as_tuple=True)
    scores, wanted = working(logits[(b, slice(None), *at)]), truth[(b, k, *at)]
    total = torch.logsumexp(scores, dim=1)
    others = torch.cat((scores[:, :k], scores[:, k + 1 :]), dim=1)
    yes, no = scores[:, k] - total, torch.logsumexp(others, dim=1) - total
    return -(wanted * yes + (1 - wanted) * no).sum() / max(len(b), 1)
