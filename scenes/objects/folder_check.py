"""What a pipeline folder lacks, told from settings and headers before any weights are loaded.

Every weight file is looked at: whether it is there, whole, and no pointer of git-lfs; whether its
entries are those of the network by name, shape and type.  Networks are built without memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from geo3d.backends import available
from geo3d.checkpoints import misfits, read_header, some
from geo3d.errors import CheckpointError, Geo3dError
from scenes.objects.condition import missing_encoder_files, unsafe_files
from scenes.objects.dino_names import encoder_misfits
from scenes.objects.models import outline, read_description, read_json
from scenes.objects.pipeline_folder import (
    ALWAYS,
    DECODERS,
    Output,
    PipelineDescription,
    Variant,
    encoder_path,
    is_own_encoder,
    read_pipeline,
)

_TO_GET = "Download the published folder on a machine with a network and copy it here."
_NUMBERS = ("F64", "F32", "F16", "BF16")
"""Types of weights that networks are loaded from."""


@dataclass(frozen=True)
class MissingPart:
    """Something a pipeline needs and this machine lacks."""

    what: str
    """File, folder or library."""
    why: str
    """What it is needed for, or what is wrong with it."""
    hint: str
    """How to get it."""


def missing_parts(
    folder: str | Path,
    encoder: str | Path | None = None,
    outputs: Sequence[Output] = ("mesh", "gaussian"),
    variant: Variant = "pipeline",
) -> list[MissingPart]:
    """Return what is missing or unfit to make ``outputs`` with the pipeline in ``folder``."""
    try:
        description = read_pipeline(folder, variant)
    except Geo3dError as error:
        return [MissingPart(str(Path(folder) / f"{variant}.json"), error.message, error.hint)]
    found: list[MissingPart] = []
    for key in (*ALWAYS, *(DECODERS[output] for output in outputs)):
        found += _network_parts(key, description.models.get(key))
    return found + _encoder_parts(encoder_path(folder, description, encoder), description)


def require_whole(
    folder: str | Path,
    encoder: str | Path | None,
    outputs: Sequence[Output],
    variant: Variant,
) -> None:
    """Refuse a pipeline that would fail after it has begun.

    Raises:
        CheckpointError: ``pipeline.incomplete`` naming the first thing that is missing or unfit.
    """
    if parts := missing_parts(folder, encoder, outputs, variant):
        first = parts[0]
        told = first.why if first.what in first.why else f"{first.what}: {first.why}"
        more = f" And {len(parts) - 1} more: geo3d doctor --model {folder}."
        raise CheckpointError(
            "pipeline.incomplete",
            f"The pipeline is not whole: {told}{more if len(parts) > 1 else ''}",
            first.hint,
        )


def _network_parts(key: str, stem: Path | None) -> list[MissingPart]:
    if stem is None:
        return [MissingPart(key, "pipeline.json names no such network", _TO_GET)]
    found = [
        MissingPart(f"{stem}{suffix}", f"{content} of {key}", _TO_GET)
        for suffix, content in ((".json", "settings"), (".safetensors", "weights"))
        if not Path(f"{stem}{suffix}").is_file()
    ]
    wanted: Mapping[str, torch.Tensor] | None = None
    if Path(f"{stem}.json").is_file():
        try:
            wanted = outline(stem).state_dict()
        except CheckpointError as error:
            found.append(MissingPart(f"{stem}.json", error.message, error.hint))
    if Path(f"{stem}.safetensors").is_file():
        found += _weight_parts(Path(f"{stem}.safetensors"), key, wanted)
    return found


def _weight_parts(
    path: Path, key: str, wanted: Mapping[str, torch.Tensor] | None
) -> list[MissingPart]:
    try:
        header = read_header(path)
    except CheckpointError as error:
        return [MissingPart(str(path), error.message, error.hint)]
    problems = [] if wanted is None else misfits(wanted, header)
    problems += _types(header)
    if not problems:
        return []
    why = f"not the weights of {key}: {some(problems)}"
    return [MissingPart(str(path), why, "Copy the file that belongs to the settings beside it.")]


def _types(header: Mapping[str, Any]) -> list[str]:
    return [
        f"{name} has type {entry.dtype}"
        for name, entry in header.items()
        if entry.dtype not in _NUMBERS
    ]


def _encoder_parts(path: Path, description: PipelineDescription) -> list[MissingPart]:
    if is_own_encoder(path):
        return _network_parts("image encoder", path)
    hint = (
        f"Copy the folder of {description.encoder} (facebook/dinov2-with-registers-large for "
        "dinov2_vitl14_reg) there, or convert torch.hub's file: geo3d convert FILE.pth "
        "--student-of DIR; or name another with --encoder."
    )
    found = [
        MissingPart(str(path / name), "image encoder", hint) for name in missing_encoder_files(path)
    ]
    if unsafe := unsafe_files(path):
        why = f"the image encoder's folder holds {', '.join(unsafe)}"
        found.append(MissingPart(str(path), why, "Keep config.json and model.safetensors there."))
    if not found:
        found += _dino_parts(path, description)
    library = available("transformers")
    if not library.is_available:
        found.append(MissingPart("transformers", library.reason, library.install_line))
    return found


def _dino_parts(path: Path, description: PipelineDescription) -> list[MissingPart]:
    """Compare the encoder's weights with its settings, and its width with what the flows ask."""
    weights = path / "model.safetensors"
    try:
        config, header = read_json(path / "config.json"), read_header(weights)
        problems = encoder_misfits(config, header) + _types(header)
        width = _condition_width(description)
    except CheckpointError as error:
        return [MissingPart(str(path), error.message, error.hint)]
    if width is not None and config.get("hidden_size") != width:
        problems.append(f"tokens of {config.get('hidden_size')} channels, the flows want {width}")
    if not problems:
        return []
    return [MissingPart(str(weights), f"not the image encoder: {some(problems)}", "Copy it again.")]


def _condition_width(description: PipelineDescription) -> int | None:
    stem = description.models.get(ALWAYS[0])
    if stem is None or not Path(f"{stem}.json").is_file():
        return None
    return read_description(stem)["args"].get("cond_channels")
