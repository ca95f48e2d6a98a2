"""Train one part of the small pipeline into a folder: its networks as model files.

| stage | writes | needs |
|---|---|---|
| structure | sparse_structure_decoder | cells |
| latent | slat_encoder, without training | cells |
| mesh | slat_decoder_mesh | cells, the latent encoder |
| gaussian | slat_decoder_gs | cells, the latent encoder |
| picture | image_encoder | cells, the latent encoder |

The trained parts of the small pipeline, put together as a pipeline folder with its students.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from torch import nn

from geo3d.config import load_config
from geo3d.progress import MetricsCallback, ProgressCallback, ignore_progress
from geo3d.work.training import Numbers
from scenes.objects.lifting import LiftingEncoder
from scenes.objects.linear_code import LinearSLatEncoder
from scenes.objects.models import load_model, save_model
from scenes.objects.pipeline_folder import write_pipeline, write_student
from scenes.objects.precision import set_torso
from scenes.objects.samplers import SamplerConfig
from scenes.objects.small.autoencoders import GaussianTask, MeshTask, StructureTask
from scenes.objects.small.cells import CellObject, read_cells
from scenes.objects.small.fit import Task, fit
from scenes.objects.small.images import ImageTask
from scenes.objects.small.latents import GUIDANCE_SCALE, INTERVAL
from scenes.objects.small.settings import LATENT_ENCODER, StageConfig
from scenes.objects.train_config import DistillConfig

_FILES: Mapping[str, Mapping[str, str]] = {
    "structure": {"decoder": "sparse_structure_decoder"},
    "mesh": {"decoder": "slat_decoder_mesh"},
    "gaussian": {"decoder": "slat_decoder_gs"},
    "picture": {"encoder": "image_encoder"},
}
"""Which parts of a task's network are kept, and as what."""


def train_stage(
    config: StageConfig,
    out: Path,
    log_metrics: MetricsCallback = ignore_progress,
    progress: ProgressCallback = ignore_progress,
) -> Numbers:
    """Train a stage, or resume where ``out`` stopped; return its last numbers.

    Raises:
        InputError: ``cells.none``.
        FileFormatError: ``cells.bad_file``.
        CheckpointError: ``checkpoint.other_training``, and those of reading the encoders.
        NumericalError: ``training.diverged``.
    """
    torch.manual_seed(config.seed)
    objects = read_cells(config.cells)[: config.objects]
    if config.stage == "latent":
        encoder = LinearSLatEncoder(LATENT_ENCODER)
        numbers = encoder.fit([item.features() for item in objects])
        save_model(encoder, out / "slat_encoder")
        return numbers
    task = _task(config, objects)
    network, numbers = fit(task, config, out, log_metrics, progress)
    for part, name in _FILES[config.stage].items():
        save_model(cast(nn.ModuleDict, network)[part], out / name)
    return numbers


def _task(config: StageConfig, objects: Sequence[CellObject]) -> Task:
    task = _unstarted(config, objects)
    if config.start:
        (network,) = task.network.values()
        _start(network, load_model(config.start))
    return task


def _unstarted(config: StageConfig, objects: Sequence[CellObject]) -> Task:
    if config.stage == "structure":
        image = cast(LiftingEncoder, load_model(config.guess)) if config.guess else None
        return StructureTask(objects, image)
    latent = cast(LinearSLatEncoder, load_model(config.latent))
    if config.stage == "picture":
        return ImageTask(objects, latent)
    return (MeshTask if config.stage == "mesh" else GaussianTask)(objects, latent)


def _start(network: nn.Module, other: nn.Module) -> None:
    """Take over the other network's weights where name and shape are the same."""
    own, found = network.state_dict(), other.state_dict()
    fits = {n: v for n, v in found.items() if n in own and own[n].shape == v.shape}
    network.load_state_dict({**own, **fits})


PARTS: Mapping[str, str] = {
    "sparse_structure_flow_model": "structure-flow/outputs/student",
    "sparse_structure_decoder": "structure/sparse_structure_decoder",
    "slat_flow_model": "latent-flow/outputs/student",
    "slat_decoder_mesh": "mesh/slat_decoder_mesh",
    "slat_decoder_gs": "gaussian/slat_decoder_gs",
}
"""Where the networks of the pipeline lie below the folder of the stages."""
STUDENTS: Mapping[str, str] = {
    "sparse_structure_flow_model": "structure-student/outputs/student",
    "slat_flow_model": "latent-student/outputs/student",
}
TEACHER_SAMPLER = SamplerConfig(guidance_scale=GUIDANCE_SCALE, interval=INTERVAL)
"""In comparisons."""
PIPELINE_SAMPLER = replace(TEACHER_SAMPLER, steps=1)
"""By default: on tuning objects more steps were worse, as they add noise to what the guess says."""
STUDENT_SAMPLER = SamplerConfig(steps=1, rescale_t=1.0, guidance_scale=None)
"""Students are not guided."""


def assemble(work: Path, out: Path) -> list[Path]:
    """Write the pipeline, and its students if they are trained, as halves; return what was written.

    Raises:
        CheckpointError: ``object_model.missing`` (a stage is not trained).
        ConfigError: errors of reading the flows' settings.
    """
    data = load_config(DistillConfig, work / "latents" / "latent-flow.yaml").data
    networks = {key: _half(work / stem) for key, stem in PARTS.items()}
    encoder = load_model(work / "picture" / "image_encoder").half()
    samplers = (PIPELINE_SAMPLER, PIPELINE_SAMPLER)
    written = [write_pipeline(out, networks, samplers, (data.mean, data.std), encoder)]
    if all((work / f"{stem}.json").is_file() for stem in STUDENTS.values()):
        flows = {key: _half(work / stem) for key, stem in STUDENTS.items()}
        written.append(write_student(out, flows, (STUDENT_SAMPLER, STUDENT_SAMPLER)))
    return written


def _half(stem: Path) -> nn.Module:
    return set_torso(load_model(stem), torch.float16)
