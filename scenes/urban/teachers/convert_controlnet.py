"""A ControlNet in one file (``.pth``, ``.safetensors``) becomes a folder as diffusers writes it.

Torch files are read by the audited converter, in a child process, and run nothing.  Names are
diffusers' own, below any prefix (the file published with Urban Architect), or those of the first
ControlNets ("control_model.input_hint_block..."), which diffusers translates.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from geo3d.backends import require
from geo3d.checkpoints import load
from geo3d.convert import convert_file
from geo3d.errors import CheckpointError
from geo3d.files import cache_dir, new_id
from scenes.urban.teachers.files import snapshot_of
from scenes.urban.teachers.folder import read_network

_OWN = "controlnet_cond_embedding.conv_in.weight"
_FIRST = "input_hint_block.0.weight"
"""The first layer a condition meets, by either kind of names."""


def convert_controlnet(source: str | Path, unet: str | Path, out: str | Path) -> Path:
    """Turn a ControlNet in one file into the diffusers folder ``out``.

    The network is the one diffusers derives from the UNet, with as many channels of condition as
    the file has.

    Args:
        source: torch or safetensors file with the weights, at its top or below any prefix.
        unet: folder of the UNet it belongs to (TEACHER/unet, or TEACHER).
        out: folder to write.

    Raises:
        CheckpointError: those of `geo3d.convert.convert_file`; ``teacher.missing_part``,
            ``teacher.bad_part``; ``teacher.wrong_controlnet`` (weights missing or of another
            shape).
    """
    require("diffusers")
    from diffusers import ControlNetModel, UNet2DConditionModel

    base = snapshot_of(Path(unet))
    base = base / "unet" if (base / "unet").is_dir() else base
    own = _translated(_read(Path(source)), source, base)
    model = ControlNetModel.from_unet(
        read_network(UNet2DConditionModel, base, torch.float32),
        conditioning_channels=own[_OWN].shape[1],
        load_weights_from_unet=False,
    )
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
    # what it is shown is read from its name
    model.register_to_config(_name_or_path=Path(source).stem)
    model.save_pretrained(str(out), safe_serialization=True)
    return Path(out)


def _read(source: Path) -> dict[str, Any]:
    if source.suffix.lower() == ".safetensors":
        return dict(load(source).tensors)
    plain = cache_dir() / f"controlnet-{new_id()}.safetensors"
    plain.parent.mkdir(parents=True, exist_ok=True)
    try:
        convert_file(source, plain)
        return dict(load(plain).tensors)
    finally:
        plain.unlink(missing_ok=True)


def _translated(tensors: dict[str, Any], source: str | Path, unet: Path) -> dict[str, Any]:
    """Return the weights by diffusers' names without prefix."""
    for probe in (_OWN, _FIRST):
        found = [name for name in tensors if name == probe or name.endswith("." + probe)]
        if len(found) != 1:
            continue
        prefix = found[0].removesuffix(probe)
        plain = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        return plain if probe == _OWN else _from_first_names(plain, source, unet)
    raise CheckpointError(
        "teacher.wrong_controlnet",
        f"{source} holds no ControlNet, or several.",
        f"One weight is called {_OWN} or {_FIRST}, below any prefix.",
    )


def _from_first_names(tensors: dict[str, Any], source: str | Path, unet: Path) -> dict[str, Any]:
    from diffusers.loaders.single_file_utils import convert_controlnet_checkpoint

    from scenes.urban.teachers.checks import read_json

    settings = {"layers_per_block": 2, **read_json(unet / "config.json")}
    try:
        made = convert_controlnet_checkpoint(tensors, settings)
    except (KeyError, ValueError, AttributeError, TypeError) as error:
        raise CheckpointError(
            "teacher.wrong_controlnet",
            f"{source} has names of the first ControlNets, but not all of them: {error!r}.",
            "Take the file as it was published.",
        ) from error
    return {name: values for name, values in made.items() if values is not None}
