"""The score distillation loss of functional maps, whose absolute values the prior knows.

Notation: C the map, g the prior's gradient at |C| (`geo3d.distill.score.denoiser_gradient`).

Source: Pierson et al. 2025 (DiffuMatch, arXiv 2507.23715), whose released code uses another formula
than the paper: both are here.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from geo3d.distill.score import loss_with_gradient
from geo3d.errors import ConfigError
from shape_matching.prior.zero_shot_config import SdsForm


def sds_loss(
    fmaps: Float[Tensor, "b k2 k1"],
    gradient: Float[Tensor, "b k2 k1"],
    form: SdsForm = "corrected",
    rate: float = 1e-3,
) -> Float[Tensor, " b"]:
    """Return the loss of each map.

    ``corrected`` has the gradient g with respect to |C|.  ``released`` is the mean over entries of
    (|C| - (C - rate g))^2 with the bracket constant: its target has the sign of C, so it is (2 C)^2
    at negative entries and about (rate g)^2 elsewhere, a penalty on negative entries.

    Raises:
        ConfigError: ``zero_shot.unknown_form``.
    """
    if form == "corrected":
        return loss_with_gradient(fmaps.abs(), gradient)
    if form == "released":
        target = fmaps.detach() - rate * gradient
        return ((fmaps.abs() - target) ** 2).mean(dim=(-2, -1))
    raise ConfigError(
        "zero_shot.unknown_form",
        f"Unknown form '{form}' of score distillation.",
        "Known are released and corrected.",
    )
