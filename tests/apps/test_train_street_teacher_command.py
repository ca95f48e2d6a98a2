"""The command that trains the street teacher: its slips, and a whole tiny run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from apps.cli import main


def fails_with(capsys: pytest.CaptureFixture[str], *flags: str) -> dict[str, object]:
    assert main(["train-street-teacher", *flags, "--json"]) == 2
    return json.loads(capsys.readouterr().out)["error"]


def test_slips_are_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = str(tmp_path)
    assert fails_with(capsys, "--out", out)["code"] == "train_street_teacher.no_data"
    error = fails_with(capsys, "--resume", out, "--data", out)
    assert error["code"] == "train_street_teacher.resume_is_complete"
    error = fails_with(capsys, "--data", out, "--set", "stepz=3")
    assert error["code"] == "config.unknown_key"
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_tiny_teacher_is_made_measured_and_drawn(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    data = ["--data", str(tmp_path / "data"), "--quiet", "--threads", "1"]
    flags = [*data, "--pictures", "60", "--preset", "tiny", "--out", str(tmp_path)]
    assert main(["train-street-teacher", *flags, "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    teacher = Path(made["teacher"])
    assert {p.name for p in teacher.iterdir()} >= {"unet", "controlnet", "scheduler", "styles.json"}
    assert (Path(made["run"]) / "previews/training.png").is_file()
    # a finished run is shown again
    assert main(["train-street-teacher", "--resume", made["run"], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["teacher"] == str(teacher)
    report = tmp_path / "report"
    flags = [*data, "--evaluate", str(teacher), "--out", str(report), "--json"]
    assert main(["train-street-teacher", *flags]) == 0
    assert "psnr" in json.loads((report / "report.json").read_text())["styles"]["all"]
    assert (report / "samples.png").is_file()
