"""From trained autoencoders to what the flows are trained on: folders of latents and tokens.

    structure/NAME.npz  latent/NAME.npz  tokens/NAME.npz      as `scenes.objects.latent_folder`
    structure_encoder.* sparse_structure_decoder.*            rescaled: latents of unit size
    CONFIG.yaml                                               for `geo3d distill`, see `RECIPES`

The pipeline does not normalise structure latents, so their scale goes into the weights around them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from geo3d.config import config_to_dict, dump_config, load_config
from geo3d.files import atomic_path, atomic_write_text
from geo3d.progress import ProgressCallback, ignore_progress, report
from scenes.objects.condition import SmallImageEncoder
from scenes.objects.decoders import SLatEncoder
from scenes.objects.models import load_model, save_model
from scenes.objects.small.autoencoders import cell_features
from scenes.objects.small.cells import CellObject
from scenes.objects.small.settings import LATENT_FLOW, STRUCTURE_FLOW
from scenes.objects.ss_vae import SparseStructureDecoder, SparseStructureEncoder
from scenes.objects.train_config import DistillConfig

GUIDANCE_SCALE = 3.0
"""Of the teachers, over no image: the best of 1, 2, 3 and 5."""
INTERVAL = (0.5, 1.0)
"""Times at which they are guided."""
_STUDENT: Mapping[str, Any] = {
    "objective": {
        "kind": "velocity",
        "guidance_scale": GUIDANCE_SCALE,
        "guidance_interval": list(INTERVAL),
        "distillation_weight": 1.0,
        "derivative": {"norm": "unit_rms"},
        "time": {"kind": "uniform"},
    },
    "optimiser": {"learning_rate": 2e-4, "warmup_steps": 50, "decay": "cosine"},
    "batch": 16,
    "steps": 600,
    "log_every": 20,
    "checkpoint_every": 100,
}
_TEACHER: Mapping[str, Any] = {
    "objective": {"kind": "flow_matching", "drop_condition": 0.1},
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
    "structure-flow": {**_TEACHER, "network": "dense", "batch": 48, "steps": 2500},
    "latent-flow": {**_TEACHER, "network": "sparse", "batch": 8, "steps": 3000},
    "structure-student": {**_STUDENT, "network": "dense"},
    "latent-student": {**_STUDENT, "network": "sparse", "batch": 4, "steps": 500},
}
"""Settings of the four flows; folders and normalisation are filled in."""
TEACHER_OF = {"structure-student": "structure-flow", "latent-student": "latent-flow"}


def write_latents(
    objects: Sequence[CellObject], work: Path, progress: ProgressCallback = ignore_progress
) -> Path:
    """Write latents, tokens and settings of the flows to ``work/latents`` and return the folder.

    Args:
        objects: what to encode.
        work: folder of the trained stages.
        progress: hears of every object.

    Raises:
        CheckpointError: those of reading the networks.
    """
    out = work / "latents"
    structure = cast(SparseStructureEncoder, load_model(work / "structure" / "structure_encoder"))
    decoder = cast(
        SparseStructureDecoder, load_model(work / "structure" / "sparse_structure_decoder")
    )
    latent = cast(SLatEncoder, load_model(work / "latent" / "slat_encoder"))
    encoder = cast(SmallImageEncoder, load_model(work / "picture" / "image_encoder"))
    out.mkdir(parents=True, exist_ok=True)
    rescale(structure, decoder, structure_latents(structure, objects))
    save_model(structure, out / "structure_encoder")
    save_model(decoder, out / "sparse_structure_decoder")
    latents = structure_latents(structure, objects)
    sums, rows = torch.zeros(2, latents.shape[1], dtype=torch.float64), 0
    for i, item in enumerate(objects):
        with torch.no_grad():
            x = cell_features([item])
            feats = latent(x).feats
            tokens = encoder(torch.from_numpy(item.views).float().movedim(-1, 1) / 255)
        sums += torch.stack([feats.double().sum(0), feats.double().square().sum(0)])
        rows += len(feats)
        _write(out / "structure", item.name, mean=latents[i].numpy())
        _write(out / "latent", item.name, coords=item.coords, feats=feats.numpy())
        _write(out / "tokens", item.name, tokens=tokens.numpy().astype(np.float16))
        report(progress, "latents", i + 1, len(objects))
    mean = sums[0] / rows
    std = (sums[1] / rows - mean.square()).sqrt()
    write_recipes(work, (mean.tolist(), std.tolist()))
    return out


def write_recipes(work: Path, normalization: tuple[list[float], list[float]]) -> None:
    """Write the settings of the four flows, with the latents' mean and deviation."""
    latents = work / "latents"
    for name, settings in RECIPES.items():
        is_sparse = settings["network"] == "sparse"
        data: dict[str, Any] = {
            "latents": str(latents / ("latent" if is_sparse else "structure")),
            "conditions": str(latents / "tokens"),
        }
        if is_sparse:
            data |= {"mean": normalization[0], "std": normalization[1]}
        size = config_to_dict(LATENT_FLOW if is_sparse else STRUCTURE_FLOW)
        full = {**settings, "data": data}
        if name in TEACHER_OF:
            full["teacher"] = str(work / TEACHER_OF[name] / "outputs" / "student")
        else:
            full["arguments"] = [f"{key}={_argument(value)}" for key, value in size.items()]
        config = load_config(DistillConfig, presets={"recipe": full}, preset="recipe")
        atomic_write_text(latents / f"{name}.yaml", dump_config(config))


@torch.no_grad()
def structure_latents(
    encoder: SparseStructureEncoder, objects: Sequence[CellObject], batch: int = 64
) -> Float[Tensor, "b c r r r"]:
    """Return the structure's latent of every object."""
    grids = [torch.from_numpy(item.occupancy())[None].float() for item in objects]
    parts = [torch.stack(grids[i : i + batch]) for i in range(0, len(grids), batch)]
    return torch.cat([encoder(part).mean for part in parts])


@torch.no_grad()
def rescale(
    encoder: SparseStructureEncoder,
    decoder: SparseStructureDecoder,
    latents: Float[Tensor, "b c r r r"],
) -> None:
    """Divide the encoder's latents by their size per channel, and let the decoder undo it."""
    size = latents.square().mean((0, 2, 3, 4)).sqrt()
    last = cast(nn.Conv3d, encoder.out_layer[-1])
    means = slice(0, len(size))
    last.weight[means] /= size[:, None, None, None, None]
    if last.bias is not None:
        last.bias[means] /= size
    decoder.input_layer.weight *= size[None, :, None, None, None]


def _argument(value: Any) -> str:
    return (
        "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    )


def _write(folder: Path, name: str, **arrays: np.ndarray) -> None:
    folder.mkdir(exist_ok=True)
    with atomic_path(folder / f"{name}.npz") as temporary, open(temporary, "wb") as stream:
        np.savez(stream, **cast(Any, arrays))
