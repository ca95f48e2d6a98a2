"""Objectives for students phi(x, t, cond) with one time: the network of the teacher.

Each returns a `Pair`; its squared error is the loss, in which the target is a constant.

Notation: v the teacher's velocity (guided as one likes), phi the student, sg stop-gradient,
x_t a noisy state, f(x, t) = x - t phi(x, t) the data the student jumps to.

    flow matching      phi  ->  (1 - sigma) eps - x_0
    field regression   phi  ->  v                             (few-step teacher, guidance distilled)
    velocity matching  phi  ->  v - t sg(d phi/dt)            (phi is the mean velocity down to 0)
    velocity distill.  the same residual at the student's own samples, pushed through phi(z, 1)
    consistency        x - (t - e) phi -> the same one teacher step earlier, e the phase's end
    sCM                phi  ->  sg(phi) + g / (rms(g) + c),   g = v - phi - r t d phi/dt
    distribution       a sample x -> x - (x0_tracker(x_t) - x0_teacher(x_t)) / scale, the tracker
                       being the velocity of the student's own samples, learnt by flow matching

Sources: Lipman et al. 2023; Meng et al. 2023 (guidance distillation); Xie et al. 2025 (MDT-dist,
arXiv 2509.04406); Song et al. 2023 (CM); Wang et al. 2024 (PCM, without its discriminator); Lu &
Song 2025 (sCM, here for the straight path, without its learnt weighting); Yin et al. 2024 (DMD2,
without its discriminator: no real data is needed).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from geo3d.distill.derivatives import Derivative, derivative_along, normalised
from geo3d.distill.flow import (
    Items,
    Velocity,
    perturb,
    phase_end,
    velocity_to_clean,
)

SCM_OFFSET = 0.1
"""c of sCM's tangent normalisation, as published."""
LEAST_SCALE = 1e-6
"""Of distribution matching: a sample that is where the teacher sees it already divides by this."""
VdWeight = Literal["one", "one_minus_t"]


@dataclass(frozen=True, eq=False)
class Place:
    """Noisy states, their times and conditions."""

    x: Float[Tensor, "n ..."]
    t: Float[Tensor, " b"]
    condition: Any
    items: Items

    def moved(self, x: Float[Tensor, "n ..."], t: Float[Tensor, " b"]) -> Place:
        """Return the same items elsewhere."""
        return Place(x, t, self.condition, self.items)

    def see(self, velocity: Velocity) -> Float[Tensor, "n ..."]:
        """Return the velocity here."""
        return velocity(self.x, self.t, self.condition)

    def jump(self, velocity: Velocity, end: Float[Tensor, " b"]) -> Float[Tensor, "n ..."]:
        """Return x - (t - end) v, where the velocity here leads by the time ``end``."""
        return self.x - self.items.spread(self.t - end, self.x) * self.see(velocity)


class Pair(NamedTuple):
    """A prediction and its target; only the first has gradients."""

    prediction: Float[Tensor, "n ..."]
    target: Float[Tensor, "n ..."]

    def squared_error(self) -> Float[Tensor, "n ..."]:
        """Return the squared error, entry by entry."""
        return (self.prediction - self.target).square()


@dataclass(frozen=True)
class How:
    """What some objectives need to be told, and others not."""

    derivative: Derivative = field(default_factory=Derivative)
    """Estimator of d phi/dt; consistency takes its interval for the teacher's step."""
    phases: int = 1
    """1 jumps to t = 0 (CM); more, to the end of the phase t is in (PCM)."""
    warmth: float = 1.0
    """r of sCM, which rises from 0 (plain regression on the field) to 1 early in training."""


Residual = Callable[[Velocity, Velocity, Place, How], Pair]
"""An objective of student phi, field v, place and settings."""


def field_regression(student: Velocity, field: Velocity, place: Place, how: How) -> Pair:
    """Return the student's velocity and the field's, guided as it may be."""
    with torch.no_grad():
        target = place.see(field)
    return Pair(place.see(student), target)


def velocity_matching(student: Velocity, field: Velocity, place: Place, how: How) -> Pair:
    """Return phi and v - t d phi/dt; the derivative is a constant."""
    phi, v, slope = _along_path(student, field, place, how.derivative)
    return Pair(phi, v - place.items.spread(place.t, v) * slope)


