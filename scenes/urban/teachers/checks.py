"""What a teacher's settings and headers say of whether it can work, before any weight is read.

Teachers are pipelines of the Stable Diffusion family: 1.x, 2.x, turbo, XL, and small ones of our
own.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from geo3d.errors import CheckpointError, ConfigError
from scenes.urban.teachers.files import (
    NETWORK,
    TEXT,
    check_folder,
    check_weights,
    controlnet_folder,
    weights_variant,
)

_log = logging.getLogger(__name__)

ControlInput = Literal["auto", "layout", "segmentation", "depth"]
CONDITION_CHANNELS = 4
"""Of our conditions: semantic colours and depth."""
IMAGE_CHANNELS = 3
"""Of public ControlNets: an image."""
_ALIKE = ("in_channels", "cross_attention_dim", "block_out_channels", "addition_embed_type")
_SEES = {"segmentation": r"seg(mentation)?|ade20k", "depth": r"depth|midas|zoe"}
_CANNOT = re.compile(
    r"(?<![a-z])(canny|openpose|pose|lineart|scribble|mlsd|hed|softedge|tile|shuffle|ip2p|inpaint|"
    r"normal(bae)?|qr|brightness|recolor|blur)(?![a-z])"
)


def check_teacher(
    folder: str | Path,
    controlnet: str | Path | None = None,
    needs_layout: bool = True,
    control_input: ControlInput = "auto",
) -> None:
    """Raise when a teacher cannot work, from file names, settings and headers of weights alone.

    Args:
        folder: of the teacher.
        controlnet: its ControlNet, if it is not in that folder.
        needs_layout: whether it must follow a layout.
        control_input: what the ControlNet is to be shown, see `control_kind`.

    Raises:
        CheckpointError: as `check_folder` and `controlnet_folder`; ``teacher.no_controlnet``,
            ``teacher.wrong_family``, ``teacher.wrong_controlnet``, ``teacher.missing_part``,
            ``teacher.bad_part``; as `check_weights`.
        ConfigError: as `control_kind`.
    """
    root = check_folder(folder)
    unet = _check_unet(root)
    _check_scheduler(root)
    _check_autoencoder(root, unet)
    _check_text(root, unet)
    side = controlnet_folder(controlnet, root) if controlnet else root / "controlnet"
    if side.is_dir():
        settings = _network(side, "ControlNetModel")
        check_control(unet, settings, str(side))
        control_kind(settings, side, control_input)
    elif needs_layout:
        raise CheckpointError(
            "teacher.no_controlnet",
            f"{root} has no ControlNet, so its images would not follow the layout.",
            "Name one made for this teacher: --controlnet FOLDER (docs/urban.md lists some); or "
            "do without the layout: --set distil.use_layout=false.",
        )
    for network in (root / "unet", root / "vae", side):
        if network.is_dir():
            check_weights(network)
    if not (root / "styles.json").is_file():
        for encoder in _text_encoders(root):
            check_weights(encoder, TEXT)


def check_control(unet: Mapping[str, Any], control: Mapping[str, Any], name: str) -> None:
    """Raise when a ControlNet's settings do not fit the UNet's.

    Raises:
        CheckpointError: ``teacher.wrong_controlnet``.
    """
    channels = control.get("conditioning_channels", IMAGE_CHANNELS)
    differ = [key for key in _ALIKE if _plain(control.get(key)) != _plain(unet.get(key))]
    if channels not in (IMAGE_CHANNELS, CONDITION_CHANNELS) or differ:
        parts = [f"{key} {control.get(key)} where the UNet has {unet.get(key)}" for key in differ]
        what = "; ".join(parts) or f"it takes {channels} channels of condition"
        raise CheckpointError(
            "teacher.wrong_controlnet",
            f"{name}: the ControlNet does not fit the teacher: {what}.",
            "Take one that was made for this UNet, with 3 channels of condition or 4.",
        )
    if control.get("global_pool_conditions"):
        raise CheckpointError(
            "teacher.wrong_controlnet",
            f"{name}: this ControlNet takes a look from an image, not a layout.",
            "Take one of segmentation or depth.",
        )


def control_kind(
    control: Mapping[str, Any], folder: Path | None, asked: ControlInput = "auto"
) -> ControlInput:
    """Return what a ControlNet is to be shown: "layout", "segmentation" or "depth".

    With four channels it is the layout as published; with three, what its name says, and
    segmentation where the name says nothing.

    Raises:
        ConfigError: ``guidance.wrong_input``.
        CheckpointError: ``teacher.wrong_controlnet`` for one of edges, poses and the like.
    """
    if control.get("conditioning_channels", IMAGE_CHANNELS) == CONDITION_CHANNELS:
        if asked not in ("auto", "layout"):
            raise _wrong_input(asked, "takes four channels", "auto or layout")
        return "layout"
    if asked == "layout":
        raise _wrong_input(asked, "takes three channels", "segmentation or depth")
    if asked != "auto":
        return asked
    source = str(control.get("_name_or_path") or "").replace("\\", "/").rsplit("/", 1)[-1]
    said = f"{source} {folder.name if folder else ''}".lower()
    kinds = [kind for kind, word in _SEES.items() if re.search(rf"(?<![a-z])({word})", said)]
    if len(kinds) == 1:
        return "depth" if kinds[0] == "depth" else "segmentation"
    if found := _CANNOT.search(said):
        raise CheckpointError(
            "teacher.wrong_controlnet",
            f"{folder or 'The ControlNet'} seems to be shown {found[0]}, which a layout is not.",
            "Take one of segmentation or depth; if it is one: --set control_input=segmentation.",
        )
    _log.warning(
        "%s does not say what it is shown: segmentation is assumed; else --set control_input=depth",
        folder or "the ControlNet",
    )
    return "segmentation"


def read_json(path: Path) -> dict[str, Any]:
    """Return the settings in a JSON file of a teacher.

    Raises:
        CheckpointError: ``teacher.missing_part``, ``teacher.bad_part``.
    """
    if not path.is_file():
        raise missing(path)
    try:
        content = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        message = f"{path} is no JSON: {error}."
        raise CheckpointError("teacher.bad_part", message, "Copy it again.") from error
    if not isinstance(content, dict):
        raise CheckpointError("teacher.bad_part", f"{path} holds no settings.", "Copy it again.")
    return content


def missing(path: Path) -> CheckpointError:
    """Return the error for a part that is not there."""
    hint = "A teacher has unet and scheduler, as diffusers writes them."
    return CheckpointError("teacher.missing_part", f"The teacher lacks {path}.", hint)


def _check_unet(root: Path) -> dict[str, Any]:
    if not (root / "unet").is_dir() and (root / "transformer").is_dir():
        raise _wrong_family(root, "it has a transformer in place of a UNet")
    unet = _network(root / "unet", "UNet2DConditionModel")
    reasons = {
        "it has no sample_size": not isinstance(unet.get("sample_size"), int),
        "it is told classes (an upscaler, or one that varies images)": unet.get("class_embed_type")
        or unet.get("num_class_embeds"),
        "it is shown an image beside the text": unet.get("encoder_hid_dim")
        or unet.get("encoder_hid_dim_type"),
        f"its added conditions are {unet.get('addition_embed_type')}": unet.get(
            "addition_embed_type"
        )
        not in (None, "text_time"),
    }
    for reason, holds in reasons.items():
        if holds:
            raise _wrong_family(root, reason)
    return unet


def _check_scheduler(root: Path) -> None:
    settings = read_json(root / "scheduler" / "scheduler_config.json")
    kind = str(settings.get("_class_name", ""))
    if kind.startswith("FlowMatch") or settings.get("use_flow_sigmas"):
        raise _wrong_family(root, f"it follows a flow ({kind}), not a diffusion")


def _check_autoencoder(root: Path, unet: Mapping[str, Any]) -> None:
    channels = 3
    if (root / "vae").is_dir():
        channels = _network(root / "vae", "AutoencoderKL").get("latent_channels", 4)
    if (unet.get("in_channels"), unet.get("out_channels")) != (channels, channels):
        raise CheckpointError(
            "teacher.bad_part",
            f"{root}: the UNet takes {unet.get('in_channels')} and gives "
            f"{unet.get('out_channels')} channels where {channels} are needed.",
            "A teacher of pixels has 3 and no vae folder; one of latents as many as its vae. "
            "Those that fill holes, edit images or are shown depth take more and cannot be used.",
        )


def _check_text(root: Path, unet: Mapping[str, Any]) -> None:
    if (root / "styles.json").is_file() or not (root / "text_encoder").is_dir():
        return
    folders = _text_encoders(root)
    widths = [read_json(path / "config.json").get("hidden_size") for path in folders]
    known = [width for width in widths if isinstance(width, int)]
    wanted = unet.get("cross_attention_dim")
    if len(known) < len(widths) or sum(known) != wanted:
        raise CheckpointError(
            "teacher.bad_part",
            f"{root}: the text encoders give {widths} numbers a token, the UNet takes {wanted}.",
            "Parts of different models were mixed, or the folder is not of the Stable Diffusion "
            "family.",
        )
    is_large = unet.get("addition_embed_type") == "text_time"
    if is_large != (len(folders) == 2):
        raise _wrong_family(root, f"it has {len(folders)} text encoders")
    if is_large:
        pooled = read_json(folders[1] / "config.json").get("projection_dim")
        needed = pooled_width(unet)
        if pooled != needed:
            raise _wrong_family(root, f"it takes {needed} numbers of the text, not {pooled}")


def _text_encoders(root: Path) -> list[Path]:
    return [path for name in ("", "_2") if (path := root / f"text_encoder{name}").is_dir()]


def pooled_width(unet: Mapping[str, Any]) -> int:
    """Return how many numbers of the whole text a UNet is told beside its tokens; 0 for none.

    It is also told six numbers about the image's size.
    """
    if unet.get("addition_embed_type") != "text_time":
        return 0
    return unet["projection_class_embeddings_input_dim"] - 6 * unet["addition_time_embed_dim"]


def _network(folder: Path, kind: str) -> dict[str, Any]:
    """Return the settings of a network of the right kind that has weights."""
    if not folder.is_dir():
        raise missing(folder)
    settings = read_json(folder / "config.json")
    named = settings.get("_class_name", kind)
    if named != kind:
        raise CheckpointError(
            "teacher.wrong_controlnet" if kind == "ControlNetModel" else "teacher.wrong_family",
            f"{folder} is a {named}, not a {kind}.",
            "Teachers are of the Stable Diffusion family: 1.x, 2.x, turbo, XL.",
        )
    weights_variant(folder, NETWORK)
    return settings


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, list | tuple) else value


def _wrong_family(root: Path, why: str) -> CheckpointError:
    return CheckpointError(
        "teacher.wrong_family",
        f"{root} cannot be a teacher: {why}.",
        "Teachers are of the Stable Diffusion family: 1.x, 2.x, turbo, XL (docs/urban.md).",
    )


def _wrong_input(asked: str, why: str, known: str) -> ConfigError:
    return ConfigError(
        "guidance.wrong_input",
        f"This ControlNet {why}; it cannot be shown {asked!r}.",
        f"Set control_input to {known}.",
    )
