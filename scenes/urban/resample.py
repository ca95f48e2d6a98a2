"""Refine renderings with the teacher: add noise, then remove it in a few steps (SDEdit).

Each repeat noises z to the level of an intermediate step and runs the steps that are left; a
larger share of the steps changes more.  The release refines with the last 5 of 50 steps, twice.

Source: Meng et al. 2022 (SDEdit); Urban Architect, arXiv 2404.06780, layout-aware refinement.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from geo3d.errors import ConfigError
from geo3d.progress import ProgressCallback, ignore_progress
from scenes.urban.guidance import Guidance, SampleConfig, chunks, draw_noise


@dataclass(frozen=True)
class ResampleConfig:
    """How much to change."""

    sampling: SampleConfig = field(default_factory=SampleConfig)
    """Steps and guidance of the whole schedule."""
    strength: float = 0.5
    """Share of the steps that are run, above 0; 1 starts from noise alone."""
    repeats: int = 1
    """How often."""


def resample_steps(guidance: Guidance, config: ResampleConfig) -> list[int]:
    """Return the falling steps that each repeat runs.

    Raises:
        ConfigError: ``resample.bad_strength``, ``guidance.bad_steps``.
    """
    count = round(config.strength * config.sampling.steps)
    if not 0 < config.strength <= 1 or count < 1 or config.repeats < 1:
        raise ConfigError(
            "resample.bad_strength",
            f"Strength {config.strength} of {config.sampling.steps} steps, repeated "
            f"{config.repeats} times, leaves nothing to do.",
            "Take a strength above 0 and up to 1, worth at least one step, and one repeat.",
        )
    return guidance.timesteps(config.sampling.steps)[-count:]


@torch.no_grad()
def resample_latents(
    guidance: Guidance,
    z: Tensor,
    views: tuple[Tensor | None, Tensor, Tensor],
    noises: Tensor,
    config: ResampleConfig,
    progress: ProgressCallback = ignore_progress,
) -> Tensor:
    """Return z (b, c, s, s), refined.

    Args:
        views: condition or None, tokens, and tokens of the empty prompt, each of b views.
        noises: (repeats, b or 1, c, s, s).
        progress: told after every step; may raise `Cancelled`.

    Raises:
        ConfigError: as `resample_steps`.
    """
    steps = resample_steps(guidance, config)
    t = torch.full((len(z),), steps[0], device=z.device)
    for noise in noises:
        noisy = guidance.schedule.perturb(z, noise.to(z).expand_as(z), t)
        z = guidance.denoise(noisy, steps, views, config.sampling, progress)
    return z


@torch.no_grad()
def resample(
    guidance: Guidance,
    rgb: Tensor,
    views: tuple[Tensor | None, Tensor, Tensor],
    config: ResampleConfig = ResampleConfig(),
    *,
    generator: torch.Generator,
    progress: ProgressCallback = ignore_progress,
) -> Tensor:
    """Return renderings (b, 3, h, w), refined, in the teacher's size.

    Args:
        rgb: in [0, 1].
        views: condition or None, tokens, and tokens of the empty prompt, each of b views.
        generator: of the CPU; with shared noise all views get the same.
        progress: told after every step; may raise `Cancelled`.

    Raises:
        ConfigError: as `resample_steps`.
    """
    count = 1 if config.sampling.shared_noise else len(rgb)
    noises = torch.stack(
        [draw_noise((count, *guidance.latent_shape), generator) for _ in range(config.repeats)]
    )
    parts = chunks(len(rgb), guidance.savings.chunk)
    z = torch.cat([guidance.encode(rgb[a]) for a in parts])
    z = resample_latents(guidance, z, views, noises, config, progress)
    return torch.cat([guidance.decode(z[a]) for a in parts])