def consistency(student: Velocity, field: Velocity, place: Place, how: How) -> Pair:
    """Return where the student jumps to from here, and from one interval of the field earlier."""
    interval = how.derivative.interval
    end = phase_end(place.t, interval, how.phases)
    prediction = place.jump(student, end)
    with torch.no_grad():
        before = place.moved(place.x - interval * place.see(field), place.t - interval)
        target = before.jump(student, end)
    return Pair(prediction, target)


def continuous_consistency(student: Velocity, field: Velocity, place: Place, how: How) -> Pair:
    """Return sCM's pair: phi, moved by its tangent, which is divided by its own norm."""
    phi, v, slope = _along_path(student, field, place, how.derivative)
    items, here = place.items, phi.detach()
    tangent = v - here - how.warmth * items.spread(place.t, v) * slope
    rms = items.mean(tangent.square()).sqrt()
    return Pair(phi, here + tangent * items.spread(1 / (rms + SCM_OFFSET), tangent))


def velocity_distillation(
    student: Velocity,
    residual: Callable[[Place], Pair],
    start: Place,
    noise: Float[Tensor, "n ..."],
    t: Float[Tensor, " b"],
    sigma_min: float,
    weight: VdWeight = "one",
) -> Pair:
    """Push the residual at the student's own samples through its first step.

    The sample z - phi(z, 1) is perturbed again to time ``t``; the value of the loss is the squared
    residual there, its gradient that of phi(z, 1) against the residual.

    Args:
        student: phi.
        residual: velocity matching (or consistency) at a place; its gradients are not used.
        start: pure noise z at t = 1.
        noise, t: how the samples are perturbed again.
        sigma_min: noise left in data.
        weight: ``one`` as released; ``one_minus_t`` is the factor of the paper's gradient.
    """
    phi = start.see(student)
    with torch.no_grad():
        x = perturb(start.x - phi.detach(), noise, t, start.items, sigma_min)
        there = residual(start.moved(x, t))
        error = there.prediction - there.target
        if weight == "one_minus_t":
            error = error * (1 - start.items.spread(t, error))
        target = phi.detach() - error
    return Pair(phi, target)


def sample_at(student: Velocity, start: Place, times: tuple[float, ...], step: int) -> Tensor:
    """Return the data that step ``step`` of the student's own sampling jumps to.

    Only the jump x - t phi has gradients.  ``times`` are the sampler's, falling, without the 0.
    """
    place = start
    with torch.no_grad():
        for t, lower in pairwise(times[: step + 1]):
            x = place.x - (t - lower) * place.see(student)
            place = place.moved(x, torch.full_like(start.t, lower))
    return place.jump(student, torch.zeros_like(place.t))


def distribution_matching(
    sample: Float[Tensor, "n ..."],
    tracker: Velocity,
    field: Velocity,
    noise: Float[Tensor, "n ..."],
    place: Place,
    sigma_min: float,
) -> Pair:
    """Return the student's sample and where teacher and tracker together would move it.

    Args:
        sample: with gradients (`sample_at`).
        tracker: velocity of the student's samples.
        field: velocity of the teacher.
        noise: what the sample is perturbed with.
        place: condition, items and the time t it is perturbed to; its x is not used.
        sigma_min: noise left in data.
    """
    items, t = place.items, place.t
    with torch.no_grad():
        still = sample.detach()
        there = place.moved(perturb(still, noise, t, items, sigma_min), t)
        real = velocity_to_clean(there.x, there.see(field), t, items, sigma_min)
        fake = velocity_to_clean(there.x, there.see(tracker), t, items, sigma_min)
        scale = items.mean((still - real).abs()).clamp(min=LEAST_SCALE)
        target = still - (fake - real) * items.spread(1 / scale, still)
    return Pair(sample, target)


def _along_path(
    student: Velocity, field: Velocity, place: Place, how: Derivative
) -> tuple[Tensor, Tensor, Tensor]:
    """Return phi, the velocity of the path, and the derivative of phi along it, normalised."""
    with torch.no_grad():
        v = place.see(field)
    phi = place.see(student)
    slope = derivative_along(
        lambda x, t: student(x, t, place.condition),
        (place.x, place.t),
        (v, torch.ones_like(place.t)),
        how,
        phi.detach(),
    )
    return phi, v, normalised(slope, place.items, how.norm)
