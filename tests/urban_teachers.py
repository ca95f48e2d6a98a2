"""Tiny random teachers in the format of diffusers, on pixels and on latents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from scenes.urban.styles import Styles, save_styles
from scenes.urban.teachers.folder import TeacherParts

WIDTH = 8
ALIKE = {"layers_per_block": 1, "norm_num_groups": 4, "attention_head_dim": 2}
VELOCITY = {
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "clip_sample": False,
}
NOISE = {**VELOCITY, "prediction_type": "epsilon", "rescale_betas_zero_snr": False}


def styles() -> Styles:
    draws = torch.Generator().manual_seed(7)
    blocks = {n: torch.randn(1, WIDTH, generator=draws) for n in ("night", "snow", "null")}
    return Styles({"night": ("dark",), "snow": ("snowy",)}, blocks, slots=2)


def parts(is_latent: bool = False, scheduler: dict[str, Any] | None = None) -> TeacherParts:
    from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel

    with torch.random.fork_rng():
        torch.manual_seed(3)
        channels = 4 if is_latent else 3
        unet = UNet2DConditionModel(
            sample_size=8,
            in_channels=channels,
            out_channels=channels,
            block_out_channels=(8, 16),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=WIDTH,
            **ALIKE,
        )
        control = ControlNetModel.from_unet(
            unet,
            conditioning_channels=4,
            conditioning_embedding_out_channels=(8, 8) if is_latent else (8,),
        )
        for block in (*control.controlnet_down_blocks, control.controlnet_mid_block):
            torch.nn.init.normal_(block.weight, std=0.5)
        torch.nn.init.normal_(control.controlnet_cond_embedding.conv_out.weight, std=0.5)
        vae = None
        if is_latent:
            vae = AutoencoderKL(
                block_out_channels=(8, 8),
                down_block_types=("DownEncoderBlock2D",) * 2,
                up_block_types=("UpDecoderBlock2D",) * 2,
                latent_channels=4,
                norm_num_groups=4,
                sample_size=16,
            )
    return TeacherParts(unet, control, vae, scheduler or VELOCITY, styles())


def write(folder: Path, is_latent: bool = False, scheduler: dict[str, Any] | None = None) -> Path:
    from diffusers import DDIMScheduler

    made = parts(is_latent, scheduler)
    networks = {"unet": made.unet, "controlnet": made.controlnet, "vae": made.vae}
    for name, network in networks.items():
        if network is not None:
            network.save_pretrained(str(folder / name))
    DDIMScheduler.from_config(made.scheduler).save_pretrained(str(folder / "scheduler"))
    save_styles(folder, styles())
    return folder
