"""Small folders of latents, and small networks, for tests of training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from scenes.objects.models import save_model
from scenes.objects.slat_flow import SLatFlowConfig, SLatFlowModel
from scenes.objects.ss_flow import SparseStructureFlowModel, SSFlowConfig

TINY = {"model_channels": 24, "cond_channels": 6, "num_blocks": 1, "num_heads": 2, "mlp_ratio": 2.0}
DENSE = SSFlowConfig(resolution=4, in_channels=2, out_channels=2, **TINY)
SPARSE = SLatFlowConfig(
    resolution=8, in_channels=2, out_channels=2, io_block_channels=(8,), patch_size=2, **TINY
)


def write_latents(folder: Path, kind: str, n: int = 9) -> dict[str, str]:
    """Write ``n`` items and return the settings that name them."""
    rng = np.random.default_rng(0)
    for sub in ("latents", "conditions"):
        (folder / sub / "some").mkdir(parents=True, exist_ok=True)
    for i in range(n):
        tokens = rng.standard_normal((2, 3, 6)).astype(np.float16)
        level = float(tokens[0].mean())
        np.savez(folder / "conditions" / "some" / f"item{i}.npz", tokens=tokens)
        path = folder / "latents" / "some" / f"item{i}.npz"
        if kind == "dense":
            np.savez(path, mean=(level + 0.3 * rng.standard_normal((2, 4, 4, 4))).astype("f4"))
        else:
            cells = np.argwhere(rng.random((8, 8, 8)) < 0.02 + 0.01 * (i % 4)).astype(np.uint8)
            feats = level + 0.3 * rng.standard_normal((len(cells), 2))
            np.savez(path, coords=cells, feats=feats.astype("f4"))
    return {"latents": str(folder / "latents"), "conditions": str(folder / "conditions")}


def write_teacher(folder: Path, kind: str) -> str:
    """Write a teacher with random weights, none of them zero; return its stem."""
    network: torch.nn.Module
    if kind == "dense":
        network = SparseStructureFlowModel(DENSE, torch.Generator().manual_seed(1))
    else:
        network = SLatFlowModel(SPARSE, torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    save_model(network, folder / f"teacher_{kind}")
    return str(folder / f"teacher_{kind}")


def settings(folder: Path, kind: str, **changes: Any) -> dict[str, Any]:
    """Return the settings of a training of seconds."""
    return {
        "teacher": write_teacher(folder, kind),
        "data": write_latents(folder, kind),
        "batch": 4,
        "split": 2,
        "steps": 4,
        "log_every": 2,
        "checkpoint_every": 2,
        "optimiser": {"learning_rate": 1e-3, "average_rates": [0.9]},
        **changes,
    }
