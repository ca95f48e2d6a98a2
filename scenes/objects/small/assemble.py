"""The trained parts of the small pipeline, put together as a pipeline folder with its students."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from geo3d.config import load_config
from scenes.objects.models import load_model
from scenes.objects.pipeline_folder import write_pipeline, write_student
from scenes.objects.precision import set_torso
from scenes.objects.samplers import SamplerConfig, strength_to_scale
from scenes.objects.small.latents import GUIDANCE, INTERVAL
from scenes.objects.train_config import DistillConfig

PARTS: Mapping[str, str] = {
    "sparse_structure_flow_model": "structure-flow/outputs/student",
    "sparse_structure_decoder": "latents/sparse_structure_decoder",
    "slat_flow_model": "latent-flow/outputs/student",
    "slat_decoder_mesh": "mesh/slat_decoder_mesh",
    "slat_decoder_gs": "gaussian/slat_decoder_gs",
}
"""Where the networks of the pipeline lie below the folder of the stages."""
STUDENTS: Mapping[str, str] = {
    "sparse_structure_flow_model": "structure-student/outputs/student",
    "slat_flow_model": "latent-student/outputs/student",
}
TEACHER_SAMPLER = SamplerConfig(guidance_scale=strength_to_scale(GUIDANCE), interval=INTERVAL)
STUDENT_SAMPLER = SamplerConfig(steps=1, rescale_t=1.0, guidance_scale=None)
"""Guidance is in the student's weights."""


def assemble(work: Path, out: Path) -> list[Path]:
    """Write the pipeline, and its students if they are trained, as halves; return what was written.

    Raises:
        CheckpointError: ``object_model.missing`` (a stage is not trained).
        ConfigError: errors of reading the flows' settings.
    """
    data = load_config(DistillConfig, work / "latents" / "latent-flow.yaml").data
    networks = {key: _half(work / stem) for key, stem in PARTS.items()}
    encoder = _half(work / "picture" / "image_encoder")
    samplers = (TEACHER_SAMPLER, TEACHER_SAMPLER)
    written = [write_pipeline(out, networks, samplers, (data.mean, data.std), encoder)]
    if all((work / f"{stem}.json").is_file() for stem in STUDENTS.values()):
        flows = {key: _half(work / stem) for key, stem in STUDENTS.items()}
        written.append(write_student(out, flows, (STUDENT_SAMPLER, STUDENT_SAMPLER)))
    return written


def _half(stem: Path) -> nn.Module:
    return set_torso(load_model(stem), torch.float16)
