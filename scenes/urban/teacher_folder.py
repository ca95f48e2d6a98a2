"""Teachers on disk: a folder as diffusers writes it, and one of a ControlNet; nothing is run.

    TEACHER/unet/        config.json, diffusion_pytorch_model.safetensors
    TEACHER/scheduler/   scheduler_config.json
    TEACHER/vae/         only for teachers of latents; without it the teacher works on pixels
    TEACHER/text_encoder/, TEACHER/tokenizer/   or  TEACHER/styles.json, styles.safetensors
    TEACHER/controlnet/  or a folder of its own

Read are local JSON and safetensors only.  A folder that also holds code, pickles or links is
refused whole, since another program that opens it might run them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from geo3d.backends import require
from geo3d.checkpoints import load
from geo3d.convert import convert_file
from geo3d.errors import CheckpointError, Geo3dError
from geo3d.files import cache_dir, new_id
from scenes.urban.styles import load_styles

CONDITION_CHANNELS = 4
"""Semantic colours and depth."""
UNSAFE = (
    *(".py", ".pyc", ".so", ".dll", ".pkl", ".pickle"),
    *(".pt", ".pth", ".bin", ".ckpt", ".joblib"),
)
"""File names that end like this can hold code."""
_PROBE = "controlnet_cond_embedding.conv_in.weight"


@dataclass(frozen=True)
class TeacherParts:
    """The networks and tables of a teacher, frozen."""

    unet: Any
    """diffusers' UNet2DConditionModel."""
    controlnet: Any
    """ControlNetModel with `CONDITION_CHANNELS`; None for a teacher that sees no layout."""
    vae: Any
    """AutoencoderKL; None for a teacher of pixels."""
    scheduler: dict[str, Any]
    """Content of scheduler_config.json."""
    prompts: Prompts | None
    """What turns a prompt into tokens; None when tokens are given by hand."""


def check_folder(folder: str | Path) -> Path:
    """Return ``folder`` when all it holds is plain data.

    Raises:
        CheckpointError: ``teacher.no_folder``, ``teacher.unsafe_file``, ``teacher.link``.
    """
    root = Path(folder)
    if not root.is_dir():
        raise CheckpointError(
            "teacher.no_folder",
            f"There is no folder {root}.",
            "Name a local folder as diffusers writes it; nothing is downloaded.",
        )
    for path in sorted(root.rglob("*")):
        if path.is_symlink():
            raise CheckpointError(
                "teacher.link",
                f"{path} is a link, which may lead out of the folder.",
                f"Copy the files themselves: cp -rL {root} NEW_FOLDER.",
            )
        if path.suffix.lower() in UNSAFE:
            raise CheckpointError(
                "teacher.unsafe_file",
                f"{path} can hold code.",
                "Remove it, or convert it first: geo3d convert FILE; safetensors and JSON stay.",
            )
    return root


def read_teacher(
    folder: str | Path,
    controlnet: str | Path | None = None,
    dtype: torch.dtype = torch.float32,
) -> TeacherParts:
    """Read a teacher, frozen, with UNet and ControlNet in ``dtype``.

    Args:
        folder: see the top of this module.
        controlnet: folder of the ControlNet (config.json and weights); by default
            ``folder/controlnet``, and none when that is missing.
        dtype: of the two networks that run most; all others stay in float32.

    Raises:
        CheckpointError: as `check_folder`; ``teacher.missing_part``, ``teacher.bad_part``,
            ``teacher.wrong_controlnet``; and those of `load_styles`.
        BackendUnavailable: diffusers, or transformers for a text encoder, is not here.
    """
    root = check_folder(folder)
    require("diffusers")
    from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel

    side = check_folder(controlnet) if controlnet is not None else root / "controlnet"
    has_control = controlnet is not None or side.is_dir()
    unet = _read_network(UNet2DConditionModel, root / "unet", dtype)
    parts = TeacherParts(
        unet=unet,
        controlnet=_read_network(ControlNetModel, side, dtype) if has_control else None,
        vae=_read_network(AutoencoderKL, root / "vae", torch.float32)
        if (root / "vae").is_dir()
        else None,
        scheduler=_read_json(root / "scheduler" / "scheduler_config.json"),
        prompts=_read_prompts(root),
    )
    check_parts(parts, str(root))
    return parts


