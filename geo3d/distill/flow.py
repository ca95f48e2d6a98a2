"""Rectified flows: the straight path between data and noise, its times, and guidance.

Notation: b items; t in [0, 1] the time, 0 at data and 1 at noise; sigma = sigma_min;
    x_t = (1 - t) x_0 + (sigma + (1 - sigma) t) eps,      dx/dt = v = (1 - sigma) eps - x_0.

A batch is one tensor.  Its first axis counts items (dense: (b, ...)), or rows that belong to items
(sparse: (n, c) and the item of each row); `Items` knows which.

Source: Liu et al. 2022 (rectified flow); Xiang et al. 2024 (TRELLIS) for sigma and the law of t;
Ho & Salimans 2022 (guidance).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from geo3d.errors import ShapeError

SIGMA_MIN = 1e-5
"""Noise left in the data at t = 0."""
Velocity = Callable[[Tensor, Tensor, Any], Tensor]
"""v(x, t, condition) with t of shape (b,)."""


@dataclass(frozen=True, eq=False)
class Items:
    """Which rows of a batch belong to which item."""

    count: int
    """Items in the batch."""
    index: Int64[Tensor, " n"] | None = None
    """Item of each row; None when row and item are the same (dense batches)."""

    def spread(self, values: Float[Tensor, " b"], x: Float[Tensor, "n ..."]) -> Tensor:
        """Return one value per item so shaped that it multiplies ``x``.

        Raises:
            ShapeError: ``flow.wrong_batch`` (the batch does not have that many items or rows).
        """
        rows = self.count if self.index is None else len(self.index)
        if values.shape != (self.count,) or len(x) != rows:
            raise ShapeError(
                "flow.wrong_batch",
                f"{tuple(values.shape)} values for {self.count} items, {len(x)} rows for {rows}.",
                "Times have shape (items,), tensors as many rows as the batch.",
            )
        per_row = values if self.index is None else values[self.index]
        return per_row.reshape(-1, *[1] * (x.ndim - 1)).to(x.dtype)

    def total(self, x: Float[Tensor, "n ..."]) -> Float[Tensor, " b"]:
        """Return the sum over each item's entries."""
        rows = x.flatten(1).sum(dim=1)
        if self.index is None:
            return rows
        return rows.new_zeros(self.count).index_add(0, self.index, rows)

    def entries(self, x: Float[Tensor, "n ..."]) -> Float[Tensor, " b"]:
        """Return the number of entries of each item, at least 1."""
        width = math.prod(x.shape[1:])
        if self.index is None:
            return x.new_full((self.count,), max(width, 1))
        rows = torch.bincount(self.index, minlength=self.count)
        return (rows * width).clamp(min=1).to(x.dtype)

    def mean(self, x: Float[Tensor, "n ..."]) -> Float[Tensor, " b"]:
        """Return the mean over each item's entries."""
        return self.total(x) / self.entries(x)


def noisy(
    clean: Float[Tensor, "n ..."],
    noise: Float[Tensor, "n ..."],
    t: Float[Tensor, " b"],
    items: Items,
    sigma_min: float = SIGMA_MIN,
) -> Float[Tensor, "n ..."]:
    """Return x_t."""
    t = items.spread(t, clean)
    return (1 - t) * clean + (sigma_min + (1 - sigma_min) * t) * noise


def path_velocity(
    clean: Float[Tensor, "n ..."], noise: Float[Tensor, "n ..."], sigma_min: float = SIGMA_MIN
) -> Float[Tensor, "n ..."]:
    """Return dx/dt of the straight path, what flow matching learns the mean of."""
    return (1 - sigma_min) * noise - clean


def velocity_to_clean(
    x: Float[Tensor, "n ..."],
    v: Float[Tensor, "n ..."],
    t: Float[Tensor, " b"],
    items: Items,
    sigma_min: float = SIGMA_MIN,
) -> Float[Tensor, "n ..."]:
    """Return the estimate of x_0 that the velocity ``v`` at ``x`` implies."""
    t = items.spread(t, x)
    return (1 - sigma_min) * x - (sigma_min + (1 - sigma_min) * t) * v


def velocity_to_noise(
    x: Float[Tensor, "n ..."], v: Float[Tensor, "n ..."], t: Float[Tensor, " b"], items: Items
) -> Float[Tensor, "n ..."]:
    """Return the estimate of eps that the velocity ``v`` at ``x`` implies."""
    return (1 - items.spread(t, x)) * v + x


def clean_to_velocity(
    x: Float[Tensor, "n ..."],
    clean: Float[Tensor, "n ..."],
    t: Float[Tensor, " b"],
    items: Items,
    sigma_min: float = SIGMA_MIN,
) -> Float[Tensor, "n ..."]:
    """Return the velocity at ``x`` whose estimate of x_0 is ``clean``."""
    t = items.spread(t, x)
    return ((1 - sigma_min) * x - clean) / (sigma_min + (1 - sigma_min) * t)


@dataclass(frozen=True)
class TimeLaw:
    """How training times are drawn."""

    kind: Literal["uniform", "logit_normal"] = "logit_normal"
    mean: float = 1.0
    """Of the normal law whose sigmoid is the time; "logit_normal" only."""
    std: float = 1.0
    """Its standard deviation."""

    def raw(self, generator: torch.Generator, n: int = 1) -> Float[Tensor, " n"]:
        """Return ``n`` draws of what `times` wants."""
        if self.kind == "uniform":
            return torch.rand(n, generator=generator)
        return torch.randn(n, generator=generator)

    def times(self, raw: Float[Tensor, " n"], lowest: float) -> Float[Tensor, " n"]:
        """Return times in [lowest, 1] made of uniform or normal draws."""
        share = raw if self.kind == "uniform" else torch.sigmoid(raw * self.std + self.mean)
        return lowest + (1 - lowest) * share


def phase_end(t: Float[Tensor, " b"], interval: float, phases: int) -> Float[Tensor, " b"]:
    """Return where the phase of ``t`` ends: the largest k / phases that is <= t - interval."""
    ends = torch.arange(phases, device=t.device, dtype=t.dtype) / phases
    below = ends <= (t - interval)[:, None]
    return ends[(below.sum(dim=1) - 1).clamp(min=0)]


def guided(
    velocity: Velocity,
    negative: Any,
    weight: float,
    items: Items,
    interval: tuple[float, float] = (0.0, 1.0),
) -> Velocity:
    """Return v(cond) + weight (v(cond) - v(negative)), at times within ``interval``.

    Both ends belong to the interval; outside it the velocity is v(cond) alone.

    Args:
        velocity: dense or sparse velocity.
        negative: condition of the other branch; None means no guidance.
        weight: how far beyond the conditional velocity; 0 is none (guidance scale 1 + weight).
        items: of the batches it will see.
        interval: times at which guidance acts.
    """
    if weight <= 0 or negative is None:
        return velocity

    def field(x: Tensor, t: Tensor, condition: Any) -> Tensor:
        inside = (t >= interval[0]) & (t <= interval[1])
        conditional = velocity(x, t, condition)
        # The second evaluation is dear, and often no item of the batch needs it.
        if not bool(inside.any()):
            return conditional
        away = conditional - velocity(x, t, negative)
        return conditional + items.spread(weight * inside.to(x.dtype), x) * away

    return field
