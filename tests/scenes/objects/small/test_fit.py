"""The loop of the autoencoders goes on bit by bit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from geo3d.errors import Cancelled, CheckpointError, ConfigError, NumericalError
from scenes.objects.small.fit import fit
from scenes.objects.small.settings import StageConfig

CONFIG = StageConfig(steps=12, batch=2, learning_rate=0.05, warmup_steps=2, log_every=3)


class Line:
    """A linear layer learns y = 2 x + noise."""

    def __init__(self, fails: bool = False) -> None:
        torch.manual_seed(0)
        self.names = ["a", "b", "c"]
        self.network = nn.ModuleDict({"layer": nn.Linear(1, 1)})
        self.fails = fails

    def loss(self, items: list[int], generator: torch.Generator) -> dict[str, Tensor]:
        x = torch.tensor(items).float()[:, None]
        noise = 0.1 * torch.randn(x.shape, generator=generator)
        error = (self.network["layer"](x) - 2 * x + noise).square().mean()
        return {"error": error / 0 if self.fails else error}


def weights(network: nn.Module) -> Tensor:
    return torch.cat([p.flatten() for p in network.parameters()])


def test_a_cancelled_training_goes_on_bit_by_bit(tmp_path: Path) -> None:
    whole, numbers = fit(Line(), CONFIG, tmp_path / "whole")
    assert numbers["step"] == 12

    def stop(event: Mapping[str, Any]) -> None:
        if event["step"] == 5:
            raise Cancelled

    with pytest.raises(Cancelled):
        fit(Line(), CONFIG, tmp_path / "parts", progress=stop)
    again, _ = fit(Line(), CONFIG, tmp_path / "parts")
    assert torch.equal(weights(again), weights(whole))


def test_it_learns_and_logs(tmp_path: Path) -> None:
    lines: list[dict] = []
    config = replace(CONFIG, steps=300, average_rate=0.9)
    network, _ = fit(Line(), config, tmp_path, lines.append)  # type: ignore[arg-type]
    assert abs(float(weights(network)[0]) - 2) < 0.2
    assert lines[-1]["loss"] < lines[0]["loss"] and len(lines) == 100


def test_other_settings_and_no_number_are_named(tmp_path: Path) -> None:
    fit(Line(), CONFIG, tmp_path)
    with pytest.raises(CheckpointError) as caught:
        fit(Line(), replace(CONFIG, learning_rate=0.1), tmp_path)
    assert caught.value.code == "checkpoint.other_training"
    with pytest.raises(NumericalError) as broken:
        fit(Line(fails=True), CONFIG, tmp_path / "broken")
    assert broken.value.code == "training.diverged"
    with pytest.raises(ConfigError):
        StageConfig(steps=0)
