"""geo3d train segmenter from the command line: train, show, resume, refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from apps.cli import main
from geo3d.segmentation.config import SegmentationConfig
from geo3d.segmentation.network import NetworkConfig, make_network
from geo3d.segmentation.predict import Segmenter, load_segmenter, save_segmenter
from geo3d.synth.walls import GROUPS

FEW = ["--set", "iterations=4", "--set", "validate_every=2", "--set", "data.walls=2", "--quiet"]


def test_it_trains_on_walls_and_shows_its_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--out", str(tmp_path), "--seed", "3", "--device", "cpu", "--json", *FEW]
    assert main(["train", "segmenter", "--loss", "cl_dice", "--framework", "randhue", *flags]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["steps"] == 4 and 0 <= shown["dice"] <= 1
    segmenter = load_segmenter(shown["segmenter"], "cpu")
    assert (segmenter.config.loss, segmenter.config.framework) == ("cl_dice", "randhue")
    assert segmenter.config.seed == 3
    folder = Path(shown["run"])
    assert (folder / "previews" / "training.png").stat().st_size > 5000
    lines = (folder / "metrics.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line)["step"] for line in lines] == [2, 4]
    assert main(["train", "segmenter", "--resume", str(folder)]) == 0
    assert "validation images" in capsys.readouterr().out


def test_mistakes_are_named_before_anything_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for flags, exit_code, code in (
        (["--loss", "cldice"], 2, "segmenter.unknown_loss"),
        (["--framework", "magic"], 2, "config.bad_value"),
        (["--preset", "huge"], 2, "config.unknown_preset"),
        (["--data", str(tmp_path / "none")], 3, "folder.missing"),
        (["--resume", "x", "--loss", "cl_dice"], 2, "run.resume_is_complete"),
    ):
        assert main(["train", "segmenter", "--out", str(tmp_path / "runs"), *flags]) == exit_code
        assert code in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_model_is_measured_by_group(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = Path(tmp_path / "model.safetensors")
    config = SegmentationConfig(network=NetworkConfig((4, 6, 8)))
    save_segmenter(made, Segmenter(make_network(config.network), config))
    walls = ["--set", "data.walls=1", "--set", "data.wall_side=64", "--json"]
    flags = ["--evaluate", str(made), "--out", str(tmp_path / "runs"), "--device", "cpu", *walls]
    assert main(["train", "segmenter", *flags]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert set(shown["means"]) == {*GROUPS, "ID", "OOD"}
    shifted = [shown["means"][group]["Dice"] for group in GROUPS[1:]]
    assert shown["means"]["OOD"]["Dice"] == pytest.approx(sum(shifted) / 6)
    table = (Path(shown["run"]) / "outputs" / "metrics.csv").read_text("utf-8")
    assert len(table.splitlines()) == 1 + shown["pictures"]
