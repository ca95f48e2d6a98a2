"""Score distillation: the gradient that a frozen network gives a result.

Notation: x result (image, latent or matrix), e the noise it was given at step t, e_p(x_t) the
teacher's guided prediction of it, e_q(x_t) that of the tracker, a copy of the teacher that learns
to denoise the results as they are now; w_t = 1 - abar_t.

    SDS   g = w_t (e_p - e)
    VSD   g = w_t (e_p - e_q)     0 where the results already look as the teacher's samples do, so
                                  that no large guidance scale is needed
    both with a denoiser D of sigma     g = mean_n (x - D(x + sigma_n e_n; sigma_n))

Each entry of g is clipped; x moves by -g.  Nothing is differentiated through the network.

Source: Poole et al. 2023 (SDS), equation 3; Wang et al. 2023 (ProlificDreamer), equation 8; weight,
clipping and layouts as Urban Architect (arXiv 2404.06780), equation 5; denoisers as Pierson et al.
2025 (DiffuMatch, arXiv 2507.23715).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from geo3d.distill.preconditioning import Denoise
from geo3d.errors import NumericalError, ShapeError


@torch.no_grad()
def score_gradient(
    teacher: Float[Tensor, "b ..."],
    reference: Float[Tensor, "b ..."],
    weight: Float[Tensor, " b"],
    clip: float | None = None,
) -> Float[Tensor, "b ..."]:
    """Return w (e_p - reference), each entry clipped to +-``clip``.

    Args:
        teacher: e_p, the teacher's prediction of the noise.
        reference: the noise itself (SDS), or the tracker's prediction of it (VSD).
        weight: w of each item (`geo3d.distill.levels.NoiseSchedule.weight`).
        clip: largest magnitude of an entry; None for no limit.

    Raises:
        NumericalError: ``distill.not_finite``.
    """
    gradient = weight.reshape(-1, *[1] * (teacher.ndim - 1)) * (teacher - reference)
    require_finite(gradient, "The gradient of distillation")
    return gradient if clip is None else gradient.clamp(-clip, clip)


@torch.no_grad()
def denoiser_gradient(
    denoise: Denoise,
    items: Float[Tensor, "b h w"],
    sigma: Float[Tensor, "*b n"],
    noise: Float[Tensor, "#b #n h w"],
) -> Float[Tensor, "b h w"]:
    """Return mean_n (x - D(x + sigma_n noise_n; sigma_n)) with one call of the denoiser.

    Args:
        denoise: D(x, sigma).
        items: x.
        sigma: levels (n,) for all items or (b, n).
        noise: unit noise; an axis of length 1 is shared, by all probes in the published method.

    Raises:
        ShapeError: ``distill.bad_probes`` when levels and noise do not fit the items.
    """
    levels = sigma.expand(len(items), sigma.shape[-1])
    if noise.shape[0] not in (1, len(items)) or noise.shape[1] not in (1, levels.shape[1]):
        raise ShapeError(
            "distill.bad_probes",
            f"Noise {tuple(noise.shape)} does not fit {len(items)} items at "
            f"{levels.shape[1]} levels each.",
            "Axes are (item, level, h, w); an axis of length 1 is shared.",
        )
    perturbed = items[:, None] + levels[..., None, None] * noise
    clean = denoise(perturbed.flatten(0, 1), levels.flatten()).reshape(perturbed.shape)
    return items - clean.mean(dim=1)


def loss_with_gradient(
    x: Float[Tensor, "b ..."], gradient: Float[Tensor, "b ..."]
) -> Float[Tensor, " b"]:
    """Return each item's half squared distance to the constant x - g: its gradient is g."""
    target = (x - gradient).detach()
    return 0.5 * ((x - target) ** 2).flatten(1).sum(dim=1)


def tracker_loss(
    output: Float[Tensor, "b ..."], target: Float[Tensor, "b ..."]
) -> Float[Tensor, ""]:
    """Return the mean squared error of the tracker's output (noise or velocity)."""
    return ((output - target) ** 2).mean()


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
