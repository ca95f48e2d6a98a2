"""Distribution matching: a few-step student whose samples follow the teacher's distribution.

A third network, the tracker, learns by flow matching the velocity of the student's own samples.
Where teacher and tracker disagree about a noised sample, the sample should move:
    x = student's sample,  x_t = x noised,  g = (x0_tracker(x_t) - x0_teacher(x_t)) / scale
and g, a constant, is the gradient with respect to x.

Source: Yin et al. 2024 (DMD2), without its discriminator: no real data is needed.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from geo3d.distill.flow import Velocity, noisy, velocity_to_clean
from geo3d.distill.flow_objectives import Pair, Place


def sample_at(
    student: Velocity, start: Place, times: tuple[float, ...], step: int
) -> tuple[Place, Float[Tensor, "n ..."]]:
    """Return the place of step ``step`` of the student's own sampling, and its jump to data.

    Only the jump x - t phi has gradients.  ``times`` are the sampler's, falling, without the 0.
    """
    place = start
    with torch.no_grad():
        for t, lower in pairwise(times[: step + 1]):
            x = place.x - (t - lower) * place.see(student)
            place = place.moved(x, torch.full_like(start.t, lower))
    jump = place.x - place.items.spread(place.t, place.x) * place.see(student)
    return place, jump


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
        noise: what the sample is noised with.
        place: condition, items and the time t of the noising; its x is not used.
        sigma_min: noise left in data.
    """
    items, t = place.items, place.t
    with torch.no_grad():
        still = sample.detach()
        there = place.moved(noisy(still, noise, t, items, sigma_min), t)
        real = velocity_to_clean(there.x, there.see(field), t, items, sigma_min)
        fake = velocity_to_clean(there.x, there.see(tracker), t, items, sigma_min)
        scale = items.mean((still - real).abs()).clamp(min=1e-6)
        target = still - (fake - real) * items.spread(1 / scale, still)
    return Pair(sample, target)
