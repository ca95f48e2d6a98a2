"""Noise levels and times: discrete schedules, what training draws, and what samplers walk down.

Notation: sigma the noise level of x + sigma e; t step number of a discrete schedule, or time in
[0, 1], 0 at data; abar_t share of signal power at step t, alpha = sqrt(abar), x clean, e unit
noise, x_t = alpha x + sqrt(1 - abar) e; velocity v = alpha e - sqrt(1 - abar) x.
A network of a discrete schedule predicts e or v.  Where abar is 0 (zero terminal signal) only v
tells noise and item.

Source: Ho et al. 2020; Salimans and Ho 2022 (v); Lin et al. 2024 (zero terminal signal); Song et
al. 2021 (variance preserving) and Karras et al. 2022 (EDM), table 1; Xiang et al. 2024 (TRELLIS)
for the distribution of t.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from geo3d.errors import ConfigError

Prediction = Literal["epsilon", "v_prediction"]
BETA_SLOPE = 19.9
BETA_MIN = 0.1
"""The variance-preserving process adds noise at the rate BETA_MIN + BETA_SLOPE t."""
SMALLEST_TIME = 1e-5
"""Below it the published process is not trained: its noise level falls to 0."""


@dataclass(frozen=True)
class NoiseSchedule:
    """Noise levels of all steps, as diffusers has them, and what the network predicts."""

    abar: Float[Tensor, " steps"]
    """Share of signal power by step, falling."""
    prediction: str = "epsilon"
    """What the network's output means: a `Prediction`."""

    def __post_init__(self) -> None:
        if self.prediction not in ("epsilon", "v_prediction"):
            raise ConfigError(
                "diffusion.unknown_prediction",
                f"Networks that predict '{self.prediction}' are not known.",
                "Known are epsilon and v_prediction.",
            )
        inside = bool(((self.abar >= 0) & (self.abar <= 1)).all()) and len(self.abar) > 0
        if not inside or (self.prediction == "epsilon" and float(self.abar.min()) <= 0):
            raise ConfigError(
                "diffusion.bad_schedule",
                "The shares of signal do not lie in (0, 1].",
                "A share of 0 (zero terminal signal) needs a network that predicts v.",
            )

    @property
    def steps(self) -> int:
        """Return the number of steps."""
        return len(self.abar)

    def weight(self, t: Int[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Return 1 - abar_t, the share of noise power, by which score distillation weighs."""
        return 1 - self.abar[t.to(self.abar.device)]

    def scales(
        self, t: Int[Tensor, " b"], like: Float[Tensor, "b ..."]
    ) -> tuple[Float[Tensor, "b ..."], Float[Tensor, "b ..."]]:
        """Return sqrt(abar_t) and sqrt(1 - abar_t), shaped to scale ``like``."""
        abar = self.abar.to(like.device)[t.to(like.device)]
        shape = (-1, *[1] * (like.ndim - 1))
        return (
            abar.sqrt().to(like.dtype).reshape(shape),
            (1 - abar).sqrt().to(like.dtype).reshape(shape),
        )

    def perturb(
        self, x: Float[Tensor, "b ..."], noise: Float[Tensor, "b ..."], t: Int[Tensor, " b"]
    ) -> Float[Tensor, "b ..."]:
        """Return the noisy state x_t."""
        alpha, sigma = self.scales(t, x)
        return alpha * x + sigma * noise

    def target(
        self, x: Float[Tensor, "b ..."], noise: Float[Tensor, "b ..."], t: Int[Tensor, " b"]
    ) -> Float[Tensor, "b ..."]:
        """Return what the network should output."""
        if self.prediction == "epsilon":
            return noise
        alpha, sigma = self.scales(t, x)
        return alpha * noise - sigma * x

    def noise_of(
        self, output: Float[Tensor, "b ..."], x_t: Float[Tensor, "b ..."], t: Int[Tensor, " b"]
    ) -> Float[Tensor, "b ..."]:
        """Return the noise that the network's ``output`` means."""
        if self.prediction == "epsilon":
            return output
        alpha, sigma = self.scales(t, x_t)
        return sigma * x_t + alpha * output


def stratified_steps(
    n: int, window: tuple[int, int], generator: torch.Generator
) -> Int[Tensor, " n"]:
    """Return ``n`` random steps, one in each n-th of ``window`` (both ends included)."""
    low, high = window
    place = (torch.arange(n) + torch.rand(n, generator=generator, dtype=torch.float64)) / n
    return (low + (place * (high - low + 1)).long()).clamp(low, high)


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


@dataclass(frozen=True)
class LevelDistribution:
    """How noise levels sigma are drawn and weighted in the training of a denoiser."""

    kind: Literal["vp", "edm"] = "edm"
    sigma_data: float = 0.18
    """Root mean square of the clean items; used by "edm" only."""
    log_mean: float = -1.2
    """Mean of ln sigma; "edm" only."""
    log_std: float = 1.2
    """Standard deviation of ln sigma; "edm" only."""

    def draw(self, n: int, generator: torch.Generator) -> Float[Tensor, " b"]:
        """Return ``n`` noise levels."""
        if self.kind == "vp":
            uniform = torch.rand(n, generator=generator)
            return vp_sigma(1 + uniform * (SMALLEST_TIME - 1))
        return (torch.randn(n, generator=generator) * self.log_std + self.log_mean).exp()

    def weight(self, sigma: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Return the weight of the squared error at each level."""
        if self.kind == "vp":
            return sigma.square().reciprocal()
        return (sigma.square() + self.sigma_data**2) / (sigma * self.sigma_data).square()


def vp_sigma(t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    """Return the noise level of the variance-preserving process at time ``t`` in (0, 1]."""
    # Not expm1: the published levels near t = 0 have this rounding in them.
    return ((0.5 * BETA_SLOPE * t.square() + BETA_MIN * t).exp() - 1).sqrt()


@dataclass(frozen=True)
class TimestepDistribution:
    """How the times of a flow are drawn in training."""

    kind: Literal["uniform", "logit_normal"] = "logit_normal"
    mean: float = 1.0
    """Of the normal distribution whose sigmoid is the time; "logit_normal" only."""
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


def karras_levels(
    n: int, smallest: float = 0.002, largest: float = 80.0, rho: float = 7.0
) -> Float[Tensor, " i"]:
    """Return ``n`` levels from ``largest`` to ``smallest``, even in sigma^(1/rho), and a last 0."""
    ends = largest ** (1 / rho), smallest ** (1 / rho)
    levels = torch.linspace(*ends, n, dtype=torch.float64) ** rho
    return torch.cat([levels, levels.new_zeros(1)]).float()


def flow_times(steps: int, rescale: float = 1.0) -> list[float]:
    """Return times of a flow from 1 down to 0, one more than there are steps.

    With ``rescale`` above 1 steps are shorter near the noise, as TRELLIS samples.  Both ends are
    exact, whatever rounding makes of the formula: guidance that acts at 1 alone must meet it.
    """
    even = [1 - i / steps for i in range(1, steps)]
    return [1.0, *(min(rescale * u / (1 + (rescale - 1) * u), 1.0) for u in even), 0.0]
