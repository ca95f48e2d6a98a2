"""What the flows are trained on: folders of latents, and of tokens with the encoder's guess.

structure/NAME.npz  latent/NAME.npz  tokens/NAME.npz      as `scenes.objects.latent_folder`
CONFIG.yaml                                               for `geo3d distill`, see `RECIPES`
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from geo3d.config import config_to_dict, dump_config, load_config
from geo3d.files import atomic_path, atomic_write_text
from geo3d.progress import ProgressCallback, ignore_progress, report
from scenes.objects.lifting import LiftingEncoder
from scenes.objects.linear_code import LinearSLatEncoder
from scenes.objects.models import load_model
from scenes.objects.small.autoencoders import cell_features, structure_latents
from scenes.objects.small.cells import CellObject
from scenes.objects.small.settings import (
    LATENT_CHANNELS,
    LATENT_FLOW,
    STRUCTURE_FLOW,
    LatentsConfig,
)
from scenes.objects.train_config import DistillConfig

GUIDANCE_SCALE = 1.0
"""Of the teachers: a flow around a guess knows nothing of pictures without one."""
INTERVAL = (0.5, 1.0)
"""Times at which they are guided."""
_STUDENT: Mapping[str, Any] = {
    # near noise alone: what one step from there says is the mean of what may be
    "objective": {
        "kind": "flow_matching",
        "drop_condition": 0.0,
        "time": {"kind": "logit_normal", "mean": 4.0, "std": 1.0},
    },
    "optimiser": {"learning_rate": 5e-4, "warmup_steps": 10, "decay": "cosine"},
    "log_every": 20,
    "checkpoint_every": 100,
}
_TEACHER: Mapping[str, Any] = {
    "objective": {"kind": "flow_matching", "drop_condition": 0.0},
    "optimiser": {
        "learning_rate": 1e-3,
        "warmup_steps": 100,
        "decay": "cosine",
        "weight_decay": 0.01,
    },
    "log_every": 20,
    "checkpoint_every": 200,
}
RECIPES: Mapping[str, Mapping[str, Any]] = {
    "structure-flow": {**_TEACHER, "network": "dense", "batch": 24, "steps": 1200},
    "latent-flow": {**_TEACHER, "network": "sparse", "batch": 8, "steps": 900},
    "structure-student": {**_STUDENT, "network": "dense", "batch": 24, "steps": 140},
    "latent-student": {**_STUDENT, "network": "sparse", "batch": 8, "steps": 110},
}
"""Settings of the four flows; folders and normalisation are filled in."""
TEACHER_OF = {"structure-student": "structure-flow", "latent-student": "latent-flow"}


def write_latents(
    objects: Sequence[CellObject],
    work: Path,
    progress: ProgressCallback = ignore_progress,
    config: LatentsConfig = LatentsConfig(),  # noqa: B008
) -> Path:
    """Write latents, tokens and settings of the flows to ``work/latents`` and return the folder.

    Args:
        objects: what there is to encode.
        work: folder of the trained stages.
        progress: hears of every object.
        config: which of the objects, and how many views.

    Raises:
        CheckpointError: those of reading the networks.
    """
    out = work / "latents"
    latent = cast(LinearSLatEncoder, load_model(work / "latent" / "slat_encoder"))
    encoder = cast(LiftingEncoder, load_model(work / "picture" / "image_encoder"))
    out.mkdir(parents=True, exist_ok=True)
    objects = objects[config.skip :][: config.objects]
    for i, item in enumerate(objects):
        with torch.no_grad():
            grid = structure_latents(torch.from_numpy(item.occupancy())[None])[0]
            feats = latent(cell_features([item])).feats
            pixels = torch.from_numpy(item.views[: config.views]).float().movedim(-1, 1) / 255
            tokens = encoder(pixels)
        _write(out / "structure", item.name, mean=grid.numpy().astype(np.float16))
        _write(out / "latent", item.name, coords=item.coords, feats=feats.numpy())
        _write(out / "tokens", item.name, tokens=tokens.numpy().astype(np.float16))
        report(progress, "latents", i + 1, len(objects))
    write_recipes(work)
    return out


def write_recipes(work: Path) -> None:
    """Write the settings of the four flows; latents come normalised."""
    latents = work / "latents"
    for name, settings in RECIPES.items():
        is_sparse = settings["network"] == "sparse"
        data: dict[str, Any] = {
            "latents": str(latents / ("latent" if is_sparse else "structure")),
            "conditions": str(latents / "tokens"),
        }
        if is_sparse:
            data |= {"mean": [0.0] * LATENT_CHANNELS, "std": [1.0] * LATENT_CHANNELS}
        size = config_to_dict(LATENT_FLOW if is_sparse else STRUCTURE_FLOW)
        full = {**settings, "data": data}
        if name in TEACHER_OF:
            full["student"] = str(work / TEACHER_OF[name] / "outputs" / "student")
        else:
            full["arguments"] = [f"{key}={_argument(value)}" for key, value in size.items()]
        config = load_config(DistillConfig, presets={"recipe": full}, preset="recipe")
        atomic_write_text(latents / f"{name}.yaml", dump_config(config))


def _argument(value: Any) -> str:
    return (
        "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    )


def _write(folder: Path, name: str, **arrays: np.ndarray) -> None:
    folder.mkdir(exist_ok=True)
    with atomic_path(folder / f"{name}.npz") as temporary, open(temporary, "wb") as stream:
        np.savez(stream, **cast(Any, arrays))
