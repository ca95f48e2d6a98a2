"""geo3d distill from the command line: train, show, resume, refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from distill_helpers import settings

from apps.cli import main
from scenes.objects.models import load_model


def test_it_distils_and_shows_its_models(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(settings(tmp_path, "dense")), "utf-8")
    flags = ["--preset", "cm", "--out", str(tmp_path / "runs"), "--seed", "3", "--device", "cpu"]
    assert main(["distill", str(file), *flags, "--set", "steps=2", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["step"] == 2 and shown["items"] == 9
    assert [Path(stem).name for stem in shown["models"]] == ["student", "student_ema0.9"]
    assert load_model(shown["models"][0]).config.resolution == 4
    folder = Path(shown["run"])
    config = yaml.safe_load((folder / "config.yaml").read_text("utf-8"))
    assert (config["seed"], config["objective"]["kind"]) == (3, "consistency")
    lines = (folder / "metrics.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line)["step"] for line in lines] == [2]
    assert main(["distill", "--resume", str(folder)]) == 0
    assert "loss" in capsys.readouterr().out


def test_mistakes_are_named_before_anything_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(settings(tmp_path, "dense")), "utf-8")
    for flags, exit_code, code in (
        ([str(file), "--set", "objective.kind=magic"], 2, "config.bad_value"),
        ([str(file), "--preset", "huge"], 2, "config.unknown_preset"),
        ([str(file), "--set", "teacher=none"], 3, "object_model.missing"),
        ([str(file), "--set", "data.latents=none"], 3, "latents.no_folder"),
        ([str(tmp_path / "no.yaml")], 2, "config.no_file"),
        ([str(file), "--resume", "x"], 2, "run.resume_is_complete"),
    ):
        assert main(["distill", "--out", str(tmp_path / "runs"), *flags]) == exit_code
        assert code in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
