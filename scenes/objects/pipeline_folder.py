"""Pipelines on disk as published: ``pipeline.json`` and a folder of networks; nothing else is read.

Few-step students of a pipeline lie beside it: ``student.json`` has the same form, names their flow
networks and sampling, and shares all other networks.

Everything is local.  `scenes.objects.folder_check` tells what a folder lacks before it is loaded.

Source: Xiang et al., "Structured 3D Latents" (TRELLIS, 2024), released checkpoints.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import nn

from geo3d.errors import CheckpointError, Geo3dError
from geo3d.files import atomic_write_json
from scenes.objects.models import read_json, save_model
from scenes.objects.samplers import SamplerConfig, sampler_to_upstream, upstream_to_sampler

PIPELINE_NAME = "TrellisImageTo3DPipeline"
Variant = Literal["pipeline", "student"]
Output = Literal["mesh", "gaussian", "radiance"]
DECODERS: Mapping[Output, str] = {
    "mesh": "slat_decoder_mesh",
    "gaussian": "slat_decoder_gs",
    "radiance": "slat_decoder_rf",
}
"""Key of the decoder of each output."""
ALWAYS = ("sparse_structure_flow_model", "sparse_structure_decoder", "slat_flow_model")
"""Keys of the networks every object needs."""
_FILES = "ckpts"


@dataclass(frozen=True)
class PipelineDescription:
    """What ``pipeline.json`` says."""

    models: Mapping[str, Path]
    """Path without suffix of each network, by key."""
    structure: SamplerConfig
    """How the structure is sampled."""
    latent: SamplerConfig
    """How the latents are sampled."""
    mean: tuple[float, ...]
    """Of the latents, per channel."""
    std: tuple[float, ...]
    """Of the latents, per channel."""
    encoder: str
    """Name of the image encoder, or its path without suffix within the folder."""


def read_pipeline(folder: str | Path, variant: Variant = "pipeline") -> PipelineDescription:
    """Read ``folder/pipeline.json``, or ``student.json``.

    Raises:
        CheckpointError: ``object_model.missing``, ``object_model.unreadable``,
            ``object_model.no_student``, ``pipeline.bad_file`` (an entry is missing or wrong),
            ``pipeline.outside`` (a network outside the folder).
        ConfigError: ``sampler.unknown``, ``sampler.bad_config``.
    """
    root = Path(folder)
    path = root / f"{variant}.json"
    if variant == "student" and not path.is_file() and (root / "pipeline.json").is_file():
        raise CheckpointError(
            "object_model.no_student",
            f"The pipeline in {root} has no few-step students.",
            f"Put them there: geo3d convert STRUCTURE.pt LATENT.pt --student-of {root}.",
        )
    content = read_json(path)
    try:
        args = content["args"]
        normalization = args["slat_normalization"]
        description = PipelineDescription(
            models={str(key): _inside(root, str(v)) for key, v in args["models"].items()},
            structure=_sampler(args["sparse_structure_sampler"]),
            latent=_sampler(args["slat_sampler"]),
            mean=tuple(float(v) for v in normalization["mean"]),
            std=tuple(float(v) for v in normalization["std"]),
            encoder=str(args["image_cond_model"]),
        )
    except Geo3dError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            "pipeline.bad_file",
            f"{path} is no pipeline for images: {error!r} is missing or wrong.",
            "Take the file as published, or as written by geo3d.",
        ) from error
    if len(description.mean) != len(description.std) or not all(description.std):
        raise CheckpointError(
            "pipeline.bad_file",
            f"{path}: mean and std of the latents do not fit each other.",
            "There is one number per channel, and no std is 0.",
        )
    return description


def write_pipeline(
    folder: str | Path,
    networks: Mapping[str, nn.Module],
    samplers: tuple[SamplerConfig, SamplerConfig],
    normalization: tuple[Sequence[float], Sequence[float]],
    encoder: str | nn.Module,
) -> Path:
    """Write a pipeline folder and return the path of its ``pipeline.json``, written last.

    Args:
        folder: where; files of the same names are replaced.
        networks: by key, see `ALWAYS` and `DECODERS`.
        samplers: of the structure and of the latents.
        normalization: mean and std of the latents per channel.
        encoder: name of a published encoder, or an encoder network to store along.

    Raises:
        CheckpointError: ``object_model.unknown``.
    """
    root = Path(folder)
    models = {}
    for key, network in networks.items():
        save_model(network, root / _FILES / key)
        models[key] = f"{_FILES}/{key}"
    if isinstance(encoder, nn.Module):
        save_model(encoder, root / _FILES / "image_encoder")
        encoder = f"{_FILES}/image_encoder"
    args = {
        "models": models,
        "sparse_structure_sampler": sampler_to_upstream(samplers[0]),
        "slat_sampler": sampler_to_upstream(samplers[1]),
        "slat_normalization": {"mean": list(normalization[0]), "std": list(normalization[1])},
        "image_cond_model": encoder,
    }
    return atomic_write_json(root / "pipeline.json", {"name": PIPELINE_NAME, "args": args})


def write_student(
    folder: str | Path,
    flows: Mapping[str, nn.Module],
    samplers: tuple[SamplerConfig, SamplerConfig],
) -> Path:
    """Put few-step students beside the pipeline in ``folder`` and return their ``student.json``.

    Args:
        folder: of a pipeline.
        flows: the students by the keys of their teachers.
        samplers: of the structure and of the latents.

    Raises:
        CheckpointError: ``object_model.missing``, ``object_model.unreadable``,
            ``object_model.unknown``.
    """
    root = Path(folder)
    for key, network in flows.items():
        save_model(network, student_stem(root, key))
    return write_student_file(root, list(flows), samplers)


def student_stem(folder: str | Path, key: str) -> Path:
    """Return the path without suffix of a few-step student, by the key of its teacher."""
    return Path(folder) / _FILES / f"{key}_student"


def write_student_file(
    folder: str | Path, keys: Sequence[str], samplers: tuple[SamplerConfig, SamplerConfig]
) -> Path:
    """Write ``student.json`` for the students that lie in the folder; others it named stay.

    Raises:
        CheckpointError: ``object_model.missing``, ``object_model.unreadable``.
    """
    root = Path(folder)
    content = read_json(root / "pipeline.json")
    args = dict(content["args"])
    models = dict(args["models"])
    if (root / "student.json").is_file():
        named = read_json(root / "student.json").get("args", {}).get("models", {})
        models |= {key: stem for key, stem in named.items() if key in models}
    models |= {key: f"{_FILES}/{key}_student" for key in keys}
    args |= {
        "models": models,
        "sparse_structure_sampler": sampler_to_upstream(samplers[0]),
        "slat_sampler": sampler_to_upstream(samplers[1]),
    }
    return atomic_write_json(root / "student.json", {**content, "args": args})


def encoder_path(
    folder: str | Path, description: PipelineDescription, given: str | Path | None = None
) -> Path:
    """Return where the image encoder is: the folder ``given``, else inside the pipeline's."""
    return Path(given) if given else _inside(Path(folder), description.encoder)


def is_own_encoder(path: Path) -> bool:
    """Return whether ``path`` is a network of ours (a path without suffix), not a folder."""
    return Path(f"{path}.json").is_file()


def _sampler(entry: Mapping[str, Any]) -> SamplerConfig:
    sigma_min = float(entry.get("args", {}).get("sigma_min", 1e-5))
    return upstream_to_sampler(str(entry["name"]), entry.get("params", {}), sigma_min)


def _inside(root: Path, name: str) -> Path:
    path = root / name
    if not path.resolve().is_relative_to(root.resolve()):
        raise CheckpointError(
            "pipeline.outside",
            f"The pipeline in {root} names {name!r}, which lies outside its folder.",
            "Do not trust it, or copy the file into the folder.",
        )
    return path
