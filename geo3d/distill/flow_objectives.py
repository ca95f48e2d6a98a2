"""Objectives for students phi(x, t, cond) with one time: the network of the teacher.

Each returns a `Pair`; its squared error is the loss, in which the target is a constant.

Notation: v the teacher's velocity (guided as one likes), phi the student, sg stop-gradient,
x_t a noisy item, f(x, t) = x - t phi(x, t) the data the student jumps to.

    flow matching      phi  ->  (1 - sigma) eps - x_0
    field regression   phi  ->  v                             (few-step teacher, guidance distilled)
    velocity matching  phi  ->  v - t sg(d phi/dt)            (phi is the mean velocity down to 0)
    velocity distill.  the same residual at the student's own samples, pushed through phi(z, 1)
    consistency        x - (t - e) phi -> the same one teacher step earlier, e the phase's end
    sCM                phi  ->  sg(phi) + g / (rms(g) + c),   g = v - phi - r t d phi/dt

Sources: Lipman et al. 2023; Meng et al. 2023 (guidance distillation); Xie et al. 2025 (MDT-dist,
arXiv 2509.04406); Song et al. 2023 (CM); Wang et al. 2024 (PCM, without its discriminator); Lu &
Song 2025 (sCM, here for the straight path, without its learnt weighting).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from geo3d.distill.derivatives import Derivative, total_derivative
from geo3d.distill.flow import Items, Velocity, noisy, path_velocity, phase_end

SCM_OFFSET = 0.1
"""c of sCM's tangent normalisation."""
VdWeight = Literal["one", "one_minus_t"]


@dataclass(frozen=True, eq=False)
class Place:
    """Noisy items, their times and conditions."""

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


class Pair(NamedTuple):
    """What is predicted, and what it should have been; only the first has gradients."""

    prediction: Float[Tensor, "n ..."]
    target: Float[Tensor, "n ..."]

    def squared_error(self) -> Float[Tensor, "n ..."]:
        """Return the squared error, entry by entry."""
        return (self.prediction - self.target).square()


Objective = Callable[[Velocity, Velocity, Place], Pair]
"""An objective of (student, field, place)."""


def flow_matching(
    student: Velocity,
    clean: Float[Tensor, "n ..."],
    noise: Float[Tensor, "n ..."],
    place: Place,
    sigma_min: float,
) -> Pair:
    """Return the student's velocity and that of the straight path: how teachers are trained."""
    return Pair(place.see(student), path_velocity(clean, noise, sigma_min))


def field_regression(student: Velocity, field: Velocity, place: Place) -> Pair:
    """Return the student's velocity and the field's, guided as it may be."""
    with torch.no_grad():
        target = place.see(field)
    return Pair(place.see(student), target)


def velocity_matching(student: Velocity, field: Velocity, place: Place, how: Derivative) -> Pair:
    """Return phi and v - t d phi/dt; the derivative is a constant."""
    with torch.no_grad():
        v = place.see(field)
    phi = place.see(student)
    here = phi.detach()
    slope = total_derivative(student, place.x, place.t, place.condition, v, place.items, how, here)
    return Pair(phi, v - place.items.spread(place.t, v) * slope)


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

    The sample z - phi(z, 1) is noised again to time ``t``; the value of the loss is the squared
    residual there, its gradient that of phi(z, 1) against the residual.

    Args:
        student: phi.
        residual: velocity matching (or consistency) at a place; its gradients are not used.
        start: pure noise z at t = 1.
        noise, t: how the samples are noised again.
        sigma_min: noise left in data.
        weight: ``one`` as released; ``one_minus_t`` is the factor of the paper's gradient.
    """
    phi = start.see(student)
    with torch.no_grad():
        x = noisy(start.x - phi.detach(), noise, t, start.items, sigma_min)
        there = residual(start.moved(x, t))
        error = there.prediction - there.target
        if weight == "one_minus_t":
            error = error * (1 - start.items.spread(t, error))
        target = phi.detach() - error
    return Pair(phi, target)


def consistency(
    student: Velocity,
    field: Velocity,
    place: Place,
    *,
    interval: float = 0.01,
    phases: int = 1,
    reference: Velocity | None = None,
) -> Pair:
    """Return where the student jumps to from here, and from one step of the field earlier.

    Args:
        student: phi.
        field: takes the step.
        place: here; every t is at least ``interval``.
        interval: length of the step.
        phases: 1 jumps to t = 0 (CM); more, to the end of the phase t is in (PCM).
        reference: who jumps from the earlier point; default the student itself, as released.
    """
    end = phase_end(place.t, interval, phases)
    prediction = _jump(student, place, end)
    with torch.no_grad():
        before = place.moved(place.x - interval * place.see(field), place.t - interval)
        target = _jump(student if reference is None else reference, before, end)
    return Pair(prediction, target)


def continuous_consistency(
    student: Velocity, field: Velocity, place: Place, how: Derivative, warmth: float = 1.0
) -> Pair:
    """Return sCM's pair: phi, moved by its normalised tangent.

    Args:
        student: phi.
        field: velocity of the path.
        place: here.
        how: estimator of d phi/dt; its own normalisation is not used by the published method.
        warmth: r, which rises from 0 (plain regression on the field) to 1 early in training.
    """
    with torch.no_grad():
        v = place.see(field)
    phi = place.see(student)
    items, here = place.items, phi.detach()
    slope = total_derivative(student, place.x, place.t, place.condition, v, items, how, here)
    tangent = v - here - warmth * items.spread(place.t, v) * slope
    rms = items.mean(tangent.square()).sqrt()
    return Pair(phi, here + tangent * items.spread(1 / (rms + SCM_OFFSET), tangent))


def _jump(velocity: Velocity, place: Place, end: Float[Tensor, " b"]) -> Tensor:
    return place.x - place.items.spread(place.t - end, place.x) * place.see(velocity)
