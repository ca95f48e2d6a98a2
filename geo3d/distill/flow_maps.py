"""Objectives for students u(x, t, s, cond) with two times: mean velocities of flow maps.

    X_{t->s}(x) = x - (t - s) u(x, t, s),       u(x, t, t) = v(x, t),      s <= t

Two identities make u the mean velocity of the field v; each gives a target, a constant:
    Eulerian    u  ->  v(x, t) - (t - s) du/dt       along (v, 1, 0): the start moves (MeanFlow)
    Lagrangian  u  ->  v(X_{t->s}, s) + (t - s) du/ds     the end moves
Self-distillation takes the student's own diagonal u(x, t, t) for v and learns the diagonal by flow
matching.  With x pure noise and t = 1 no data is needed:
    data-free   the Lagrangian identity from noise, with the exact derivative
    BOOT        its forward difference: the map to s - d is the map to s and one step of v

Sources: Geng et al. 2025 (MeanFlow); Boffi et al. 2025 (flow maps, self-distillation); Sabour et
al. 2025 (AYF: both identities for distillation); Tong et al. 2025 (distillation without data); Gu
et al. 2023 (BOOT).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from geo3d.distill.derivatives import Derivative, derivative_along
from geo3d.distill.flow import Items, Velocity
from geo3d.distill.flow_objectives import Pair, Place

MeanVelocity = Callable[[Tensor, Tensor, Tensor, Any], Tensor]
"""u(x, t, s, condition) with t and s of shape (b,)."""


def diagonal(student: MeanVelocity) -> Velocity:
    """Return the student's own velocity u(x, t, t)."""
    return lambda x, t, condition: student(x, t, t, condition)


def eulerian(
    student: MeanVelocity, field: Velocity, place: Place, s: Float[Tensor, " b"], how: Derivative
) -> Pair:
    """Return u and what the Eulerian identity says it is.

    Args:
        student: u.
        field: the teacher, `diagonal` of the student, or the straight path's velocity as a
            constant function (MeanFlow without a teacher).
        place: x at times t.
        s: ends, at most t.
        how: estimator of du/dt; a difference looks back to t - interval.
    """
    with torch.no_grad():
        v = place.see(field)
    u = student(place.x, place.t, s, place.condition)
    slope = derivative_along(
        lambda x, t: student(x, t, s, place.condition),
        (place.x, place.t),
        (v, torch.ones_like(place.t)),
        how,
        u.detach(),
    )
    return Pair(u, v - place.items.spread(place.t - s, v) * slope)


def lagrangian(
    student: MeanVelocity, field: Velocity, place: Place, s: Float[Tensor, " b"], how: Derivative
) -> Pair:
    """Return u and what the Lagrangian identity says it is; arguments as in `eulerian`.

    A finite difference looks at s + interval, nearer to t.
    """
    u = student(place.x, place.t, s, place.condition)
    with torch.no_grad():
        slope = derivative_along(
            lambda end: student(place.x, place.t, end, place.condition),
            (s,),
            (torch.ones_like(s),),
            how,
            u.detach(),
            ahead=True,
        )
        span = place.items.spread(place.t - s, u)
        target = field(place.x - span * u, s, place.condition) + span * slope
    return Pair(u, target)


def bootstrap(
    student: MeanVelocity, field: Velocity, start: Place, s: Float[Tensor, " b"], how: Derivative
) -> Pair:
    """Return u to s - interval, and the map to s followed by one such step of the field (BOOT).

    Args:
        student: u.
        field: the teacher.
        start: where maps start; pure noise at t = 1 needs no data.
        s: ends so far, between the interval and t; at s = t the target is the field itself.
        how: its interval is the length of the step.
    """
    step = how.interval
    lower = s - step
    u = student(start.x, start.t, lower, start.condition)
    with torch.no_grad():
        arrived = start.jump(lambda x, t, condition: student(x, t, s, condition), s)
        v = field(arrived, s, start.condition)
        whole = start.items.spread(start.t - lower, v)
        target = (start.x - arrived + step * v) / whole
    return Pair(u, target)


def ordered_times(
    first: Float[Tensor, " b"],
    second: Float[Tensor, " b"],
    equal: Float[Tensor, " b"],
    share: float,
) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
    """Return (t, s), the larger and the smaller; both the larger where ``equal`` < share.

    Args:
        first, second: two draws of the time.
        equal: uniform draws.
        share: of the items on the diagonal, where the identity is plain regression.
    """
    t, s = torch.maximum(first, second), torch.minimum(first, second)
    return t, torch.where(equal < share, t, s)


def adaptive_weight(
    error: Float[Tensor, "n ..."], items: Items, power: float, offset: float = 1e-3
) -> Float[Tensor, " b"]:
    """Return MeanFlow's weight of each item: (mean squared error + offset)^-power, a constant."""
    return (items.mean(error.detach()) + offset).pow(-power)
