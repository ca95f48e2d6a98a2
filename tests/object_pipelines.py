"""A tiny pipeline with random weights, for tests of whatever makes objects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw
from torch import nn

from scenes.objects.condition import SmallEncoderConfig, SmallImageEncoder
from scenes.objects.decoders import (
    SLatDecoderConfig,
    SLatGaussianDecoder,
    SLatMeshDecoder,
    SLatRadianceFieldDecoder,
)
from scenes.objects.pipeline import Pipeline
from scenes.objects.pipeline_folder import write_student
from scenes.objects.samplers import SamplerConfig
from scenes.objects.slat_flow import SLatFlowConfig, SLatFlowModel
from scenes.objects.ss_flow import SparseStructureFlowModel, SSFlowConfig
from scenes.objects.ss_vae import SparseStructureDecoder, SSDecoderConfig

ENCODER = SmallEncoderConfig(size=16, patch=8, channels=16, depth=1, heads=2)
SPARSER = 0.5
"""Taken from every logit of the structure."""
FEW_STEPS = SamplerConfig(steps=2, rescale_t=1.0, guidance_scale=3.0, interval=(0.5, 1.0))


def tiny_networks() -> dict[str, nn.Module]:
    """Return all networks of a pipeline over 8^3 voxels, from fixed random weights."""
    torch.manual_seed(0)
    flow: dict[str, Any] = {
        "in_channels": 4,
        "out_channels": 4,
        "model_channels": 32,
        "cond_channels": 16,
    }
    decoder: dict[str, Any] = {
        "resolution": 8,
        "latent_channels": 4,
        "num_blocks": 1,
        "num_heads": 2,
    }
    narrow = SLatDecoderConfig(model_channels=32, **decoder)
    wide = SLatDecoderConfig(model_channels=256, **decoder)
    networks: dict[str, nn.Module] = {
        "sparse_structure_flow_model": SparseStructureFlowModel(
            SSFlowConfig(resolution=4, num_blocks=1, num_heads=2, **flow)
        ),
        "sparse_structure_decoder": SparseStructureDecoder(
            SSDecoderConfig(
                latent_channels=4, num_res_blocks=1, channels=(16, 8), num_res_blocks_middle=1
            )
        ),
        "slat_flow_model": SLatFlowModel(
            SLatFlowConfig(resolution=8, num_blocks=1, num_heads=2, io_block_channels=(16,), **flow)
        ),
        "slat_decoder_mesh": SLatMeshDecoder(wide),
        "slat_decoder_gs": SLatGaussianDecoder(narrow),
        "slat_decoder_rf": SLatRadianceFieldDecoder(narrow),
    }
    for network in networks.values():
        for parameter in network.parameters():
            # Also what starts at zero: an object must come out.
            parameter.data += 0.05 * torch.randn(parameter.shape)
    # About one voxel in ten is active.
    last = networks["sparse_structure_decoder"]
    last.get_parameter("out_layer.2.bias").data -= SPARSER
    return networks


def tiny_pipeline(*, torso: torch.dtype = torch.float32, low_memory: bool = False) -> Pipeline:
    """Return a pipeline in memory; the same on every call."""
    networks = tiny_networks()
    torch.manual_seed(1)
    return Pipeline(
        networks,
        SmallImageEncoder(ENCODER),
        (FEW_STEPS, FEW_STEPS),
        ([0.1, -0.2, 0.3, 0.0], [1.5, 0.5, 1.0, 2.0]),
        torso=torso,
        low_memory=low_memory,
    )


def cut_out_image(color: tuple[int, int, int] = (200, 40, 40), size: int = 48) -> Image.Image:
    """Return a disc of one colour on a transparent ground."""
    image = Image.new("RGBA", (size, size), (0, 0, 0, 0))
    quarter = size // 4
    ImageDraw.Draw(image).ellipse(
        (quarter, quarter, size - quarter, size - quarter), fill=(*color, 255)
    )
    return image


def tiny_pipeline_folder(folder: Path, *, student: bool = True) -> Path:
    """Write the tiny pipeline, with a student of other weights beside it, and return ``folder``."""
    tiny_pipeline().save(folder)
    if student:
        flows = {key: n for key, n in tiny_networks().items() if key.endswith("flow_model")}
        for flow in flows.values():
            for parameter in flow.parameters():
                parameter.data *= 0.9
        one = SamplerConfig(steps=1, rescale_t=1.0, guidance_scale=None)
        write_student(folder, flows, (one, one))
    return folder
