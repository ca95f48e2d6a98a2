"""Guidance: the condition amplified, the one way it is done everywhere.

Notation: s the guidance scale, c and u what a network predicts with and without the condition;
u + s (c - u), so that s = 1 means none.  TRELLIS and MDT-dist write c + w (c - u): s = 1 + w, their
40 is our 41 (`geo3d.distill.conventions`).  Both ends of an interval of times belong to it.

Source: Ho & Salimans 2022; Kynkäänniemi et al. 2024 (limited interval).
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor

from geo3d.distill.flow import Items, State, Velocity

X = TypeVar("X", bound=State)
Times = TypeVar("Times", float, Tensor)


def guided(unconditional: X, conditional: X, guidance_scale: float) -> X:
    """Return u + s (c - u)."""
    return unconditional + (conditional - unconditional) * guidance_scale


def in_interval(t: Times, interval: tuple[float, float]) -> Any:
    """Return whether each time lies in ``interval``, both ends included."""
    return (t >= interval[0]) & (t <= interval[1])


def guided_velocity(
    velocity: Velocity,
    negative: Any,
    guidance_scale: float,
    items: Items,
    interval: tuple[float, float] = (0.0, 1.0),
) -> Velocity:
    """Return the velocity under guidance, guided where the time lies in ``interval``.

    Args:
        velocity: dense or sparse velocity.
        negative: condition of the other branch.
        guidance_scale: 1 returns ``velocity`` itself.
        items: of the batches it will see.
        interval: times at which guidance acts; elsewhere the condition acts alone.
    """
    if guidance_scale == 1:
        return velocity

    def field(x: Tensor, t: Tensor, condition: Any) -> Tensor:
        inside = in_interval(t, interval)
        conditional = velocity(x, t, condition)
        # The second evaluation is expensive, and often no item of the batch needs it.
        if not bool(inside.any()):
            return conditional
        amplified = guided(velocity(x, t, negative), conditional, guidance_scale)
        return torch.where(items.spread(inside.to(x.dtype), x) > 0, amplified, conditional)

    return field
