"""Training state on disk, its average, and the choice of processes."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from geo3d.errors import BackendUnavailable, CheckpointError
from geo3d.work.processes import Alone, connect
from geo3d.work.state import TrainingState, load_state, save_state, update_average


def new_state(seed: int) -> TrainingState:
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    ema = copy.deepcopy(network).requires_grad_(False)
    return TrainingState(network, ema, torch.optim.Adam(network.parameters(), lr=0.1))


def train(state: TrainingState, steps: int) -> None:
    for _ in range(steps):
        x = torch.randn(5, 3, generator=torch.Generator().manual_seed(state.step))
        state.optimizer.zero_grad()
        state.network(x).square().sum().backward()
        state.optimizer.step()
        update_average(state, 0.9)
        state.step += 1


def test_a_loaded_state_goes_on_bit_by_bit(tmp_path: Path) -> None:
    whole, part, other = new_state(0), new_state(0), new_state(1)
    train(whole, 7)
    train(part, 3)
    save_state(tmp_path / "s.safetensors", part, {"a": 1})
    load_state(tmp_path / "s.safetensors", other, {"a": 1})
    assert other.step == 3
    train(other, 4)
    for mine, theirs in ((other.network, whole.network), (other.ema, whole.ema)):
        for name, tensor in mine.state_dict().items():
            assert torch.equal(tensor, theirs.state_dict()[name]), name


def test_other_settings_are_refused(tmp_path: Path) -> None:
    state = new_state(0)
    save_state(tmp_path / "s.safetensors", state, {"a": 1})
    with pytest.raises(CheckpointError, match="other_training"):
        load_state(tmp_path / "s.safetensors", state, {"a": 2})


def test_the_average_by_hand() -> None:
    state = new_state(0)
    weight = next(state.network.parameters())
    average = next(state.ema.parameters())
    with torch.no_grad():
        weight.fill_(2.0)
        average.fill_(1.0)
    update_average(state, 0.75)
    assert torch.equal(average, torch.full_like(average, 1.25))


def test_one_process_needs_no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    processes = connect(torch.device("cpu"))
    assert isinstance(processes, Alone)
    assert processes.count == 1


def test_many_processes_need_accelerate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setitem(sys.modules, "accelerate", None)  # as if it were not installed
    with pytest.raises(BackendUnavailable, match="accelerate_missing"):
        connect(torch.device("cpu"))