def check_parts(parts: TeacherParts, name: str = "The teacher") -> None:
    """Raise when the parts of a teacher do not belong together.

    Raises:
        CheckpointError: ``teacher.wrong_controlnet``, ``teacher.bad_part``.
    """
    unet, control, vae = parts.unet.config, parts.controlnet, parts.vae
    if control is not None:
        side = control.config
        same = all(
            list(side[key]) == list(unet[key])
            if isinstance(unet[key], list | tuple)
            else side[key] == unet[key]
            for key in ("in_channels", "cross_attention_dim", "block_out_channels")
        )
        if side["conditioning_channels"] != CONDITION_CHANNELS or not same:
            raise CheckpointError(
                "teacher.wrong_controlnet",
                f"{name}: the ControlNet takes {side['conditioning_channels']} channels of "
                f"condition and has blocks {side['block_out_channels']} for tokens of "
                f"{side['cross_attention_dim']}; the UNet has {unet['block_out_channels']} for "
                f"{unet['cross_attention_dim']}.",
                f"It must be made for this UNet, with {CONDITION_CHANNELS} channels.",
            )
    channels = vae.config["latent_channels"] if vae is not None else 3
    if (unet["in_channels"], unet["out_channels"]) != (channels, channels):
        raise CheckpointError(
            "teacher.bad_part",
            f"{name}: the UNet takes {unet['in_channels']} and gives {unet['out_channels']} "
            f"channels where {channels} are needed.",
            "A teacher of pixels has 3 and no vae folder; one of latents as many as its vae.",
        )


def convert_controlnet(source: str | Path, unet: str | Path, out: str | Path) -> Path:
    """Turn a published ControlNet file (``.pth``) into the diffusers folder ``out``.

    The file is read by the audited converter, in a child process, and runs nothing.  The network
    is the one diffusers derives from the UNet, with `CONDITION_CHANNELS`.

    Args:
        source: torch file with the weights, at its top or below any prefix ("state_dict").
        unet: folder of the UNet it belongs to (TEACHER/unet, or TEACHER).
        out: folder to write.

    Raises:
        CheckpointError: those of `geo3d.convert.convert_file`; ``teacher.missing_part``,
            ``teacher.bad_part``; ``teacher.wrong_controlnet`` (weights missing or of another
            shape).
    """
    require("diffusers")
    from diffusers import ControlNetModel, UNet2DConditionModel

    base = Path(unet)
    base = base / "unet" if (base / "unet").is_dir() else base
    plain = cache_dir() / f"controlnet-{new_id()}.safetensors"
    plain.parent.mkdir(parents=True, exist_ok=True)
    try:
        convert_file(source, plain)
        tensors = dict(load(plain).tensors)
    finally:
        plain.unlink(missing_ok=True)
    model = ControlNetModel.from_unet(
        _read_network(UNet2DConditionModel, base, torch.float32),
        conditioning_channels=CONDITION_CHANNELS,
        load_weights_from_unet=False,
    )
    own = _without_prefix(tensors, source)
    wanted = model.state_dict()
    faults = [k for k, v in wanted.items() if k not in own or own[k].shape != v.shape]
    if faults:
        raise CheckpointError(
            "teacher.wrong_controlnet",
            f"{source} is no ControlNet of {base}: {len(faults)} weights are missing or of "
            f"another shape, {', '.join(faults[:3])} first.",
            "Take the UNet it was trained with (for the published one: stable-diffusion-2-1-base).",
        )
    model.load_state_dict({name: own[name].float() for name in wanted})
    model.save_pretrained(str(out), safe_serialization=True)
    return Path(out)


