"""Training state on disk, its average, and the choice of processes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from geo3d import checkpoints
from geo3d.errors import BackendUnavailable, CheckpointError, ConfigError, NumericalError
from geo3d.work.processes import connect
from geo3d.work.state import (
    TrainingState,
    drop_state,
    load_state,
    previous,
    running_average,
    save_state,
)


def new_state(seed: int) -> TrainingState:
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.1)
    return TrainingState(network, optimizer, [running_average(network, lambda step: 0.9)])


def train(state: TrainingState, steps: int) -> None:
    for _ in range(steps):
        x = torch.randn(5, 3, generator=torch.Generator().manual_seed(state.step))
        state.optimizer.zero_grad()
        state.network(x).square().sum().backward()
        state.optimizer.step()
        state.update_averages()
        state.step += 1


def same(one: TrainingState, other: TrainingState) -> bool:
    a, b = one.tensors(), other.tensors()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_loaded_state_goes_on_bit_by_bit(tmp_path: Path) -> None:
    whole, part, other = new_state(0), new_state(0), new_state(1)
    train(whole, 7)
    train(part, 3)
    part.counts["generation"] = 2
    path = tmp_path / "s.safetensors"
    assert not load_state(path, other, {"a": 1})
    save_state(path, part, {"a": 1})
    assert load_state(path, other, {"a": 1})
    assert other.step == 3 and other.counts == {"generation": 2}
    train(other, 4)
    assert same(other, whole)


def test_other_settings_are_refused_but_a_lower_rate(tmp_path: Path) -> None:
    state, path = new_state(0), tmp_path / "s.safetensors"
    save_state(path, state, {"a": 1, "optimiser": {"learning_rate": 0.1}})
    for settings in (
        {"a": 2, "optimiser": {"learning_rate": 0.1}},
        {"a": 1, "optimiser": {"learning_rate": 0.2}},
        {"a": 1},
    ):
        with pytest.raises(CheckpointError, match="other_training"):
            load_state(path, state, settings)
    assert load_state(path, state, {"a": 1, "optimiser": {"learning_rate": 0.05}})


def damaged(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "torn":
        content = content[: len(content) // 2]
    elif how == "zeros":
        content[-64:] = bytes(64)
    elif how == "flipped":
        content[-9] ^= 4
    path.write_bytes(content)
    if how == "gone":
        path.unlink()


@pytest.mark.parametrize("how", ["torn", "zeros", "flipped", "gone"])
def test_the_generation_before_takes_the_place_of_a_damaged_one(how: str, tmp_path: Path) -> None:
    state, other, path = new_state(0), new_state(1), tmp_path / "s.safetensors"
    for step in (2, 4):
        train(state, 2)
        save_state(path, state, {})
        assert state.step == step
    damaged(path, how)
    assert load_state(path, other, {})
    assert other.step == 2
    train(other, 2)
    assert same(other, state)
    # what is written next is there again, and the good one is not lost
    damaged(previous(path), "torn" if path.is_file() else "gone")
    if path.is_file():
        with pytest.raises(CheckpointError, match="damaged"):
            load_state(path, other, {})
    save_state(path, other, {})
    assert load_state(path, new_state(2), {})
    drop_state(path)
    assert not load_state(path, other, {})


def test_what_is_not_finite_is_not_written(tmp_path: Path) -> None:
    state, path = new_state(0), tmp_path / "s.safetensors"
    save_state(path, state, {})
    before = path.read_bytes()
    with torch.no_grad():
        next(state.network.parameters())[0, 0] = torch.inf
    with pytest.raises(NumericalError, match="diverged"):
        save_state(path, state, {})
    assert path.read_bytes() == before and not previous(path).exists()


def test_a_checkpoint_without_its_weights_is_named(tmp_path: Path) -> None:
    state, path = new_state(0), tmp_path / "s.safetensors"
    other = TrainingState(state.network, state.optimizer)
    save_state(path, other, {})
    assert "average0.n_averaged" not in checkpoints.load(path).tensors
    with pytest.raises(CheckpointError, match="wrong_weights"):
        load_state(path, state, {})


def test_the_average_by_hand() -> None:
    network = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        network.weight.fill_(1.0)
    decays = {1: 0.75, 2: 0.5}
    average = running_average(network, decays.__getitem__)
    state = TrainingState(network, torch.optim.SGD(network.parameters(), 0.1), [average])
    for weight, wanted in ((2.0, 1.25), (3.0, 2.125)):
        with torch.no_grad():
            network.weight.fill_(weight)
        state.update_averages()
        assert average.module.weight.item() == wanted


def test_one_process_needs_no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    processes = connect(torch.device("cpu"), 3)
    assert (processes.rank, processes.count) == (0, 1)
    value = torch.ones(2, requires_grad=True)
    value.grad = torch.tensor([1.0, 2.0])
    processes.average_gradients([value])
    assert value.grad.tolist() == [1, 2] and processes.mean(value) is value


def test_many_processes_need_accelerate_and_even_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="bad_batch"):
        connect(torch.device("cpu"), 3)
    monkeypatch.setitem(sys.modules, "accelerate", None)  # as if it were not installed
    with pytest.raises(BackendUnavailable, match="accelerate_missing"):
        connect(torch.device("cpu"), 4)
