"""geo3d data prior from the command line: make, look, refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from apps.cli import main

SMALL = ["--set", "members=2", "--set", "k=32", "--set", "vertices=1500", "--set", "remeshed=0.0"]


@pytest.mark.slow
def test_maps_are_made_drawn_and_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = ["data", "prior", "--out", str(tmp_path / "maps")]
    assert main([*out, "--creatures", "2", "--seed", "3", "--workers", "1", "--json", *SMALL]) == 0
    assert json.loads(capsys.readouterr().out)["maps"] == 4
    # one picture per kind is enough here
    monkeypatch.setattr("shape_matching.prior.figures.FAMILIES_PER_KIND", 1)
    monkeypatch.setattr("shape_matching.prior.figures.PANEL", 24)
    assert main([*out, "--pictures", str(tmp_path / "pictures"), "--quiet"]) == 0
    pictures = capsys.readouterr().out.split()
    assert [Path(p).name for p in pictures] == [
        "prior-mean.png",
        "prior-maps.png",
        "prior-shapes.png",
    ]
    for path in pictures:
        with Image.open(path) as picture:
            assert len(set(picture.convert("L").tobytes())) > 20


def test_a_folder_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "prior"]) == 2
    assert "run.no_flag" in capsys.readouterr().err


def test_an_unfinished_folder_is_not_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "prior", "--out", str(tmp_path), "--pictures", str(tmp_path)]) == 3
    assert "shards.no_index" in capsys.readouterr().err
