"""The teacher of street scenes: a frozen diffusion network with a ControlNet for layouts.

Notation: b views; rgb (b, 3, h, w) in [0, 1]; z (b, c, s, s) what the network works on: latents of
an autoencoder, or pixels in [-1, 1] when the teacher has none; tokens (b, k, d); condition
(b, 4, H, W), semantic colours in [-1, 1] and depth / 200.  Sizes are read from the teacher.

Source: Rombach et al. 2022; Zhang et al. 2023 (ControlNet); Song et al. 2021 (DDIM, eta 0);
conditions as Urban Architect, arXiv 2404.06780.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from geo3d.distill.guidance import guided
from geo3d.distill.levels import NoiseSchedule
from geo3d.errors import ConfigError, ShapeError
from geo3d.progress import ProgressCallback, ignore_progress, report
from scenes.urban.ddim import ddim_scheduler
from scenes.urban.teachers.checks import (
    CONDITION_CHANNELS,
    ControlInput,
    control_kind,
    pooled_width,
)
from scenes.urban.teachers.control import shown_condition
from scenes.urban.teachers.folder import TeacherParts, check_parts, read_teacher
from scenes.urban.teachers.savings import NO_SAVINGS, Savings
from scenes.urban.teachers.text import Prompts


@dataclass(frozen=True)
class SampleConfig:
    """How to draw images."""

    steps: int = 25
    """DDIM steps."""
    guidance_scale: float = 1.5
    """Classifier-free guidance; 1 for none; 7.5 is usual for Stable Diffusion."""
    conditioning_scale: float = 1.0
    """Weight of the ControlNet."""
    shared_noise: bool = True
    """All views start from the same noise, which keeps their look alike."""


class Control(NamedTuple):
    """What the ControlNet adds inside the UNet."""

    down: tuple[Tensor, ...]
    mid: Tensor

    def first(self, n: int) -> Control:
        """Return the part of the first ``n`` views."""
        return Control(tuple(part[:n] for part in self.down), self.mid[:n])

    def last(self, n: int) -> Control:
        """Return the part of the last ``n`` views."""
        return Control(tuple(part[-n:] for part in self.down), self.mid[-n:])


class Guidance:
    """A teacher, ready to be asked."""

    def __init__(self, parts: TeacherParts, savings: Savings = NO_SAVINGS) -> None:
        """Take the networks of ``parts`` over, frozen.

        Raises:
            ConfigError: ``diffusion.bad_schedule``, ``diffusion.unknown_prediction``,
                ``guidance.unknown_precision``.
            CheckpointError: ``teacher.wrong_controlnet``, ``teacher.bad_part``.
        """
        check_parts(parts)
        self.savings = savings
        dtype = savings.dtype
        self.unet: Any = _frozen(parts.unet, dtype)
        self.controlnet: Any = _frozen(parts.controlnet, dtype)
        self.vae: Any = _frozen(parts.vae, torch.float32)
        self.prompts: Prompts | None = parts.prompts
        self.control_input: ControlInput = "layout"
        if parts.controlnet is not None:
            self.control_input = control_kind(parts.controlnet.config, None, parts.control_input)
        self._pooled = pooled_width(parts.unet.config)
        self._scheduler = parts.scheduler
        self.schedule = self._read_schedule()
        if savings.slice_attention:
            self.unet.set_attention_slice("auto")
        if savings.slice_autoencoder and self.vae is not None:
            self.vae.enable_slicing()
        if savings.checkpoint_tracker:
            self.unet.enable_gradient_checkpointing()

    @classmethod
    def from_folder(
        cls,
        folder: str | Path,
        controlnet: str | Path | None = None,
        savings: Savings = NO_SAVINGS,
        device: torch.device | str = "cpu",
        **asked: Any,
    ) -> Guidance:
        """Read a teacher from local files; ``asked`` as for `read_teacher`.

        Raises:
            CheckpointError, ConfigError, BackendUnavailable: see `read_teacher`.
        """
        parts = read_teacher(folder, controlnet, savings.dtype, **asked)
        return cls(parts, savings).to(device)

    def to(self, device: torch.device | str) -> Guidance:
        """Move the networks to ``device``."""
        for network in (self.unet, self.controlnet, self.vae):
            if network is not None:
                network.to(device)
        return self

    @property
    def device(self) -> torch.device:
        """Return where the networks are."""
        return self.unet.device

    @property
    def is_latent(self) -> bool:
        """Return whether an autoencoder stands between images and network."""
        return self.vae is not None

    @property
    def factor(self) -> int:
        """Return how many pixels a side of z stands for."""
        return 2 ** (len(self.vae.config["block_out_channels"]) - 1) if self.is_latent else 1

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Return the shape (c, s, s) of one z."""
        size = self.unet.config["sample_size"]
        return self.unet.config["in_channels"], size, size

    @property
    def image_size(self) -> int:
        """Return the side of the teacher's images, pixels."""
        return self.latent_shape[1] * self.factor

    @property
    def condition_size(self) -> int:
        """Return the side of the conditions it takes, pixels."""
        if self.controlnet is None:
            return self.image_size
        widths = self.controlnet.config["conditioning_embedding_out_channels"]
        return self.latent_shape[1] * 2 ** (len(widths) - 1)

    def tokens(self, prompts: str | Sequence[str]) -> Tensor:
        """Return the tokens (b, k, d) of prompts; "" is nothing said.

        Raises:
            ConfigError: ``guidance.no_prompts``, ``styles.unknown``, ``styles.too_many``.
        """
        if self.prompts is None:
            raise ConfigError(
                "guidance.no_prompts",
                "This teacher has neither a text encoder nor styles.",
                "Give tokens, or add text_encoder and tokenizer to its folder.",
            )
        texts = [prompts] if isinstance(prompts, str) else prompts
        rows = [self.prompts.tokens(text) if text else self.prompts.null for text in texts]
        return torch.stack(rows).to(self.device)

    def resized(self, rgb: Tensor) -> Tensor:
        """Return images in the teacher's size."""
        size = self.image_size
        if rgb.shape[-2:] == (size, size):
            return rgb
        shrinks = rgb.shape[-1] > size or rgb.shape[-2] > size
        return F.interpolate(rgb, (size, size), mode="bilinear", antialias=shrinks)

    def encode(self, rgb: Tensor, noise: Tensor | None = None) -> Tensor:
        """Return z of images, differentiable.

        Args:
            rgb: (b, 3, h, w) in [0, 1]; resized to the teacher's size.
            noise: shaped like z, what the latents are sampled with; None takes their mean.
        """
        images = 2 * self.resized(rgb) - 1
        if self.vae is None:
            return images
        latents = self.vae.encode(images).latent_dist
        z = latents.mean if noise is None else latents.mean + latents.std * noise
        return z * self.vae.config["scaling_factor"]

    def decode(self, z: Tensor) -> Tensor:
        """Return the images (b, 3, h, w) in [0, 1] of z."""
        if self.vae is not None:
            z = self.vae.decode(z / self.vae.config["scaling_factor"]).sample
        return (z / 2 + 0.5).clamp(0, 1)

    @torch.no_grad()
    def control(
        self, x_t: Tensor, t: Tensor, tokens: Tensor, condition: Tensor, scale: float = 1.0
    ) -> Control:
        """Return what the layout adds inside the UNet.

        Raises:
            ConfigError: ``guidance.no_controlnet``.
            ShapeError: ``guidance.wrong_condition``.
        """
        if self.controlnet is None:
            raise ConfigError(
                "guidance.no_controlnet",
                "This teacher has no ControlNet, so it cannot follow a layout.",
                "Name its folder, or choose an objective without layout.",
            )
        size = self.condition_size
        if condition.shape[1:] != (CONDITION_CHANNELS, size, size):
            raise ShapeError(
                "guidance.wrong_condition",
                f"Conditions of shape {tuple(condition.shape[1:])} do not fit this teacher.",
                f"It takes ({CONDITION_CHANNELS}, {size}, {size}): cast the layout in that size.",
            )
        dtype = self.unet.dtype
        down, mid = self.controlnet(
            x_t.to(dtype),
            t.to(x_t.device),
            **self._told(tokens, dtype),
            controlnet_cond=shown_condition(condition, self.control_input).to(dtype),
            conditioning_scale=scale,
            return_dict=False,
        )
        return Control(tuple(down), mid)

    def output(
        self,
        x_t: Tensor,
        t: Tensor,
        tokens: Tensor,
        control: Control | None = None,
        labels: Tensor | None = None,
        unet: Any = None,
    ) -> Tensor:
        """Return the UNet's raw output in float32, with gradients where they are enabled.

        Args:
            x_t: noisy z.
            t: step of each view (b,).
            tokens: of each view.
            control: what `control` returned; None for no layout.
            labels: what a tracker's camera embedding is given.
            unet: a tracker's own network; None for the teacher's.
        """
        unet = self.unet if unet is None else unet
        dtype = unet.dtype
        down = mid = None
        if control is not None:
            down, mid = tuple(part.to(dtype) for part in control.down), control.mid.to(dtype)
        return unet(
            x_t.to(dtype),
            t.to(x_t.device),
            **self._told(tokens, dtype),
            class_labels=labels,
            down_block_additional_residuals=down,
            mid_block_additional_residual=mid,
            return_dict=False,
        )[0].float()

    def timesteps(self, steps: int) -> list[int]:
        """Return the falling steps of a DDIM schedule with ``steps`` of them."""
        return ddim_scheduler(self._scheduler, steps).timesteps.tolist()

    @torch.no_grad()
    def denoise(
        self,
        z: Tensor,
        steps: Iterable[int],
        views: tuple[Tensor | None, Tensor, Tensor],
        config: SampleConfig,
        progress: ProgressCallback = ignore_progress,
    ) -> Tensor:
        """Return z after DDIM steps.

        Args:
            z: noisy, at the level of the first step.
            steps: some of ``timesteps(config.steps)``, in their order.
            views: condition (or None), tokens, and tokens of the empty prompt.
            progress: told after every step; may raise `Cancelled`.
        """
        ddim, chosen = ddim_scheduler(self._scheduler, config.steps), list(steps)
        condition, tokens, null = views
        for i, step in enumerate(chosen):
            parts = [
                self._guided_output(z[a], step, (_at(condition, a), tokens[a], null[a]), config)
                for a in chunks(len(z), self.savings.chunk)
            ]
            z = ddim.step(torch.cat(parts), step, z).prev_sample
            report(progress, "denoising", i + 1, len(chosen))
        return z

    @torch.no_grad()
    def sample(
        self,
        condition: Tensor | None,
        prompts: str | Sequence[str] | Tensor,
        config: SampleConfig = SampleConfig(),
        *,
        generator: torch.Generator,
        progress: ProgressCallback = ignore_progress,
    ) -> Tensor:
        """Draw images (b, 3, h, w) in [0, 1] of layouts.

        Args:
            condition: (b, 4, H, W); None for images of no layout, one per prompt.
            prompts: one for all views, one each, or tokens (b, k, d).
            generator: of the CPU, for the noise.
            progress: told after every step; may raise `Cancelled`.

        Raises:
            ConfigError, ShapeError: as `tokens` and `control`; ``guidance.bad_steps``.
        """
        tokens = self.tokens(prompts) if not isinstance(prompts, Tensor) else prompts
        tokens = tokens.to(self.device)
        count = len(condition) if condition is not None else len(tokens)
        tokens = tokens.expand(count, -1, -1) if len(tokens) == 1 else tokens
        null = self.tokens("").expand_as(tokens) if config.guidance_scale != 1 else tokens
        drawn = 1 if config.shared_noise else count
        noise = draw_noise((drawn, *self.latent_shape), generator).to(self.device)
        given = condition.to(self.device) if condition is not None else None
        z = noise.expand(count, *self.latent_shape)
        z = self.denoise(z, self.timesteps(config.steps), (given, tokens, null), config, progress)
        return torch.cat([self.decode(z[a]) for a in chunks(count, self.savings.chunk)])

    def _guided_output(
        self,
        z: Tensor,
        step: int,
        views: tuple[Tensor | None, Tensor, Tensor],
        config: SampleConfig,
    ) -> Tensor:
        condition, tokens, null = views
        if config.guidance_scale != 1:
            z, tokens = torch.cat([z, z]), torch.cat([null, tokens])
            condition = torch.cat([condition, condition]) if condition is not None else None
        t = torch.full((len(z),), step, device=z.device)
        control = None
        if condition is not None:
            control = self.control(z, t, tokens, condition, config.conditioning_scale)
        output = self.output(z, t, tokens, control)
        n = len(null)
        return guided(output[:n], output[n:], config.guidance_scale) if n < len(z) else output

    def _told(self, tokens: Tensor, dtype: torch.dtype) -> dict[str, Any]:
        """Return tokens as the networks take them; some are told the whole text and sizes too."""
        if not self._pooled:
            return {"encoder_hidden_states": tokens.to(dtype)}
        side = self.image_size
        # the image's own size, where it was cut out, and the size asked for
        sizes = torch.tensor([[side, side, 0, 0, side, side]], device=tokens.device)
        added = {
            "text_embeds": tokens[:, -1, : self._pooled].to(dtype),
            "time_ids": sizes.expand(len(tokens), -1).to(dtype),
        }
        return {"encoder_hidden_states": tokens[:, :-1].to(dtype), "added_cond_kwargs": added}

    def _read_schedule(self) -> NoiseSchedule:
        ddim = ddim_scheduler(self._scheduler, 1)
        return NoiseSchedule(ddim.alphas_cumprod.float(), ddim.config["prediction_type"])


def draw_noise(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Return standard normal noise drawn on the CPU, item by item."""
    return torch.stack([torch.randn(shape[1:], generator=generator) for _ in range(shape[0])])


def chunks(n: int, size: int) -> list[slice]:
    """Return slices that cover ``n`` items, ``size`` at a time; 0 for all at once."""
    step = size if size > 0 else max(n, 1)
    return [slice(i, min(i + step, n)) for i in range(0, n, step)]


def _frozen(network: Any, dtype: torch.dtype) -> Any:
    if network is None:
        return None
    network.requires_grad_(False).eval()
    return network if network.dtype == dtype else network.to(dtype=dtype)


def _at(values: Tensor | None, where: slice) -> Tensor | None:
    return None if values is None else values[where]
