"""Deep supervision: one loss over several heads of a network, all at full size.

Head 0 is the output, heads 1, 2, ... come from ever coarser levels; head i has weight 2^-i, scaled
so that the weights sum to one.  TopoMortar (``compat``) scales the weights so too, but gives head 0
the weight 1 and divides the sum by the number of heads.
"""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Float, Shaped
from torch import Tensor

from geo3d.errors import ShapeError


def deep_supervision(
    loss: Callable[[Tensor, Tensor], Tensor],
    heads: Float[Tensor, "b heads c *space"],
    target: Shaped[Tensor, "*any"],
    *,
    auxiliary: Callable[[Tensor, Tensor], Tensor] | None = None,
    compat: bool = False,
) -> Float[Tensor, ""]:
    """Return the weighted sum of the loss over all heads.

    Args:
        loss: function of (logits, target), for head 0.
        heads: scores of all heads.
        target: labels or soft target of the loss.
        auxiliary: function for the other heads, such as `Loss.auxiliary`; None: the same.
        compat: the published weights.

    Raises:
        ShapeError: "loss.no_heads".
    """
    if heads.ndim not in (5, 6) or heads.shape[1] == 0:
        raise ShapeError(
            "loss.no_heads",
            f"Scores of shape {tuple(heads.shape)} do not hold heads.",
            "Give (b, heads, c, *space), the real output first.",
        )
    weights = head_weights(heads.shape[1], compat=compat)
    total = weights[0] * loss(heads[:, 0], target)
    for k, weight in enumerate(weights[1:], start=1):
        total = total + weight * (auxiliary or loss)(heads[:, k], target)
    return total


def head_weights(count: int, *, compat: bool = False) -> tuple[float, ...]:
    """Return the factor of each head's loss."""
    halves = [2.0**-k for k in range(count)]
    scaled = [half / sum(halves) for half in halves]
    return tuple(w / count for w in (1.0, *scaled[1:])) if compat else tuple(scaled)
