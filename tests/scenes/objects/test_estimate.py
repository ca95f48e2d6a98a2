"""Sizes and operations of the published networks, against counts made elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from object_pipelines import tiny_pipeline

from geo3d.config import config_to_dict
from scenes.objects.estimate import _work, estimate, flow_block_flops, measured_rate
from scenes.objects.models import parameter_counts, read_description, save_model
from scenes.objects.pipeline import GenerateConfig, Pipeline
from scenes.objects.slat_flow import SLatFlowConfig
from scenes.objects.ss_flow import SSFlowConfig
from scenes.objects.ss_vae import SSDecoderConfig, SSEncoderConfig


@pytest.mark.parametrize(
    ("name", "config", "parameters", "tera"),
    [
        ("SparseStructureFlowModel", SSFlowConfig(), 555_543_560, 5.227),
        ("SLatFlowModel", SLatFlowConfig(), 600_432_520, 3.44),
        ("SparseStructureDecoder", SSDecoderConfig(), 73_671_201, 0.81),
        ("SparseStructureEncoder", SSEncoderConfig(), 59_298_192, None),
    ],
)
def test_published_sizes(name: str, config: object, parameters: int, tera: float | None) -> None:
    args = config_to_dict(config)
    assert sum(parameter_counts({"name": name, "args": args})) == parameters
    if tera is not None:
        assert _work(name, args)[0] / 1e12 == pytest.approx(tera, rel=0.03)


def test_a_block_counted_by_hand() -> None:
    # 34.4 + 68.7 + 22.9 + 23.1 + 68.7 thousand million.
    assert flow_block_flops(4096, 1024, (1374, 1024), 4) == pytest.approx(217.8e9, rel=1e-3)


def test_an_estimate_adds_up() -> None:
    pipeline, config = tiny_pipeline(), GenerateConfig()
    whole = estimate(pipeline, config, 1, 1e9)
    counted = sum(
        p.numel()
        for key, network in pipeline.networks.items()
        if key != "slat_decoder_rf" and isinstance(network, torch.nn.Module)
        for p in network.parameters()
    )
    assert sum(row["parameters"] for row in whole["networks"]) == counted
    assert sum(row["bytes"] for row in whole["networks"]) == 4 * counted
    four = estimate(pipeline, config, 4, 1e9)
    assert four["flops"] == 4 * whole["flops"] and four["seconds"] == four["flops"] / 1e9
    lean = Pipeline(
        pipeline.networks,
        lambda: pytest.fail("not needed"),
        pipeline.samplers,
        ([0.0], [1.0]),
        low_memory=True,
        torso=torch.float16,
    )
    assert estimate(lean, config, 1, 1e9)["peak_bytes"] < whole["peak_bytes"]


def test_the_rate_is_measured() -> None:
    assert measured_rate(torch.device("cpu"), torch.float32, 64) > 1e6


def test_a_model_file_may_leave_settings_out_and_say_elastic(tmp_path: Path) -> None:
    """As training configurations upstream name networks, and as those write no defaults."""
    pipeline = tiny_pipeline()
    stems: dict[str, torch.nn.Module | Path] = {}
    for key, network in pipeline.networks.items():
        assert isinstance(network, torch.nn.Module)
        save_model(network, tmp_path / key)
        stems[key] = tmp_path / key
        description = read_description(tmp_path / key)
        if description["name"].startswith("SLat"):
            description["name"] = f"Elastic{description['name']}"
        if "mlp_ratio" in description["args"]:
            assert description["args"].pop("mlp_ratio") == 4
        (tmp_path / f"{key}.json").write_text(json.dumps(description))
    on_disk = Pipeline(stems, lambda: pytest.fail("not needed"), pipeline.samplers, ([0.0], [1.0]))
    config = GenerateConfig()
    assert (
        estimate(on_disk, config, 1, 1e9)["networks"]
        == (estimate(pipeline, config, 1, 1e9)["networks"])
    )
