"""A folder of stages of the small pipeline with tiny random networks, for tests of comparisons."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from object_pipelines import tiny_networks
from torch import nn

from geo3d.config import dump_config
from geo3d.synth.objects.generate import generate_object
from scenes.objects.condition import SmallEncoderConfig, SmallImageEncoder
from scenes.objects.data.voxels import visible_shell, voxelize
from scenes.objects.decoders import SLatDecoderConfig, SLatMeshDecoder
from scenes.objects.linear_code import LinearCodeConfig, LinearSLatEncoder
from scenes.objects.models import save_model
from scenes.objects.objectives import ObjectiveConfig
from scenes.objects.small.cells import CHANNELS, CellObject, cell_object, write_cells
from scenes.objects.small.train import PARTS
from scenes.objects.train_config import DataConfig, DistillConfig

NAMES = (("key", 1), ("spoon", 2))


@lru_cache
def small_objects() -> tuple[CellObject, ...]:
    """Return two objects with one plain image each."""
    found = []
    for kind, seed in NAMES:
        shell = visible_shell(voxelize(generate_object(kind, seed).mesh))
        view = np.zeros((1, 64, 64, 4), np.uint8)
        view[:, 20:40, 10:50] = (200, 90, 60, 255)
        found.append(cell_object(kind, seed, shell, view, np.zeros((1, 6), np.float32)))
    return tuple(found)


def write_stages(root: Path) -> tuple[Path, Path]:
    """Write a folder of stages and one of cells; return both."""
    work, cells = root / "work", root / "cells"
    torch.manual_seed(0)
    networks: dict[str, nn.Module] = {PARTS[k]: n for k, n in tiny_networks().items() if k in PARTS}
    encoder = SmallEncoderConfig(size=64, patch=32, channels=16, depth=1, heads=2)
    networks["picture/image_encoder"] = SmallImageEncoder(encoder)
    networks["latent/slat_encoder"] = LinearSLatEncoder(LinearCodeConfig(CHANNELS, 4))
    wide = SLatDecoderConfig(
        resolution=16, latent_channels=4, model_channels=256, num_blocks=1, num_heads=2
    )
    networks[PARTS["slat_decoder_mesh"]] = SLatMeshDecoder(wide)
    for stem, network in networks.items():
        save_model(network, work / stem)
    generator = np.random.default_rng(0)
    for kind, seed in NAMES:
        arrays: dict[str, dict[str, Any]] = {
            "structure": {"mean": generator.normal(size=(4, 4, 4, 4))},
            "latent": {"coords": np.eye(3, dtype=np.int8), "feats": generator.normal(size=(3, 4))},
            "tokens": {"tokens": generator.normal(size=(2, 4, 16))},
        }
        for folder, content in arrays.items():
            (work / "latents" / folder).mkdir(parents=True, exist_ok=True)
            np.savez(work / "latents" / folder / f"{kind}-{seed}.npz", **content)
    for stage, key in (("structure", "sparse_structure_flow_model"), ("latent", "slat_flow_model")):
        data = DataConfig(
            latents=str(work / "latents" / stage),
            conditions=str(work / "latents" / "tokens"),
            mean=(0.0,) * 4 if stage == "latent" else (),
            std=(1.0,) * 4 if stage == "latent" else (),
        )
        objective = ObjectiveConfig(guidance_scale=3.0, guidance_interval=(0.5, 1.0))
        recipe = DistillConfig(teacher=str(work / PARTS[key]), objective=objective, data=data)
        path = work / "latents" / f"{stage}-student.yaml"
        path.write_text(dump_config(recipe), encoding="utf-8")
    write_cells(cells / "cells-0000.npz", small_objects())
    return work, cells
