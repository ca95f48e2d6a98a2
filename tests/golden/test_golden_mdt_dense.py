"""Golden cases of the dense half of the object pipeline, made by running the published code.

Found by listing the folder GEO3D_GOLDEN (default: the shared one beside the checkout), and the
small copy in this repository.  A file that is not understood is a failure.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from geo3d.config import config_from_dict
from scenes.objects.embeddings import patchify, position_sinusoids, time_sinusoids, unpatchify
from scenes.objects.gaussians import hammersley
from scenes.objects.image import prepare_image
from scenes.objects.precision import set_torso
from scenes.objects.samplers import Conditions, SamplerConfig, sample, upstream_to_sampler
from scenes.objects.sparse import SparseTensor
from scenes.objects.ss_flow import SparseStructureFlowModel, SSFlowConfig
from scenes.objects.ss_vae import (
    SparseStructureDecoder,
    SparseStructureEncoder,
    SSDecoderConfig,
    SSEncoderConfig,
    active_voxels,
)

HERE = Path(__file__).parent
SHARED = Path(os.environ.get("GEO3D_GOLDEN", HERE.parents[2] / "shared" / "golden"))
FOLDERS = ("embeddings", "ss_flow", "ss_vae", "samplers", "preprocess")


def close(found: Tensor, expected: Tensor, rtol: float = 1e-4, atol: float = 2e-5) -> None:
    torch.testing.assert_close(found, expected, rtol=rtol, atol=atol)


def read(path: Path) -> tuple[dict, dict[str, Tensor], dict[str, Tensor]]:
    """Return the description of a model, its inputs and outputs, and its weights."""
    stem = path.name.removesuffix(".io.safetensors")
    description = json.loads(path.with_name(f"{stem}.json").read_text())
    weights = load_file(path.with_name(f"{stem}.weights.safetensors"))
    return description, load_file(path), {name: w.float() for name, w in weights.items()}


@torch.no_grad()
def check_flow(path: Path) -> None:
    description, case, weights = read(path)
    args = description["args"]
    network = SparseStructureFlowModel(config_from_dict(SSFlowConfig, args))
    close(network.get_buffer("pos_emb"), weights["pos_emb"], atol=1e-6)
    network.load_state_dict(weights)
    half = args.get("use_fp16", False)
    if half:
        set_torso(network, torch.float16)
    outputs: dict[str, Tensor] = {}
    for key in (key for key in case if key.startswith("inter.")):
        watched = network.get_submodule(inner_module(key))
        watched.register_forward_hook(lambda _m, _i, out, key=key: outputs.update({key: out}))
    close(network(case["x"], case["t"], case["cond"]), case["out"], atol=2e-2 if half else 2e-5)
    for key, found in outputs.items():
        if told := re.search(r"_first(\d+)tokens$", key):
            found = found[:, : int(told[1])]
        close(found, case[key], atol=2e-2 if half else 2e-5)


def inner_module(key: str) -> str:
    """Return the module whose output ``inter.block0_self_attn_out_first64tokens`` keeps."""
    name = re.sub(r"_first\d+tokens$", "", key.removeprefix("inter."))
    told = re.fullmatch(r"block(\d+)_(?:(\w+)_)?out", name)
    if told:
        return ".".join(["blocks", *(part for part in told.groups() if part)])
    return {"t_emb": "t_embedder"}.get(name, name)


@torch.no_grad()
def check_vae(path: Path) -> None:
    description, case, weights = read(path)
    if description["name"] == "SparseStructureDecoder":
        decoder = SparseStructureDecoder(config_from_dict(SSDecoderConfig, description["args"]))
        decoder.load_state_dict(weights)
        logits = decoder(case["z"])
        close(logits, case["logits"])
        assert torch.equal(active_voxels(case["logits"]), case["coords"])
        return
    encoder = SparseStructureEncoder(config_from_dict(SSEncoderConfig, description["args"]))
    encoder.load_state_dict(weights)
    posterior = encoder(case["occ"].float())
    close(posterior.mean, case["mean"])
    close(posterior.logvar, case["logvar"])
    close(posterior.mean, case["z"])


def check_embeddings(path: Path) -> None:
    case = load_file(path)
    for key, expected in case.items():
        told = re.fullmatch(r"([a-z_]+?(?:3d_|y3_|y_)?)(\d+)", key)
        kind, n = (told[1].rstrip("_"), int(told[2])) if told else (key, 0)
        if kind == "t_freq":
            close(time_sinusoids(case["t"], n), expected, atol=1e-4)
        elif kind == "ape":
            close(position_sinusoids(case["coords"], n), expected, atol=1e-6)
        elif kind == "patchify":
            close(patchify(case["x"], n), expected, rtol=0, atol=0)
        elif kind == "pixel_shuffle_3d":
            close(unpatchify(case["y"], n), expected, rtol=0, atol=0)
        elif kind == "hammersley3":
            found = torch.tensor([hammersley(i, n) for i in range(n)], dtype=expected.dtype)
            close(found, expected, atol=1e-6)
        else:
            # the views' own spread over the sphere is not ours
            assert kind in ("t", "coords", "x", "y", "sphere_hammersley"), f"{key}: not understood"


class Field:
    """The analytic field of the cases, which counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, x: Tensor, steps: Tensor, cond: Tensor) -> Tensor:
        self.calls += 1
        t = (steps / 1000).view(-1, *[1] * (x.ndim - 1))
        c = cond.view(*cond.shape, *[1] * (x.ndim - 2))
        return 0.7 * x + torch.sin(3 * t) * c + 0.2 * torch.tanh(x) * torch.cos(t)

    def sparse(self, x: SparseTensor, steps: Tensor, cond: Tensor) -> SparseTensor:
        item = x.batch_index
        t = steps[item]
        return x.replace(self(x.feats, t, cond[item]))


