"""Training of a prior: it learns, it resumes bit by bit, it holds out whole creatures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from prior_helpers import NETWORK, write_maps

from apps.cli import main
from geo3d import checkpoints
from geo3d.config import load_config
from geo3d.distill.preconditioning import EDM, IDDPM
from geo3d.errors import Cancelled, CheckpointError, ConfigError, InputError, NumericalError
from shape_matching.prior.prior import load_prior
from shape_matching.prior.splits import held_out_rows, load_split
from shape_matching.prior.training import (
    PRESETS,
    PriorTrainingConfig,
    ema_beta,
    learning_rate,
    train_prior,
)


@pytest.fixture(scope="module")
def maps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of 60 maps of 10 creatures."""
    return write_maps(tmp_path_factory.mktemp("maps"))


def short(maps: Path, **changes: Any) -> PriorTrainingConfig:
    """Return settings of a training of a second."""
    config = PriorTrainingConfig(
        data=str(maps),
        network=NETWORK,
        preconditioning="edm",
        loss="edm",
        samples=160,
        batch=16,
        warmup_samples=32,
        decay="cosine",
        ema_halflife_samples=32,
        validation_share=0.2,
        log_every=2,
        validate_every=4,
    )
    return replace(config, **changes)


def test_it_learns(maps: Path, tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = []
    config = short(maps, samples=3200, validate_every=20, learning_rate=1e-2)
    train_prior(config, tmp_path, device="cpu", log_metrics=lambda m: lines.append(dict(m)))
    errors = [line["error_0.3"] for line in lines if "error_0.3" in line]
    assert errors[-1] < 0.6 * errors[0]
    # Doing nothing leaves the noise, 0.3^2.
    assert errors[-1] < 0.25 * 0.09
    prior = load_prior(tmp_path / "prior.safetensors")
    assert prior.info["steps"] == 200
    assert prior.info["training"]["samples"] == 3200
    squares = load_split(str(maps), 8, 0.2, 0).train.square()
    assert prior.preconditioning == EDM(round(squares.mean().sqrt().item(), 4))
    moment = torch.tensor(prior.info["second_moment"])
    torch.testing.assert_close(moment, squares.mean(dim=(0, 1)), rtol=1e-4, atol=1e-7)


def stop_at(step: int):
    """Return a listener that cancels after ``step`` steps."""

    def tell(event: Mapping[str, Any]) -> None:
        if event["step"] == step:
            raise Cancelled()

    return tell


def test_interrupted_and_resumed_is_the_same_bit_by_bit(maps: Path, tmp_path: Path) -> None:
    config = short(maps)
    train_prior(config, tmp_path / "whole", device="cpu")
    for step in (3, 8):
        with pytest.raises(Cancelled):
            train_prior(config, tmp_path / "parts", device="cpu", progress=stop_at(step))
    train_prior(config, tmp_path / "parts", device="cpu")
    for name in ("checkpoint.safetensors", "prior.safetensors"):
        whole = checkpoints.load(tmp_path / "whole" / name).tensors
        parts = checkpoints.load(tmp_path / "parts" / name).tensors
        assert whole.keys() == parts.keys()
        assert all(torch.equal(tensor, parts[n]) for n, tensor in whole.items()), name


def test_a_checkpoint_is_written_when_its_time_has_come(maps: Path, tmp_path: Path) -> None:
    steps = []

    def look(event: Mapping[str, Any]) -> None:
        steps.append(checkpoints.load(tmp_path / "checkpoint.safetensors").config["step"])

    train_prior(short(maps, checkpoint_seconds=0.0), tmp_path, device="cpu", progress=look)
    # written once the next step has shown that the state is good
    assert steps == list(range(10))


def test_another_training_does_not_go_on_from_it(maps: Path, tmp_path: Path) -> None:
    config = short(maps)
    train_prior(config, tmp_path, device="cpu")
    with pytest.raises(CheckpointError, match="other_training"):
        train_prior(replace(config, learning_rate=2e-3), tmp_path, device="cpu")
    others = write_maps(tmp_path / "other", n=40)
    with pytest.raises(CheckpointError, match="other_training"):
        train_prior(replace(config, data=str(others)), tmp_path, device="cpu")


def test_published_recipe_runs_too(maps: Path, tmp_path: Path) -> None:
    config = short(maps, preconditioning="iddpm", loss="vp", decay="constant", samples=32)
    numbers = train_prior(config, tmp_path, device="cpu")
    assert np.isfinite(numbers["loss"])
    assert load_prior(tmp_path / "prior.safetensors").preconditioning == IDDPM()


def test_an_exploding_training_stops(maps: Path, tmp_path: Path) -> None:
    config = short(maps, learning_rate=1e20, warmup_samples=0, samples=1600)
    with pytest.raises(NumericalError, match="diverged"):
        train_prior(config, tmp_path, device="cpu")


def test_schedules_by_hand() -> None:
    config = PriorTrainingConfig(
        samples=1100, batch=10, warmup_samples=100, decay="cosine", ema_halflife_samples=20
    )
    assert learning_rate(config, 50) == pytest.approx(0.5e-3)
    assert learning_rate(config, 100) == pytest.approx(1e-3)
    assert learning_rate(config, 600) == pytest.approx(0.5e-3)
    assert learning_rate(config, 1100) == pytest.approx(0, abs=1e-12)
    assert ema_beta(config, 0) == 0
    assert ema_beta(config, 200) == pytest.approx(0.5)
    assert ema_beta(config, 10_000) == pytest.approx(0.5**0.5)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_valid(name: str) -> None:
    assert load_config(PriorTrainingConfig, preset=name).steps > 0


@pytest.mark.parametrize(
    "values",
    [{"batch": 0}, {"learning_rate": 0.0}, {"validation_share": 1.0}, {"ema_rampup": -1.0}],
)
def test_settings_out_of_range_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="bad_value"):
        PriorTrainingConfig(**values)


