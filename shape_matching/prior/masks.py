"""Penalty masks for functional maps: which entries a prior believes to be small.

Notation: C (k2, k1) a functional map, D a mask of the same layout (row = shape 2), b directions or
pairs, n probes.  A mask enters the solve of `geo3d.spectral.fmap.solve_fmap` as
weight * sum_ij D_ij C_ij^2.  The prior is a denoiser of |C|, called as ``denoise(x, sigma)``.
Masks of the shapes' spectra alone are in `geo3d.spectral.fmap` (Laplacian, resolvent).

Source: Pierson et al. 2025 (DiffuMatch, arXiv 2507.23715) for `shrinkage_mask`, in the form of its
released code.  `posterior_mask` and `static_mask` are ours: the squared size a plausible entry has,
inverted, which is the weight of a Gaussian prior entry by entry.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from geo3d.distill.preconditioning import Denoise
from geo3d.errors import ShapeError

FLOOR = 1e-4
"""Squared size of the smallest entry told apart from 0; the largest weight is its inverse."""


@torch.no_grad()
def shrinkage_mask(
    denoise: Denoise,
    fmaps: Float[Tensor, "b k2 k1"],
    noise: Float[Tensor, "b n k2 k1"],
    sigma: float = 1.0,
    *,
    absolute: bool = True,
    normalize: bool = False,
) -> Float[Tensor, "b k2 k1"]:
    """Return the published diffusion mask: how strongly the denoiser wants to shrink an entry.

    With X = |C| + sigma noise, D = sqrt(mean|X - D(X)| / (2 sigma) / mean|X|) - its minimum.

    Args:
        absolute: whether X is | |C| + sigma noise | (as published), not C + sigma noise.
        normalize: whether half the median is first taken off below the root, and the rest cut at
            two medians.

    Raises:
        ShapeError: ``prior_masks.bad_noise``.
    """
    _check_noise(fmaps, noise)
    noisy = (fmaps.abs() if absolute else fmaps)[:, None] + sigma * noise
    noisy = noisy.abs() if absolute else noisy
    shrunk = (noisy - _denoised(denoise, noisy, sigma)).abs().mean(dim=1) / (2 * sigma)
    squared = shrunk / noisy.abs().mean(dim=1)
    if normalize:
        median = squared.flatten(1).median(dim=1).values[:, None, None]
        squared = (squared - median / 2).clamp(min=0).minimum(2 * median)
    root = squared.sqrt()
    return root - root.amin(dim=(1, 2), keepdim=True)


@torch.no_grad()
def posterior_mask(
    denoise: Denoise,
    fmaps: Float[Tensor, "b k2 k1"],
    noise: Float[Tensor, "b n k2 k1"],
    sigma: float = 1.0,
    *,
    floor: float = FLOOR,
) -> Float[Tensor, "b k2 k1"]:
    """Return 1 / (mean_n D(|C| + sigma noise_n; sigma)^2 + floor).

    Works best from a map that is regularised already.

    Raises:
        ShapeError: ``prior_masks.bad_noise``.
    """
    _check_noise(fmaps, noise)
    noisy = fmaps.abs()[:, None] + sigma * noise
    return static_mask((_denoised(denoise, noisy, sigma) ** 2).mean(dim=1), floor=floor)


def static_mask(
    second_moment: Float[Tensor, "*b k2 k1"], *, floor: float = FLOOR
) -> Float[Tensor, "*b k2 k1"]:
    """Return 1 / (E C_ij^2 + floor) from the mean squares of a training set's maps."""
    return 1 / (second_moment + floor)


def _denoised(denoise: Denoise, noisy: Tensor, sigma: float) -> Tensor:
    flat = noisy.flatten(0, 1)
    return denoise(flat, flat.new_full((len(flat),), sigma)).reshape(noisy.shape)


def _check_noise(fmaps: Tensor, noise: Tensor) -> None:
    if noise.ndim != 4 or noise.shape[0] != fmaps.shape[0] or noise.shape[2:] != fmaps.shape[1:]:
        raise ShapeError(
            "prior_masks.bad_noise",
            f"Noise {tuple(noise.shape)} does not fit maps {tuple(fmaps.shape)}.",
            "Expected (b, n, k2, k1) for maps (b, k2, k1).",
        )
