"""Discrete diffusion with a table of noise levels, as diffusers and Stable Diffusion have it.

Notation: t step number, abar_t its share of signal power, alpha = sqrt(abar), sigma =
sqrt(1 - abar); x clean, e unit noise, x_t = alpha x + sigma e; velocity v = alpha e - sigma x.
A network predicts e or v.  Where abar is 0 (zero terminal signal) only v can be turned into both.

Source: Ho et al. 2020; Salimans and Ho 2022 (v); Lin et al. 2024 (zero terminal signal).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from geo3d.errors import ConfigError

Prediction = Literal["epsilon", "v_prediction"]


@dataclass(frozen=True)
class NoiseSchedule:
    """Noise levels of all steps, and what the network predicts."""

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

    def alpha(self, t: Int[Tensor, " b"], like: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
        """Return sqrt(abar_t), shaped to scale ``like``."""
        return _spread(self.abar.to(like.device)[t.to(like.device)].sqrt(), like)

    def sigma(self, t: Int[Tensor, " b"], like: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
        """Return sqrt(1 - abar_t), shaped to scale ``like``."""
        return _spread((1 - self.abar.to(like.device)[t.to(like.device)]).sqrt(), like)

    def noisy(
        self, x: Float[Tensor, "b ..."], noise: Float[Tensor, "b ..."], t: Int[Tensor, " b"]
    ) -> Float[Tensor, "b ..."]:
        """Return x_t."""
        return self.alpha(t, x) * x + self.sigma(t, x) * noise

    def target(
        self, x: Float[Tensor, "b ..."], noise: Float[Tensor, "b ..."], t: Int[Tensor, " b"]
    ) -> Float[Tensor, "b ..."]:
        """Return what the network should output."""
        if self.prediction == "epsilon":
            return noise
        return self.alpha(t, x) * noise - self.sigma(t, x) * x

    def noise_of(
        self, output: Float[Tensor, "b ..."], x_t: Float[Tensor, "b ..."], t: Int[Tensor, " b"]
    ) -> Float[Tensor, "b ..."]:
        """Return the noise that the network's ``output`` means."""
        if self.prediction == "epsilon":
            return output
        return self.sigma(t, x_t) * x_t + self.alpha(t, x_t) * output

    def clean_of(
        self, output: Float[Tensor, "b ..."], x_t: Float[Tensor, "b ..."], t: Int[Tensor, " b"]
    ) -> Float[Tensor, "b ..."]:
        """Return the clean item that the network's ``output`` means."""
        if self.prediction == "epsilon":
            return (x_t - self.sigma(t, x_t) * output) / self.alpha(t, x_t)
        return self.alpha(t, x_t) * x_t - self.sigma(t, x_t) * output


def guided(
    without: Float[Tensor, "b ..."], with_condition: Float[Tensor, "b ..."], scale: float
) -> Float[Tensor, "b ..."]:
    """Return the classifier-free guidance of two predictions; ``scale`` 1 is the second."""
    return without + scale * (with_condition - without)


def stratified_steps(
    n: int, window: tuple[int, int], generator: torch.Generator
) -> Int[Tensor, " n"]:
    """Return ``n`` random steps, one in each n-th of ``window`` (both ends included)."""
    low, high = window
    place = (torch.arange(n) + torch.rand(n, generator=generator, dtype=torch.float64)) / n
    return (low + (place * (high - low + 1)).long()).clamp(low, high)


def _spread(values: Tensor, like: Tensor) -> Tensor:
    return values.to(like.dtype).reshape(-1, *[1] * (like.ndim - 1))
