"""How good a prior is by itself: error by noise level, samples, and what it remembers.

Notation: n maps, k their size, s samples, sigma noise level, mu and v mean and variance per entry.

The yardstick is the best denoiser that knows each entry's mean and variance and nothing else
(Wiener): D(x; sigma) = mu + v / (v + sigma^2) (x - mu).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from geo3d.device import item_generator
from geo3d.distill.levels import karras_levels
from geo3d.distill.preconditioning import Denoise
from geo3d.distill.samplers import heun
from geo3d.progress import ProgressCallback, ignore_progress, report
from geo3d.work.curves import new_figure, save_figure
from shape_matching.prior.prior import Prior
from shape_matching.prior.splits import MapSplit, maps_digest

LEVELS = (0.03, 0.1, 0.3, 1.0, 3.0)
LARGEST_LEVEL = 5.0
"""Where sampling starts: maps have a root mean square of 0.2, so nothing of them is left there."""
SAMPLING_STEPS = 24
MEASURED_MAPS = 1024
"""Held-out maps, at most, on which errors are measured."""


def evaluate_prior(
    prior: Prior,
    split: MapSplit,
    previews: Path,
    *,
    n_samples: int = 12,
    seed: int = 0,
    progress: ProgressCallback = ignore_progress,
) -> dict[str, Any]:
    """Measure ``prior`` on held-out maps, draw samples, write figures, return the numbers.

    Args:
        prior: what is measured.
        split: maps of the prior's size; those held out are measured on.
        previews: folder for ``levels.png`` and ``samples.png``.
        n_samples: maps drawn from the prior.
        seed: of noise and samples.
        progress: told after each stage.
    """
    held_out = split.validation[:: -(-len(split.validation) // MEASURED_MAPS)]
    yardstick = entrywise_gaussian(split.train)
    report(progress, "measuring the prior", 0, 3)
    errors = {
        "prior": denoising_errors(prior.denoise, held_out, LEVELS, seed),
        "entrywise_gaussian": denoising_errors(yardstick, held_out, LEVELS, seed),
    }
    report(progress, "measuring the prior", 1, 3)
    samples = sample_maps(prior, n_samples, seed)
    report(progress, "measuring the prior", 2, 3)
    sample_distance, nearest = nearest_maps(samples, split.train)
    real_distance, _ = nearest_maps(held_out, split.train)
    plot_levels(previews / "levels.png", errors)
    real = held_out[:: max(1, len(held_out) // n_samples)][:n_samples]
    plot_samples(previews / "samples.png", samples, split.train[nearest], real)
    report(progress, "measuring the prior", 3, 3)
    return {
        "errors": {name: {f"{s:g}": e for s, e in by.items()} for name, by in errors.items()},
        "held_out_maps": len(held_out),
        "is_held_out": prior.info.get("maps") == maps_digest(split),
        "samples": n_samples,
        "sample_mean_correlation": _correlation(samples.mean(0), split.train.mean(0)),
        "sample_rms": float(samples.square().mean().sqrt()),
        "real_rms": float(split.train.square().mean().sqrt()),
        "sample_to_nearest_training_map": float(sample_distance.median()),
        "held_out_to_nearest_training_map": float(real_distance.median()),
    }


def denoising_errors(
    denoise: Denoise, maps: Float[Tensor, "n 1 k k"], levels: Sequence[float], seed: int = 0
) -> dict[float, float]:
    """Return the mean squared error per entry of the denoised maps, by noise level.

    The noise is that of ``seed``, the same for every denoiser and level, so numbers compare.
    """
    noise = torch.randn(maps.shape, generator=item_generator(seed, "denoising errors"))
    errors = {}
    for sigma in levels:
        clean = denoise(maps + sigma * noise, torch.full((len(maps),), sigma))
        errors[float(sigma)] = float((clean - maps).square().mean())
    return errors


def entrywise_gaussian(maps: Float[Tensor, "n 1 k k"]) -> Denoise:
    """Return the denoiser that knows mean and variance of each entry (the Wiener filter)."""
    mean, variance = maps.mean(dim=0), maps.var(dim=0, correction=0)

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        keep = variance / (variance + sigma.reshape(-1, 1, 1, 1).square())
        return mean + keep * (x - mean)

    return denoise


def sample_maps(prior: Prior, n: int, seed: int = 0) -> Float[Tensor, "s 1 k k"]:
    """Return ``n`` maps drawn from the prior; sample i depends on (seed, i) only."""
    shape = (1, prior.size, prior.size)
    draws = [torch.randn(shape, generator=item_generator(seed, f"sample {i}")) for i in range(n)]
    return heun(
        prior.denoise, torch.stack(draws), karras_levels(SAMPLING_STEPS, 0.01, LARGEST_LEVEL)
    )


def nearest_maps(
    maps: Float[Tensor, "m 1 k k"], among: Float[Tensor, "n 1 k k"]
) -> tuple[Float[Tensor, " m"], Tensor]:
    """Return the Frobenius distance to, and the index of, the nearest of ``among`` for each map."""
    distances = [torch.cdist(rows, among.flatten(1)) for rows in maps.flatten(1).split(256)]
    return torch.cat(distances).min(dim=1)


def plot_levels(path: Path, errors: Mapping[str, Mapping[float, float]]) -> None:
    """Write the denoising error against the noise level as a PNG, one curve per denoiser."""
    figure = new_figure(5.6, 4.2)
    axes = figure.subplots()
    for name, by_level in errors.items():
        values = [1000 * error for error in by_level.values()]
        axes.plot(list(by_level), values, marker="o", label=name.replace("_", " "))
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("noise level sigma")
    axes.set_ylabel("mean squared error per entry x1000")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    save_figure(figure, path)


def plot_samples(
    path: Path,
    samples: Float[Tensor, "s 1 k k"],
    nearest: Float[Tensor, "s 1 k k"],
    real: Float[Tensor, "r 1 k k"],
) -> None:
    """Write three rows of maps as a PNG: samples, their nearest training maps, held-out maps."""
    rows = {"sample": samples, "nearest training map": nearest, "held-out map": real}
    columns = max(map(len, rows.values()))
    figure = new_figure(1.1 * columns + 0.6, 3.9)
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for line, (label, maps) in zip(grid, rows.items(), strict=True):
        for axes in line:
            axes.set_xticks([])
            axes.set_yticks([])
        for axes, fmap in zip(line, np.asarray(maps[:, 0]), strict=False):
            axes.imshow(fmap, vmin=0, vmax=1, cmap="magma", interpolation="nearest")
        line[0].set_ylabel(label, fontsize=7)
    save_figure(figure, path)


def _correlation(a: Tensor, b: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])
