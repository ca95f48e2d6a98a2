"""Rectified flows: the straight path between data and noise, over dense and sparse batches.

Notation: b items; t in [0, 1] the time, 0 at data and 1 at noise; sigma = sigma_min;
    x_t = (1 - t) x_0 + (sigma + (1 - sigma) t) eps,      dx/dt = v = (1 - sigma) eps - x_0.

A batch is one tensor.  Its first axis counts items (dense: (b, ...)), or rows that belong to items
(sparse: (n, c) and the item of each row); `Items` knows which.

Source: Liu et al. 2022 (rectified flow); Xiang et al. 2024 (TRELLIS) for sigma.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from geo3d.errors import ShapeError

SIGMA_MIN = 1e-5
"""Noise left in the data at t = 0."""
Velocity = Callable[[Tensor, Tensor, Any], Tensor]
"""v(x, t, condition) with t of shape (b,)."""


@runtime_checkable
class State(Protocol):
    """What samplers and guidance ask of a state: a tensor, or values on voxels."""

    def __add__(self, other: Any, /) -> Any: ...
    def __sub__(self, other: Any, /) -> Any: ...
    def __mul__(self, other: Any, /) -> Any: ...


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


def perturb(
    clean: Float[Tensor, "n ..."],
    noise: Float[Tensor, "n ..."],
    t: Float[Tensor, " b"],
    items: Items,
    sigma_min: float = SIGMA_MIN,
) -> Float[Tensor, "n ..."]:
    """Return the noisy state x_t."""
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


def phase_end(t: Float[Tensor, " b"], interval: float, phases: int) -> Float[Tensor, " b"]:
    """Return where the phase of ``t`` ends: the largest k / phases that is <= t - interval."""
    ends = torch.arange(phases, device=t.device, dtype=t.dtype) / phases
    below = ends <= (t - interval)[:, None]
    return ends[(below.sum(dim=1) - 1).clamp(min=0)]