def settings(row: dict) -> SamplerConfig:
    """Return the settings of a case."""
    return upstream_to_sampler(
        row["sampler"],
        {key: value for key, value in row.items() if value is not None},
        row.get("sigma_min", 1e-5),
    )


def check_dense_samplers(path: Path) -> None:
    case = load_file(path)
    rows = json.loads(path.with_suffix(".json").read_text())
    for name, row in rows.items():
        n = row["cond_batch"]
        config, field = settings(row), Field()
        close(
            torch.tensor(config.times(), dtype=torch.float64),
            case[f"{name}.t_seq"],
            rtol=0,
            atol=1e-12,
        )
        for together in (False, True):
            found = sample(
                field,
                case["noise"],
                Conditions([case["cond"][:n]], case["neg_cond"][:n]),
                config,
                together=together,
                record=True,
            )
            close(found.x, case[f"{name}.samples"], 1e-5, 1e-5)
            close(
                torch.stack([step.x for step in found.steps]), case[f"{name}.pred_x_t"], 1e-5, 1e-5
            )
            close(
                torch.stack([step.estimate for step in found.steps]),
                case[f"{name}.pred_x_0"],
                1e-5,
                1e-5,
            )
            if not together:
                # A guidance of 1 makes the second call vanish; the published code makes it.
                unguided = config.guidance_scale in (None, 1.0)
                assert found.calls == (row["steps"] if unguided else row["model_calls"])
                assert found.calls == field.calls
                field.calls = 0


def check_multi_image(path: Path) -> None:
    case = load_file(path)
    described = path.with_suffix(".json")
    # The settings are those of the cases' description where the case does not tell them.
    row = {"sampler": "FlowEulerGuidanceIntervalSampler", "rescale_t": 3.0, "cfg_strength": 5.0,
           "cfg_interval": [0.5, 1.0], "steps": len(case["stochastic.pred_x_t"])}  # fmt: skip
    config = settings(row | (json.loads(described.read_text()) if described.is_file() else {}))
    images = [row[None] for row in case["cond"]]
    for mode in ("stochastic", "multidiffusion"):
        for together in (False, True):
            found = sample(
                Field(),
                case["noise"],
                Conditions(images, case["neg_cond"], mode),
                config,
                together=together,
                record=True,
            )
            close(found.x, case[f"{mode}.samples"], 1e-5, 1e-5)
            close(
                torch.stack([step.x for step in found.steps]), case[f"{mode}.pred_x_t"], 1e-5, 1e-5
            )


def check_sparse_samplers(path: Path) -> None:
    case = load_file(path)
    rows = json.loads(path.with_suffix(".json").read_text())
    noise = SparseTensor(case["noise_feats"], case["coords"])
    for name, row in rows.items():
        for together in (False, True):
            found = sample(
                Field().sparse,
                noise,
                Conditions([case["cond"]], case["neg_cond"]),
                settings(row),
                together=together,
                record=True,
            )
            close(found.x.feats, case[f"{name}.samples"], 1e-5, 1e-5)
            close(found.steps[0].x.feats, case[f"{name}.pred_x_t_first"], 1e-5, 1e-5)
            close(found.steps[-1].estimate.feats, case[f"{name}.pred_x_0_last"], 1e-5, 1e-5)
    raw = SparseTensor(case["denorm_in"], case["coords"])
    close((raw * case["denorm_std"] + case["denorm_mean"]).feats, case["denorm_out"], 1e-5, 1e-5)


def check_preprocess(path: Path) -> None:
    expected = np.asarray(Image.open(path.with_name(path.name.replace(".in.", ".out."))))
    found = np.asarray(prepare_image(Image.open(path)))
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).max() <= 1


KINDS: dict[str, Callable[[Path], None]] = {
    "embeddings/*.safetensors": check_embeddings,
    "ss_flow/*.io.safetensors": check_flow,
    "ss_vae/*.io.safetensors": check_vae,
    "samplers/dense*.safetensors": check_dense_samplers,
    "samplers/multi_image*.safetensors": check_multi_image,
    "samplers/sparse*.safetensors": check_sparse_samplers,
    "preprocess/*.in.png": check_preprocess,
}
"""Which function checks which file."""

READ_WITH_ANOTHER = ("*.json", "*.weights.safetensors", "preprocess/*.out.png")
"""What the check of another file reads."""


def golden_files() -> list[Path]:
    """List the cases that can be checked."""
    found = []
    for root in (SHARED / "mdt", HERE / "mdt"):
        for folder in FOLDERS:
            for path in sorted((root / folder).glob("*")):
                name = f"{folder}/{path.name}"
                if not any(fnmatch(name, pattern) for pattern in READ_WITH_ANOTHER):
                    found.append(path)
    return found


@pytest.mark.golden
@pytest.mark.parametrize("path", golden_files(), ids=lambda p: f"{p.parent.name}/{p.name}")
def test_golden_case(path: Path) -> None:
    name = f"{path.parent.name}/{path.name}"
    kinds = [check for pattern, check in KINDS.items() if fnmatch(name, pattern)]
    assert len(kinds) == 1, f"{name}: not understood"
    kinds[0](path)
