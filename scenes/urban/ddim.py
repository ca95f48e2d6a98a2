"""The DDIM scheduler of a teacher, from whatever scheduler its folder describes.

diffusers' is kept: betas, spacings, thresholds and zero terminal signal of any
scheduler_config.json (that of Stable Diffusion is a PNDM scheduler's) come with it.

Source: Song et al. 2021 (DDIM); Lin et al. 2024 (zero terminal signal needs trailing steps).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from geo3d.backends import require
from geo3d.errors import CheckpointError, ConfigError


def ddim_scheduler(settings: Mapping[str, Any], steps: int) -> Any:
    """Return diffusers' DDIMScheduler, set to ``steps`` steps.

    Args:
        settings: content of scheduler_config.json; samples are clipped only when it says so.
        steps: of sampling.

    Raises:
        CheckpointError: ``teacher.bad_part``.
        ConfigError: ``guidance.bad_steps``.
        BackendUnavailable: diffusers is not here.
    """
    require("diffusers")
    from diffusers import DDIMScheduler

    chosen = {"clip_sample": False, **settings}
    if chosen.get("rescale_betas_zero_snr"):
        # Otherwise the first step, where nothing of the image is left, is skipped.
        chosen["timestep_spacing"] = "trailing"
    ddim: Any
    try:
        ddim = DDIMScheduler.from_config(chosen)
    except (ValueError, TypeError, NotImplementedError) as error:
        raise CheckpointError(
            "teacher.bad_part",
            f"The scheduler cannot be used: {error}.",
            "scheduler_config.json is one of diffusers' for images.",
        ) from error
    if not 1 <= steps <= len(ddim.alphas_cumprod):
        raise ConfigError(
            "guidance.bad_steps",
            f"Images cannot be drawn in {steps} steps.",
            f"Take 1 to {len(ddim.alphas_cumprod)}.",
        )
    ddim.set_timesteps(steps)
    return ddim