def test_whole_creatures_are_held_out() -> None:
    groups = np.repeat([7, 3, 9, 4, 1], 6)
    held = held_out_rows(groups, 0.4, seed=0)
    assert held.sum() == 12
    assert not set(groups[held]) & set(groups[~held])
    assert np.array_equal(held, held_out_rows(groups, 0.4, seed=0))
    assert any(not np.array_equal(held, held_out_rows(groups, 0.4, seed=s)) for s in range(1, 9))


def test_one_creature_cannot_be_split() -> None:
    with pytest.raises(InputError, match="one_creature"):
        held_out_rows(np.zeros(9), 0.1, 0)


def test_a_split_needs_a_folder() -> None:
    with pytest.raises(ConfigError, match="no_data"):
        load_split("", 8, 0.1, 0)


def test_the_command_trains_resumes_and_evaluates(
    maps: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = (
        "network.size=8 network.patch=4 network.width=16 network.depth=1 network.heads=2 "
        "samples=320 batch=16 warmup_samples=32 validation_share=0.2 log_every=5 validate_every=10"
    )
    flags = ["--preset", "tiny", "--device", "cpu", "--json", "--out", str(tmp_path)]
    flags += [part for setting in settings.split() for part in ("--set", setting)]
    assert main(["train", "prior", "--data", str(maps), *flags]) == 0
    answer = json.loads(capsys.readouterr().out)
    run = Path(answer["run"])
    assert answer["error_0.3"] > 0
    assert (run / "previews" / "training.png").is_file()
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 4
    assert main(["train", "prior", "--resume", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == answer
    flags = ["--device", "cpu", "--json", "--out", str(tmp_path)]
    done = main(["train", "prior", "--data", str(maps), "--evaluate", answer["prior"], *flags])
    assert done == 0
    report = json.loads(capsys.readouterr().out)
    assert report["is_held_out"]
    assert report["held_out_maps"] == 12
    assert (Path(report["run"]) / "previews" / "samples.png").is_file()


def test_slips_of_the_command_leave_no_run_behind(
    maps: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "runs"), "--json"]
    assert main(["train", "prior", *out]) == 2
    assert main(["train", "prior", "--data", str(maps), "--set", "network.patch=7", *out]) == 2
    assert main(["train", "prior", "--resume", "x", "--data", str(maps), *out]) == 2
    assert main(["train", "prior", "--evaluate", "nothing.safetensors", *out]) == 3
    assert not (tmp_path / "runs").exists()
    capsys.readouterr()
