"""Score distillation: the gradient a frozen diffusion network gives a result.

Notation: x result (image or latent), e the noise it was given at step t, e_p(x_t) the teacher's
guided prediction of it, w_t = 1 - abar_t.  g = w_t (e_p - e), each entry clipped; x moves by -g.
Nothing is differentiated through the network.

Source: Poole et al. 2023, equation 3; clipping and weight as Urban Architect (arXiv 2404.06780).
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from geo3d.distill.diffusion import NoiseSchedule
from geo3d.errors import ConfigError, NumericalError


@torch.no_grad()
def sds_gradient(
    teacher: Float[Tensor, "b ..."],
    noise: Float[Tensor, "b ..."],
    weight: Float[Tensor, " b"],
    clip: float | None = None,
) -> Float[Tensor, "b ..."]:
    """Return w (e_p - e), each entry clipped to +-``clip``.

    Args:
        teacher: e_p, the teacher's prediction of the noise.
        noise: e.
        weight: w of each item (`step_weight`).
        clip: largest magnitude of an entry; None for no limit.

    Raises:
        NumericalError: ``distill.not_finite``.
    """
    return clipped(weight.reshape(-1, *[1] * (noise.ndim - 1)) * (teacher - noise), clip)


def step_weight(schedule: NoiseSchedule, t: Int[Tensor, " b"]) -> Float[Tensor, " b"]:
    """Return w_t = 1 - abar_t."""
    return 1 - schedule.abar[t.to(schedule.abar.device)]


def clipped(gradient: Float[Tensor, "b ..."], clip: float | None) -> Float[Tensor, "b ..."]:
    """Return ``gradient`` with entries limited to +-``clip``; what is not finite raises.

    Raises:
        NumericalError: ``distill.not_finite``.
    """
    require_finite(gradient, "The gradient of distillation")
    return gradient if clip is None else gradient.clamp(-clip, clip)


def require_finite(values: Float[Tensor, ...], what: str) -> None:
    """Raise where a value is NaN or infinite.

    Raises:
        NumericalError: ``distill.not_finite``.
    """
    bad = int((~torch.isfinite(values)).sum())
    if bad:
        raise NumericalError(
            "distill.not_finite",
            f"{what} has {bad} of {values.numel()} entries that are no finite number.",
            "Go back to the last good state; lower the learning rate or the guidance scale.",
        )


def loss_with_gradient(
    x: Float[Tensor, "b ..."], gradient: Float[Tensor, "b ..."]
) -> Float[Tensor, ""]:
    """Return half the squared distance of x to the constant x - g, summed, over the batch size.

    Its gradient with respect to x is g / b.
    """
    target = (x - gradient).detach()
    return 0.5 * ((x - target) ** 2).sum() / len(x)


def step_window(
    steps: int,
    done: float,
    span: tuple[float, float] = (0.02, 0.98),
    last: float | None = None,
    after: float = 0.2,
) -> tuple[int, int]:
    """Return the first and last step to draw from.

    Args:
        steps: of the schedule.
        done: share of the optimisation that is over, 0 to 1.
        span: lowest and highest share of ``steps``.
        last: highest share at the end; None keeps that of ``span``.
        after: the highest share falls linearly to ``last`` from this moment on.

    Raises:
        ConfigError: ``distill.bad_window``.
    """
    low, high = span
    end = high if last is None else last
    if not (0 <= low <= high <= 1 and low <= end <= 1 and 0 <= after < 1 and 0 <= done <= 1):
        raise ConfigError(
            "distill.bad_window",
            f"Steps from {low} to {high}, at last {end}, annealed after {after} at {done}.",
            "All are shares between 0 and 1, the first the lowest.",
        )
    high += (end - high) * max(0.0, (done - after) / (1 - after))
    return int(low * steps), min(int(high * steps), steps - 1)
