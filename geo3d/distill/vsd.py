"""Variational score distillation: the teacher against a tracker of what is being made.

Notation: as `geo3d.distill.sds`; e_q(x_t) the tracker's prediction, a copy of the teacher that
learns to denoise the results as they are now.  g = w_t (e_p - e_q): where the results already look
as the teacher's samples do, both agree and g is 0, so that no large guidance scale is needed.

Source: Wang et al. 2023 (ProlificDreamer), equation 8; with a layout Urban Architect,
arXiv 2404.06780, equation 5, where both see the same control.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from geo3d.distill.sds import clipped


@torch.no_grad()
def vsd_gradient(
    teacher: Float[Tensor, "b ..."],
    tracker: Float[Tensor, "b ..."],
    weight: Float[Tensor, " b"],
    clip: float | None = None,
) -> Float[Tensor, "b ..."]:
    """Return w (e_p - e_q), each entry clipped to +-``clip``.

    Args:
        teacher: e_p, the teacher's prediction of the noise.
        tracker: e_q, the tracker's.
        weight: w of each item (`geo3d.distill.sds.step_weight`).
        clip: largest magnitude of an entry; None for no limit.

    Raises:
        NumericalError: ``distill.not_finite``.
    """
    scale = weight.reshape(-1, *[1] * (teacher.ndim - 1))
    return clipped(scale * (teacher - tracker), clip)


def tracker_loss(
    output: Float[Tensor, "b ..."], target: Float[Tensor, "b ..."]
) -> Float[Tensor, ""]:
    """Return the mean squared error of the tracker's output (noise or velocity)."""
    return ((output - target) ** 2).mean()
