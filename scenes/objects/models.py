"""Networks on disk as published: ``NAME.json`` with class and arguments, ``NAME.safetensors``.

Source: Xiang et al., "Structured 3D Latents" (TRELLIS, 2024), released checkpoints.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from geo3d import checkpoints
from geo3d.config import config_to_dict
from geo3d.errors import CheckpointError
from geo3d.files import atomic_write_json
from scenes.objects.condition import SmallEncoderConfig, SmallImageEncoder
from scenes.objects.decoders import (
    SLatDecoderConfig,
    SLatEncoder,
    SLatEncoderConfig,
    SLatGaussianDecoder,
    SLatMeshDecoder,
    SLatRadianceFieldDecoder,
)
from scenes.objects.lifting import LiftingConfig, LiftingEncoder
from scenes.objects.linear_code import LinearCodeConfig, LinearSLatEncoder
from scenes.objects.precision import set_torso
from scenes.objects.slat_flow import SLatFlowConfig, SLatFlowModel
from scenes.objects.ss_flow import SparseStructureFlowModel, SSFlowConfig
from scenes.objects.ss_vae import (
    SparseStructureDecoder,
    SparseStructureEncoder,
    SSDecoderConfig,
    SSEncoderConfig,
)


class ModelKind(NamedTuple):
    """One class of network."""

    network: type[nn.Module]
    """The class."""
    config: type
    """Its settings."""
    unsaid: Mapping[str, Any]
    """What a published file means by not saying it, where that differs from our defaults."""


_FLOW: Mapping[str, Any] = {
    "num_heads": None,
    "patch_size": 2,
    "qk_rms_norm": False,
}
_SPARSE_FLOW: Mapping[str, Any] = {**_FLOW, "io_block_channels": None}
_DECODER: Mapping[str, Any] = {"num_heads": None}

_PLAIN: Mapping[str, ModelKind] = {
    "SparseStructureFlowModel": ModelKind(SparseStructureFlowModel, SSFlowConfig, _FLOW),
    "SLatFlowModel": ModelKind(SLatFlowModel, SLatFlowConfig, _SPARSE_FLOW),
    "SparseStructureDecoder": ModelKind(SparseStructureDecoder, SSDecoderConfig, {}),
    "SparseStructureEncoder": ModelKind(SparseStructureEncoder, SSEncoderConfig, {}),
    "SLatMeshDecoder": ModelKind(SLatMeshDecoder, SLatDecoderConfig, _DECODER),
    "SLatGaussianDecoder": ModelKind(SLatGaussianDecoder, SLatDecoderConfig, _DECODER),
    "SLatRadianceFieldDecoder": ModelKind(SLatRadianceFieldDecoder, SLatDecoderConfig, _DECODER),
    "SLatEncoder": ModelKind(SLatEncoder, SLatEncoderConfig, _DECODER),
    "SmallImageEncoder": ModelKind(SmallImageEncoder, SmallEncoderConfig, {}),
    "LiftingEncoder": ModelKind(LiftingEncoder, LiftingConfig, {}),
    "LinearSLatEncoder": ModelKind(LinearSLatEncoder, LinearCodeConfig, {}),
}
# "Elastic" means that training saves memory as it needs to; weights and arithmetic are the same.
MODELS: Mapping[str, ModelKind] = {
    **_PLAIN,
    **{f"Elastic{name}": kind for name, kind in _PLAIN.items() if name.startswith("SLat")},
}
"""Networks by the name model files give them."""


def build(name: str, args: Mapping[str, Any]) -> nn.Module:
    """Return a fresh network of class ``name``.

    Raises:
        CheckpointError: ``object_model.unknown``, ``object_model.bad_settings``.
    """
    kind = _kind(name)
    return kind.network(_config(name, kind, args))


def describe(network: nn.Module) -> dict[str, Any]:
    """Return the content of a model file: class and arguments, complete.

    Raises:
        CheckpointError: ``object_model.unknown``.
    """
    name = type(network).__name__
    _kind(name)
    return {"name": name, "args": config_to_dict(network.config)}


def save_model(network: nn.Module, stem: str | PathLike[str]) -> None:
    """Write ``stem.json`` and ``stem.safetensors``."""
    description = describe(network)
    checkpoints.save(_with(stem, ".safetensors"), network.state_dict(), description["args"])
    atomic_write_json(_with(stem, ".json"), description)


def read_description(stem: str | PathLike[str]) -> dict[str, Any]:
    """Return class and arguments of a model file.

    Raises:
        CheckpointError: ``object_model.missing``, ``object_model.unreadable``.
    """
    path = _with(stem, ".json")
    description = read_json(path)
    if not isinstance(description.get("name"), str) or not isinstance(
        description.get("args"), dict
    ):
        raise CheckpointError(
            "object_model.unreadable", f"{path} names no class and no arguments.", "Copy it again."
        )
    return description


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        CheckpointError: ``object_model.missing``, ``object_model.unreadable``.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(
            "object_model.missing",
            f"There is no file {path}.",
            "`geo3d doctor --model DIR` lists what is missing.",
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            "object_model.unreadable", f"{path} cannot be read: {error}.", "Copy it again."
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError("object_model.unreadable", f"{path} holds no JSON object.", "")
    return content


def load_model(
    stem: str | PathLike[str],
    device: torch.device | str = "cpu",
    torso: torch.dtype = torch.float32,
) -> nn.Module:
    """Return the network of ``stem.json`` and ``stem.safetensors``, ready to run.

    Args:
        stem: path without suffix.
        device: where it runs.
        torso: type of the weights of its blocks; everything else is float32.

    Raises:
        CheckpointError: as `build`, `read_description` and `geo3d.checkpoints.load_into`.
    """
    description = read_description(stem)
    network = build(description["name"], description["args"])
    checkpoints.load_into(network, _with(stem, ".safetensors"))
    return set_torso(network, torso).to(device).eval().requires_grad_(False)


def outline(stem: str | PathLike[str]) -> nn.Module:
    """Return the network of ``stem.json`` without memory: settings, names and shapes.

    Raises:
        CheckpointError: as `build` and `read_description`.
    """
    description = read_description(stem)
    with torch.device("meta"):
        return build(description["name"], description["args"])


def parameter_counts(description: Mapping[str, Any]) -> tuple[int, int]:
    """Return how many parameters the torso of a network has, and how many the rest.

    Nothing is allocated.

    Raises:
        CheckpointError: as `build`.
    """
    with torch.device("meta"):
        network = set_torso(build(description["name"], description["args"]), torch.bfloat16)
    counts = {torch.bfloat16: 0, torch.float32: 0}
    for parameter in network.parameters():
        counts[parameter.dtype] += parameter.numel()
    return counts[torch.bfloat16], counts[torch.float32]


def _kind(name: str) -> ModelKind:
    if name not in MODELS:
        raise CheckpointError(
            "object_model.unknown",
            f"There is no network called {name!r}.",
            f"Known: {', '.join(MODELS)}.",
        )
    return MODELS[name]


def _config(name: str, kind: ModelKind, args: Mapping[str, Any]) -> Any:
    known = {field.name for field in dataclasses.fields(kind.config)}
    if unknown := sorted(set(args) - known):
        raise CheckpointError(
            "object_model.bad_settings",
            f"{name} has no setting {', '.join(unknown)}.",
            f"Known: {', '.join(sorted(known))}.",
        )
    values = {key: tuple(v) if isinstance(v, list) else v for key, v in args.items()}
    try:
        return kind.config(**{**kind.unsaid, **values})
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            "object_model.bad_settings", f"{name} cannot be built: {error}.", ""
        ) from error


def _with(stem: str | PathLike[str], suffix: str) -> Path:
    # Not `with_suffix`: names of models hold dots.
    return Path(f"{stem}{suffix}")
