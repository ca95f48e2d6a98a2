"""Samplers: from noise to a sample, as functions of a denoiser or of a velocity.

Notation: s samples; sigma noise level; d = (x - D(x; sigma)) / sigma the slope dx / d sigma of the
probability flow; t time of a flow, 0 data, 1 noise; v velocity, towards noise.

DDIM is diffusers' (`scenes.urban.ddim`): teachers come with its scheduler_config.json, whose
schedules, spacings and thresholds would all have to be written again.

Source: Karras et al. 2022, algorithm 1 (deterministic, Heun's second-order steps); Song et al. 2023
(multistep consistency); Boffi et al. 2025 (flow maps).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from geo3d.distill.flow import SIGMA_MIN, State
from geo3d.distill.preconditioning import Denoise
from geo3d.progress import ProgressCallback, ignore_progress, report

X = TypeVar("X", bound=State)


@torch.no_grad()
def heun(
    denoise: Denoise,
    unit_noise: Float[Tensor, "s ..."],
    levels: Float[Tensor, " i"],
    progress: ProgressCallback = ignore_progress,
) -> Float[Tensor, "s ..."]:
    """Return the samples that the probability flow makes of ``unit_noise``.

    Args:
        denoise: D(x, sigma).
        unit_noise: standard normal; scaled by the first level.
        levels: falling noise levels, the last 0 (`geo3d.distill.levels.karras_levels`).
        progress: told after every level.
    """

    def slope(x: Tensor, sigma: Tensor) -> Tensor:
        return (x - denoise(x, sigma.expand(len(x)))) / sigma

    x, levels = unit_noise * levels[0], levels.to(unit_noise)
    for i, (sigma, lower) in enumerate(pairwise(levels)):
        first = slope(x, sigma)
        ahead = x + (lower - sigma) * first
        if lower > 0:
            ahead = x + (lower - sigma) * (first + slope(ahead, lower)) / 2
        x = ahead
        report(progress, "sampling", i + 1, len(levels) - 1)
    return x


@dataclass(frozen=True)
class FlowStep(Generic[X]):
    """One step of a flow's sampler."""

    t: float
    """Where it began."""
    end: float
    """Where it ended."""
    x: X
    """The state at the end."""
    estimate: X
    """The data that the velocity at the beginning pointed at."""


@torch.no_grad()
def flow_steps(
    velocity: Callable[[X, float, float], X],
    noise: X,
    times: Sequence[float],
    renew: Callable[[], X] | None = None,
    sigma_min: float = SIGMA_MIN,
) -> Iterator[FlowStep[X]]:
    """Yield the steps from noise (t = 1) to data (t = 0).

    A step goes to x - (t - end) v: Euler's for a velocity, exact for a flow map told both times.
    With ``renew`` it jumps to the data x - t v, which new noise perturbs to the end: so consistency
    functions are sampled in more than one step.

    Args:
        velocity: v(x, t, end).
        noise: the state at the first time.
        times: falling, the last 0 (`geo3d.distill.levels.flow_times`).
        renew: returns new noise like ``noise``.
        sigma_min: noise left in data.
    """
    x, s = noise, sigma_min
    for t, end in pairwise(times):
        v = velocity(x, t, end)
        estimate = x * (1 - s) - v * (s + (1 - s) * t)
        if renew is not None and end > 0:
            x = (x - v * t) * (1 - end) + renew() * (s + (1 - s) * end)
        else:
            x = x - v * (t - end)
        yield FlowStep(t, end, x, estimate)
