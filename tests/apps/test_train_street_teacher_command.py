"""The command that trains the street teacher: its slips, and a whole tiny run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from apps.cli import main


def fails_with(capsys: pytest.CaptureFixture[str], *flags: str) -> dict[str, object]:
    assert main(["train", "street-teacher", *flags, "--json"]) == 2
    return json.loads(capsys.readouterr().out)["error"]


def test_slips_are_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = str(tmp_path)
    assert fails_with(capsys, "--out", out)["code"] == "run.no_flag"
    error = fails_with(capsys, "--resume", out, "--data", out)
    assert error["code"] == "run.resume_is_complete"
    error = fails_with(capsys, "--data", out, "--set", "stepz=3")
    assert error["code"] == "config.unknown_key"
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_tiny_teacher_is_made_measured_and_drawn(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder, quiet = str(tmp_path / "data"), ["--quiet", "--json", "--threads", "1"]
    make = ["data", "streets", "--out", folder, "--images", "60", "--set", "size=16"]
    assert main([*make, "--workers", "1", *quiet]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 60
    train = ["train", "street-teacher", "--data", folder, "--out", str(tmp_path), *quiet]
    assert main([*train, "--preset", "tiny"]) == 0
    made = json.loads(capsys.readouterr().out)
    teacher = Path(made["teacher"])
    assert {p.name for p in teacher.iterdir()} >= {"unet", "controlnet", "scheduler", "styles.json"}
    assert (Path(made["run"]) / "previews/training.png").is_file()
    # a finished run is shown again
    assert main(["train", "street-teacher", "--resume", made["run"], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["teacher"] == str(teacher)
    assert main([*train, "--evaluate", str(teacher)]) == 0
    run = Path(json.loads(capsys.readouterr().out)["run"])
    assert "psnr" in json.loads((run / "outputs/report.json").read_text())["styles"]["all"]
    assert (run / "previews/samples.png").is_file()
    few = ["--set", "steps=2", "--set", "held_out=20"]
    train[1] = "street-segmenter"
    assert main([*train, *few]) == 0
    made = json.loads(capsys.readouterr().out)
    assert Path(made["segmenter"]).is_file() and 0 <= made["miou"] <= 1
