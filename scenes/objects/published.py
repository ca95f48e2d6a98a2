"""Weights as their authors publish them, put where a pipeline folder has them.

* MDT-dist's students: two state dicts (``.pt``) with the names of the flows they were trained from.
  They come beside the flows and are named by ``student.json``.
* DINOv2 as torch.hub leaves it: becomes the folder of the image encoder.

Which file is what is told from its entries.

Source: MDT-dist (2025), released checkpoints, sampled in one or two even steps per stage; Xiang et
al., "Structured 3D Latents" (TRELLIS, 2024).
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from geo3d import checkpoints
from geo3d.convert import convert_file
from geo3d.distill.conventions import strength_to_scale
from geo3d.errors import CheckpointError
from geo3d.files import atomic_write_json
from scenes.objects.dino_names import encoder_misfits, is_torchhub, torchhub_to_transformers
from scenes.objects.models import outline, read_description
from scenes.objects.pipeline_folder import (
    encoder_path,
    read_pipeline,
    student_stem,
    write_student_file,
)

FLOWS = ("sparse_structure_flow_model", "slat_flow_model")
STEPS = 2
LATENT_STRENGTH = 1.0
"""Guidance that the latents' student is sampled with, as TRELLIS counts it."""
_MARK = "input_layer.weight"
"""An entry of every flow, and of nothing else that is published with them."""


class Placed(NamedTuple):
    """Where a file went."""

    source: str
    """The file."""
    role: str
    """What it is: a flow's key, or "image encoder"."""
    path: Path
    """The weights, or the folder of the encoder."""
    lacks: tuple[str, ...] = ()
    """What the file should hold and does not."""


def place(files: Sequence[str | Path], folder: str | Path) -> list[Placed]:
    """Put students and image encoder into a pipeline folder; nothing if one file does not fit.

    Raises:
        CheckpointError: ``published.unknown`` (a file is neither), ``published.twice``, and those
            of reading the folder and of `geo3d.convert.convert_file`.
    """
    root = Path(folder)
    description = read_pipeline(root)
    with tempfile.TemporaryDirectory(dir=root, prefix=".converted-") as scratch:
        found: dict[str, tuple[str, dict[str, Tensor]]] = {}
        for number, file in enumerate(files):
            weights = _read(Path(file), Path(scratch) / f"{number}.safetensors")
            role, own = _recognised(weights, description.models, str(file))
            if role in found:
                raise CheckpointError(
                    "published.twice",
                    f"{file} and {found[role][0]} are both weights of {role}.",
                    "Give one file for each part.",
                )
            found[role] = (str(file), own)
        placed = []
        for role, (source, weights) in found.items():
            if role == "image encoder":
                target = encoder_path(root, description)
                placed.append(Placed(source, role, target, write_encoder(weights, target)))
                continue
            stem = student_stem(root, role)
            checkpoints.save(f"{stem}.safetensors", weights)
            atomic_write_json(Path(f"{stem}.json"), read_description(description.models[role]))
            placed.append(Placed(source, role, Path(f"{stem}.safetensors")))
        if flows := [role for role in found if role in FLOWS]:
            even = {"steps": STEPS, "rescale_t": 1.0}
            scale = strength_to_scale(LATENT_STRENGTH)
            write_student_file(
                root,
                flows,
                (
                    replace(description.structure, **even),
                    replace(description.latent, **even, guidance_scale=scale),
                ),
            )
    return placed


def convert_encoder(file: str | Path, folder: str | Path) -> Placed | None:
    """Write torch.hub's DINOv2 as a folder; None if the file is something else."""
    with tempfile.TemporaryDirectory(dir=Path(folder).parent, prefix=".converted-") as scratch:
        weights = _read(Path(file), Path(scratch) / "weights.safetensors")
        if not is_torchhub(weights):
            return None
        lacks = write_encoder(weights, Path(folder))
        return Placed(str(file), "image encoder", Path(folder), lacks)


def write_encoder(weights: Mapping[str, Tensor], folder: Path) -> tuple[str, ...]:
    """Write weights of torch.hub as a folder that transformers reads; return what they lack."""
    renamed, settings = torchhub_to_transformers(weights)
    folder.mkdir(parents=True, exist_ok=True)
    checkpoints.save(folder / "model.safetensors", renamed)
    atomic_write_json(folder / "config.json", settings)
    return tuple(encoder_misfits(settings, renamed))


def _read(file: Path, scratch: Path) -> dict[str, Tensor]:
    """Return the weights of a torch file, or of a safetensors file."""
    if file.suffix == ".safetensors":
        shutil.copyfile(file, scratch)
    else:
        convert_file(file, scratch)
    return dict(checkpoints.load(scratch).tensors)


def _recognised(
    weights: Mapping[str, Tensor], models: Mapping[str, Path], file: str
) -> tuple[str, dict[str, Tensor]]:
    """Return what the weights are and the entries that belong to it, by their own names."""
    if is_torchhub(weights):
        return "image encoder", dict(weights)
    problems: list[str] = []
    for key in FLOWS:
        if key not in models:
            continue
        wanted = outline(models[key]).state_dict()
        for prefix in _prefixes(weights):
            own = {n.removeprefix(prefix): t for n, t in weights.items() if n.startswith(prefix)}
            faults = checkpoints.misfits(wanted, own)
            if not faults:
                return key, own
            if not problems or len(faults) < len(problems):
                problems = faults
    why = checkpoints.some(problems) if problems else "it has no entries of a flow"
    raise CheckpointError(
        "published.unknown",
        f"{file} is neither a student of this pipeline's flows nor torch.hub's DINOv2: {why}.",
        "Give MDT-dist's .pt files for a folder of the same sizes, or dinov2_*_pretrain.pth.",
    )


def _prefixes(weights: Mapping[str, Tensor]) -> list[str]:
    """Return under which names a flow may lie: "", or "module.", "state_dict." and the like."""
    return sorted({name.removesuffix(_MARK) for name in weights if name.endswith(_MARK)}, key=len)