def _without_prefix(tensors: dict[str, Any], source: str | Path) -> dict[str, Any]:
    found = [name for name in tensors if name == _PROBE or name.endswith("." + _PROBE)]
    if len(found) != 1:
        raise CheckpointError(
            "teacher.wrong_controlnet",
            f"{source} holds {len(found)} ControlNets.",
            f"One weight is called {_PROBE}, below any prefix.",
        )
    prefix = found[0].removesuffix(_PROBE)
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _read_prompts(root: Path) -> Prompts | None:
    if (root / "styles.json").is_file():
        return load_styles(root)
    if not (root / "text_encoder").is_dir():
        return None
    require("transformers")
    from transformers import CLIPTextModel, CLIPTokenizer

    tokenizer = _guarded(
        root / "tokenizer",
        lambda: CLIPTokenizer.from_pretrained(str(root / "tokenizer"), local_files_only=True),
    )
    network = _guarded(
        root / "text_encoder",
        lambda: CLIPTextModel.from_pretrained(
            str(root / "text_encoder"), local_files_only=True, use_safetensors=True
        ),
    )
    return TextEncoder(tokenizer, network.requires_grad_(False).eval())


def _read_network(kind: Any, folder: Path, dtype: torch.dtype) -> Any:
    model, notes = _guarded(
        folder,
        lambda: kind.from_pretrained(
            str(folder),
            local_files_only=True,
            use_safetensors=True,
            torch_dtype=dtype,
            output_loading_info=True,
        ),
    )
    odd = [*notes["missing_keys"], *notes["unexpected_keys"], *notes["mismatched_keys"]]
    if odd:
        raise CheckpointError(
            "teacher.bad_part",
            f"{folder}: {len(odd)} weights are missing, unexpected or of another shape, "
            f"{odd[0]} first.",
            "config.json and the weights belong to different networks.",
        )
    return model.requires_grad_(False).eval()


def _guarded(folder: Path, read: Callable[[], Any]) -> Any:
    if not folder.is_dir():
        raise _missing(folder)
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


def _missing(path: Path) -> CheckpointError:
    hint = "A teacher has unet and scheduler, as diffusers writes them."
    return CheckpointError("teacher.missing_part", f"The teacher lacks {path}.", hint)


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise _missing(path)
    try:
        content = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        message = f"{path} is no JSON: {error}."
        raise CheckpointError("teacher.bad_part", message, "Copy it again.") from error
    if not isinstance(content, dict):
        raise CheckpointError("teacher.bad_part", f"{path} holds no settings.", "Copy it again.")
    return content


class Prompts(Protocol):
    """What every teacher has in place of a text encoder, or the text encoder."""

    @property
    def null(self) -> Tensor:
        """Return the tokens (k, d) of an empty prompt."""
        ...

    def tokens(self, prompt: str) -> Tensor:
        """Return the tokens (k, d) of ``prompt``."""
        ...


class TextEncoder:
    """CLIP's text encoder, as Stable Diffusion uses it; prompts are encoded once and kept."""

    def __init__(self, tokenizer: Any, network: Any) -> None:
        self._tokenizer = tokenizer
        self._network = network
        self._known: dict[str, Tensor] = {}

    @property
    def null(self) -> Tensor:
        """Return the tokens (k, d) of an empty prompt."""
        return self.tokens("")

    @torch.no_grad()
    def tokens(self, prompt: str) -> Tensor:
        """Return the tokens (k, d) of ``prompt``, cut off at the encoder's length."""
        if prompt not in self._known:
            text = self._tokenizer(
                prompt,
                padding="max_length",
                max_length=self._tokenizer.model_max_length,
                truncation=True,
                return_tensors="pt",
            )
            self._known[prompt] = self._network(text.input_ids)[0][0].float()
        return self._known[prompt]
