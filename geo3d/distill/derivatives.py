"""Derivatives of a learnt velocity along a path, estimated without gradients.

    d phi / dt  =  (d phi / dx) dx/dt + d phi / dt|_x       along (dx/dt, dt/dt) = (v, 1)

Notation: phi the student, v the velocity of the path at (x, t).

The finite difference costs one evaluation one interval away on the path; networks that embed 1000 t
want a small one, for an interval of 0.01 turns their fastest wave by ten radians.  The exact
derivative (forward mode) costs about two evaluations, and needs operations that have one.

Source: Xie et al. 2025 (MDT-dist, arXiv 2509.04406), whose released code divides the derivative by
its norm; Lu & Song 2025 (sCM) for the same idea with a root mean square.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from geo3d.distill.flow import Items

NORM_OFFSET = 0.1
"""Added to a derivative's norm before it divides, as released."""
Norm = Literal["none", "unit_l2", "unit_rms"]


@dataclass(frozen=True)
class Derivative:
    """How d phi / dt is estimated."""

    estimator: Literal["difference", "jvp"] = "difference"
    interval: float = 0.01
    """Step of the finite difference."""
    norm: Norm = "none"
    """Of objectives with one time.  ``unit_l2`` is the released form: each item's derivative is
    divided by its L2 norm + 0.1, which leaves a root mean square of 1/sqrt(entries), next to
    nothing.  ``unit_rms`` is sqrt(entries) times that.  ``none`` is the formula of the paper."""

    @property
    def reach(self) -> float:
        """How far below t the student is evaluated."""
        return self.interval if self.estimator == "difference" else 0.0


@torch.no_grad()
def derivative_along(
    function: Callable[..., Tensor],
    at: tuple[Tensor, ...],
    tangent: tuple[Tensor, ...],
    how: Derivative,
    here: Tensor,
    ahead: bool = False,
) -> Tensor:
    """Return the derivative of ``function`` at ``at`` along ``tangent``, a constant.

    Args:
        function: of as many tensors as ``at``.
        at, tangent: where and whither.
        how: the estimator.
        here: the function's value there, which a difference needs.
        ahead: a difference looks along ``tangent`` instead of back.
    """
    if how.estimator == "jvp":
        with warnings.catch_warnings():
            # torch's own first use of forward mode trips over its deprecation of torch.jit.script
            warnings.filterwarnings("ignore", ".*torch.jit.script", DeprecationWarning)
            return torch.func.jvp(function, at, tangent)[1]
    step = how.interval if ahead else -how.interval
    there = function(*(place + step * along for place, along in zip(at, tangent, strict=True)))
    return (there - here) / step


def normalised(slope: Float[Tensor, "n ..."], items: Items, norm: Norm) -> Float[Tensor, "n ..."]:
    """Return each item's derivative divided as `Derivative.norm` says."""
    if norm == "none":
        return slope
    factor = 1 / (items.total(slope.square()).sqrt() + NORM_OFFSET)
    if norm == "unit_rms":
        factor = factor * items.entries(slope).sqrt()
    return slope * items.spread(factor, slope)
