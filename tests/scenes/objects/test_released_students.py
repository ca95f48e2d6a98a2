"""Students released as ``.pt`` state dicts: converted, put beside a published folder, and run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from object_pipelines import cut_out_image, tiny_pipeline
from torch import nn

from apps.cli import main
from geo3d.errors import CheckpointError
from scenes.objects.pipeline import GenerateConfig, load_pipeline

CONFIG = GenerateConfig(outputs=())
KEYS = ("sparse_structure_flow_model", "slat_flow_model")


def moved(network: nn.Module) -> dict[str, torch.Tensor]:
    """Return weights a little beside the network's, the torso in half precision as released."""
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, tensor in network.state_dict().items():
        noise = 0.05 * torch.randn(tensor.shape, generator=generator)
        is_torso = "blocks." in name and tensor.ndim >= 2
        weights[name] = (tensor + noise).half() if is_torso else tensor + noise
    return weights


def test_students_replace_the_flows_of_a_folder(tmp_path: Path) -> None:
    pipeline = tiny_pipeline()
    pipeline.save(tmp_path / "model")
    before = load_pipeline(tmp_path / "model").generate([cut_out_image()], [1], CONFIG)
    for key in KEYS:
        network = pipeline.networks[key]
        assert isinstance(network, nn.Module)
        weights = moved(network)
        torch.save(weights, tmp_path / f"{key}.pt")
        network.load_state_dict(weights)
        target = tmp_path / "model" / "ckpts" / f"{key}.safetensors"
        target.unlink()
        code = main(["convert", str(tmp_path / f"{key}.pt"), "--out", str(target), "--json"])
        assert code == 0
    (wanted,) = pipeline.generate([cut_out_image()], [1], CONFIG).objects
    (made,) = load_pipeline(tmp_path / "model").generate([cut_out_image()], [1], CONFIG).objects
    assert torch.equal(made.structure, wanted.structure)
    assert not torch.equal(made.structure, before.objects[0].structure)
    assert made.latent is not None and wanted.latent is not None
    assert torch.equal(made.latent.feats, wanted.latent.feats)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    pipeline = tiny_pipeline()
    pipeline.save(tmp_path)
    folder = tmp_path / "ckpts"
    (folder / f"{KEYS[0]}.safetensors").write_bytes(
        (folder / f"{KEYS[1]}.safetensors").read_bytes()
    )
    with pytest.raises(CheckpointError):
        load_pipeline(tmp_path).generate([cut_out_image()], [1], CONFIG)
