"""The small street teacher: a UNet and a ControlNet in pixel space, and tokens for style words.

The networks are diffusers' own classes and are saved as diffusers folders, so that everything that
reads a Stable Diffusion folder with a ControlNet reads this one: ``unet/``, ``controlnet/``,
``scheduler/`` beside ``styles.json`` and ``styles.safetensors``.  There is no autoencoder: images
in [-1, 1] are diffused themselves.  The noise is that of Stable Diffusion with its last level
raised to pure noise, and the networks predict v (Lin et al. 2024): with epsilon a small teacher
cannot hold the brightness of a night.

Notation: b batch, h w image, k tokens of a style, d their width.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import ControlNetModel, DDIMScheduler, UNet2DConditionModel
from jaxtyping import Float, Int
from torch import Tensor, nn

from geo3d.device import item_generator
from geo3d.distill.guidance import guided
from geo3d.synth.streets.styles import SLOTS, STYLES
from scenes.urban.styles import NULL, Styles, save_styles

CONDITION_CHANNELS = 4
_DEPTH_GAIN = 8.0
"""Depth / 200 is small: its first weights start larger by this."""


@dataclass(frozen=True)
class TeacherConfig:
    """Size of the networks."""

    size: int = 48
    """Pixels per side that it is trained at."""
    widths: tuple[int, ...] = (32, 64, 96)
    """Channels of each level; every level halves the image.  The last has attention."""
    layers: int = 1
    """Residual blocks of each level on the way down; one more on the way up."""
    heads: int = 8
    tokens: int = 2
    """Tokens of each style."""
    token_width: int = 64
    groups: int = 8
    """Of group normalisation."""
    condition_width: int = 16
    """Channels of the condition's own convolutions."""


class StreetTeacher(nn.Module):
    """UNet, ControlNet and style tokens, trained together.

    Args:
        config: size of the networks.
        seed: of the first weights.
    """

    def __init__(self, config: TeacherConfig, seed: int = 0) -> None:
        super().__init__()
        # diffusers draws its first weights from the global generator
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(item_generator(seed, "teacher weights").initial_seed())
            self.unet, self.controlnet = _networks(config)
            _open_condition(self.controlnet)
            tokens = torch.randn(len(STYLES) + 1, config.tokens, config.token_width)
        self.tokens = nn.Parameter(tokens)

    def prompts(self, ids: Int[Tensor, "b slots"]) -> Float[Tensor, "b l d"]:
        """Return the tokens of prompts given as style numbers; `STYLES`' order, last is nothing."""
        return self.tokens[ids].flatten(1, 2)

    def forward(
        self,
        noisy: Float[Tensor, "b 3 h w"],
        t: Int[Tensor, " b"],
        prompts: Float[Tensor, "b l d"],
        condition: Float[Tensor, "b 4 h w"],
    ) -> Float[Tensor, "b 3 h w"]:
        """Return the velocity."""
        down, middle = self.controlnet(noisy, t, prompts, condition, return_dict=False)
        return self.unet(
            noisy,
            t,
            prompts,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
            return_dict=False,
        )[0]


def scheduler() -> DDIMScheduler:
    """Return the noise levels that the teacher is trained with."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=True,
        set_alpha_to_one=True,
    )


def prompt_ids(style: Sequence[str]) -> list[int]:
    """Return the style numbers of a prompt, in the order of `STYLES`, filled with nothing."""
    order = list(STYLES)
    found = sorted(order.index(name) for name in style)
    return found + [len(order)] * (SLOTS - len(found))


@torch.no_grad()
def sample(
    teacher: StreetTeacher,
    conditions: Float[Tensor, "b 4 h w"],
    styles: Sequence[Sequence[str]],
    noise: Float[Tensor, "b 3 h w"],
    *,
    steps: int = 20,
    guidance_scale: float = 1.5,
) -> Float[Tensor, "b 3 h w"]:
    """Return images in [-1, 1] by deterministic DDIM; guidance 1 is the plain prompt."""
    noise_levels = scheduler()
    noise_levels.set_timesteps(steps)
    said = teacher.prompts(torch.tensor([prompt_ids(style) for style in styles]))
    unsaid = teacher.prompts(torch.tensor([prompt_ids(()) for _ in styles]))
    x = noise
    for t in noise_levels.timesteps:
        times = t.expand(len(x))
        v = teacher(x, times, said, conditions)
        if guidance_scale != 1:
            empty = teacher(x, times, unsaid, conditions)
            v = guided(empty, v, guidance_scale)
        x = noise_levels.step(v, int(t), x, return_dict=False)[0]
    return x.clamp(-1, 1)


def save_teacher(teacher: StreetTeacher, folder: str | os.PathLike[str], half: bool = True) -> Path:
    """Write the teacher as diffusers folders, in float16 if ``half``; return the folder."""
    root = Path(folder)
    for name, network in (("unet", teacher.unet), ("controlnet", teacher.controlnet)):
        copy: Any = type(network).from_config(network.config)
        copy.load_state_dict(network.state_dict())
        copy = copy.half() if half else copy
        copy.save_pretrained(str(root / name), safe_serialization=True)
    scheduler().save_pretrained(str(root / "scheduler"))
    blocks = dict(zip((*STYLES, NULL), teacher.tokens.detach().clone(), strict=True))
    save_styles(root, Styles(STYLES, blocks, SLOTS))
    return root


def load_teacher(folder: str | os.PathLike[str]) -> StreetTeacher:
    """Read a teacher that `save_teacher` wrote, in float32.

    Raises:
        CheckpointError: those of `scenes.urban.styles.load_styles`.
        OSError: the folder is not complete.
    """
    from scenes.urban.styles import load_styles

    root = str(folder)
    options: dict[str, Any] = {"local_files_only": True, "use_safetensors": True}
    teacher = StreetTeacher.__new__(StreetTeacher)
    nn.Module.__init__(teacher)
    for name, kind in (("unet", UNet2DConditionModel), ("controlnet", ControlNetModel)):
        network: Any = kind.from_pretrained(root, subfolder=name, **options)
        setattr(teacher, name, network.float().eval())
    blocks = load_styles(root).blocks
    teacher.tokens = nn.Parameter(torch.stack([blocks[name] for name in (*STYLES, NULL)]))
    return teacher.requires_grad_(False)


def _networks(config: TeacherConfig) -> tuple[UNet2DConditionModel, ControlNetModel]:
    plain = len(config.widths) - 1
    down = ("DownBlock2D",) * plain + ("CrossAttnDownBlock2D",)
    shared: dict[str, Any] = {
        "in_channels": 3,
        "down_block_types": down,
        "block_out_channels": config.widths,
        "layers_per_block": config.layers,
        "cross_attention_dim": config.token_width,
        "attention_head_dim": config.heads,
        "norm_num_groups": config.groups,
    }
    unet = UNet2DConditionModel(
        sample_size=config.size,
        out_channels=3,
        up_block_types=("CrossAttnUpBlock2D",) + ("UpBlock2D",) * plain,
        **shared,
    )
    controlnet = ControlNetModel(
        conditioning_channels=CONDITION_CHANNELS,
        conditioning_embedding_out_channels=(config.condition_width,),
        **shared,
    )
    return unet, controlnet


@torch.no_grad()
def _open_condition(controlnet: ControlNetModel) -> None:
    """Let the condition in from the first step.

    diffusers closes it twice with zeros, for networks that are trained already.
    """
    embedding = controlnet.controlnet_cond_embedding
    embedding.conv_out.reset_parameters()
    embedding.conv_in.weight[:, CONDITION_CHANNELS - 1] *= _DEPTH_GAIN
