"""Teachers on disk: a folder as diffusers writes it, and one of a ControlNet; nothing is run.

    TEACHER/unet/        config.json, diffusion_pytorch_model.safetensors (or .fp16.safetensors)
    TEACHER/scheduler/   scheduler_config.json
    TEACHER/vae/         only for teachers of latents; without it the teacher works on pixels
    TEACHER/text_encoder/, TEACHER/tokenizer/   or  TEACHER/styles.json, styles.safetensors
    TEACHER/text_encoder_2/, TEACHER/tokenizer_2/   SDXL's second
    TEACHER/controlnet/  or a folder of its own

What may lie in a folder: `scenes.urban.teachers.files`; what fits together:
`scenes.urban.teachers.checks`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from geo3d.backends import require
from geo3d.errors import CheckpointError, Geo3dError
from scenes.urban.styles import load_styles
from scenes.urban.teachers.checks import (
    ControlInput,
    check_control,
    check_teacher,
    control_kind,
    missing,
    read_json,
)
from scenes.urban.teachers.files import (
    NETWORK,
    TEXT,
    check_folder,
    controlnet_folder,
    weights_variant,
)
from scenes.urban.teachers.text import Prompts, TextEncoder, TwoTextEncoders


@dataclass(frozen=True)
class TeacherParts:
    """The networks and tables of a teacher, frozen."""

    unet: Any
    """diffusers' UNet2DConditionModel."""
    controlnet: Any
    """ControlNetModel; None for a teacher that sees no layout."""
    vae: Any
    """AutoencoderKL; None for a teacher of pixels."""
    scheduler: dict[str, Any]
    """Content of scheduler_config.json."""
    prompts: Prompts | None
    """What turns a prompt into tokens; None when tokens are given by hand."""
    control_input: ControlInput = "auto"
    """What the ControlNet is shown, see `control_kind`."""


def read_teacher(
    folder: str | Path,
    controlnet: str | Path | None = None,
    dtype: torch.dtype = torch.float32,
    control_input: ControlInput = "auto",
    needs_layout: bool = False,
) -> TeacherParts:
    """Read a teacher, frozen, with UNet and ControlNet in ``dtype``.

    Args:
        folder: see the top of this module; a folder of the hub's cache does too.
        controlnet: folder of the ControlNet (config.json and weights); by default
            ``folder/controlnet``, and none when that is missing.
        dtype: of the two networks that run most; all others stay in float32.
        control_input: what the ControlNet is shown.
        needs_layout: whether a teacher without ControlNet is refused.

    Raises:
        CheckpointError, ConfigError: as `check_teacher`, before anything is read; those of
            `load_styles`; ``teacher.bad_part``.
        BackendUnavailable: diffusers, or transformers for a text encoder, is not here.
    """
    check_teacher(folder, controlnet, needs_layout, control_input)
    root = check_folder(folder)
    require("diffusers")
    from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel

    side = controlnet_folder(controlnet, root) if controlnet else root / "controlnet"
    has_control = side.is_dir()
    kind: ControlInput = "auto"
    if has_control:
        kind = control_kind(read_json(side / "config.json"), side, control_input)
    parts = TeacherParts(
        unet=read_network(UNet2DConditionModel, root / "unet", dtype),
        controlnet=read_network(ControlNetModel, side, dtype) if has_control else None,
        vae=read_network(AutoencoderKL, root / "vae", torch.float32)
        if (root / "vae").is_dir()
        else None,
        scheduler=read_json(root / "scheduler" / "scheduler_config.json"),
        prompts=_read_prompts(root),
        control_input=kind,
    )
    check_parts(parts, str(root))
    return parts


def check_parts(parts: TeacherParts, name: str = "The teacher") -> None:
    """Raise when the parts of a teacher do not belong together.

    Raises:
        CheckpointError: ``teacher.wrong_controlnet``, ``teacher.bad_part``.
    """
    unet, vae = parts.unet.config, parts.vae
    if parts.controlnet is not None:
        check_control(unet, parts.controlnet.config, name)
    channels = vae.config["latent_channels"] if vae is not None else 3
    if (unet["in_channels"], unet["out_channels"]) != (channels, channels):
        raise CheckpointError(
            "teacher.bad_part",
            f"{name}: the UNet takes {unet['in_channels']} and gives {unet['out_channels']} "
            f"channels where {channels} are needed.",
            "A teacher of pixels has 3 and no vae folder; one of latents as many as its vae.",
        )


def read_network(kind: Any, folder: Path, dtype: torch.dtype) -> Any:
    """Return a frozen network of diffusers from its folder, every weight in its place.

    Raises:
        CheckpointError: ``teacher.missing_part``, ``teacher.bad_part``.
    """
    model, notes = _pretrained(kind, folder, NETWORK, torch_dtype=dtype, output_loading_info=True)
    odd = [*notes["missing_keys"], *notes["unexpected_keys"], *notes["mismatched_keys"]]
    if odd:
        raise CheckpointError(
            "teacher.bad_part",
            f"{folder}: {len(odd)} weights are missing, unexpected or of another shape, "
            f"{odd[0]} first.",
            "config.json and the weights belong to different networks.",
        )
    return model.requires_grad_(False).eval()


def _read_prompts(root: Path) -> Prompts | None:
    if (root / "styles.json").is_file():
        return load_styles(root)
    if not (root / "text_encoder").is_dir():
        return None
    require("transformers")
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    def tokenizer(name: str) -> Any:
        return _guarded(
            root / name,
            lambda: CLIPTokenizer.from_pretrained(str(root / name), local_files_only=True),
        )

    def network(kind: Any, name: str) -> Any:
        model = _pretrained(kind, root / name, TEXT, dtype=torch.float32)
        return model.requires_grad_(False).eval()

    first = tokenizer("tokenizer"), network(CLIPTextModel, "text_encoder")
    if not (root / "text_encoder_2").is_dir():
        return TextEncoder(*first)
    second = tokenizer("tokenizer_2"), network(CLIPTextModelWithProjection, "text_encoder_2")
    index = root / "model_index.json"
    is_null_zero = (
        read_json(index).get("force_zeros_for_empty_prompt", True) if index.is_file() else True
    )
    return TwoTextEncoders((first[0], second[0]), (first[1], second[1]), bool(is_null_zero))


def _pretrained(kind: Any, folder: Path, stem: str, **how: Any) -> Any:
    """Return what a library reads from the safetensors weights of a folder."""
    return _guarded(
        folder,
        lambda: kind.from_pretrained(
            str(folder),
            local_files_only=True,
            use_safetensors=True,
            variant=weights_variant(folder, stem),
            **how,
        ),
    )


def _guarded(folder: Path, read: Callable[[], Any]) -> Any:
    if not folder.is_dir():
        raise missing(folder)
    try:
        return read()
    except Geo3dError:
        raise
    # What the libraries raise on a damaged folder is not documented; anything means the same.
    except Exception as error:
        raise CheckpointError(
            "teacher.bad_part",
            f"{folder} cannot be read: {type(error).__name__}: {error}",
            "It holds JSON settings and safetensors weights, as the library writes them.",
        ) from error
