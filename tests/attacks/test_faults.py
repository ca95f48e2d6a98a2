"""Faults of the machine, met by a verb; the list of attacks and faults names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from segmentation_helpers import wall_label

from apps.cli import main

ROOT = Path(__file__).resolve().parents[2]


def test_every_test_that_the_list_names_is_there() -> None:
    text = (ROOT / "docs" / "security.md").read_text("utf-8")
    sources = "\n".join(path.read_text("utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    named = set(re.findall(r"\b(test_\w+)(?:\[[^\]]*\])?`", text))
    tests = set(re.findall(r"def (test_\w+)", sources))
    assert len(named) > 25
    assert named <= tests, sorted(named - tests)
    paths = set(re.findall(r"`(tests/[\w/.]+)", text))
    assert not [path for path in paths if not (ROOT / path).exists()]


@pytest.mark.parametrize("place", ["a file", "under a file", "nowhere to write"])
def test_no_place_for_results_is_a_sentence(
    place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in "TA":
        (tmp_path / name).mkdir()
        wall_label(tmp_path / name / "0.png", 0, 64)
    (tmp_path / "file").write_text("kept")
    out = {"a file": "file", "under a file": "file/runs", "nowhere to write": "/proc/nowhere"}
    where = str(tmp_path / out[place])
    folders = ["--truth", str(tmp_path / "T"), "--masks", str(tmp_path / "A"), str(tmp_path / "A")]
    assert main(["segment-report", *folders, "--out", where]) != 0
    said = capsys.readouterr().err
    assert said.startswith("error: [") and "Traceback" not in said and "unexpected" not in said
    assert (tmp_path / "file").read_text() == "kept"
