"""geo3d segment-report from the command line: tables, page, resuming, refusals."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from apps.cli import main
from geo3d.segmentation.images import save_mask
from geo3d.synth.walls import brick_wall


def folders(root: Path, count: int = 2) -> list[Path]:
    made = [root / name for name in ("truth", "good", "bad")]
    for k in range(count):
        true = brick_wall(k, 48, 48).mask
        speck = true.copy()
        speck[np.argwhere(~true)[::40, 0], np.argwhere(~true)[::40, 1]] = True
        for folder, mask, end in zip(made, (true, true, speck), ("", "", "-mask"), strict=True):
            folder.mkdir(exist_ok=True)
            save_mask(folder / f"w{k}{end}.png", mask)
    return made


def report(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict]:
    code = main(["segment-report", *map(str, arguments), "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_two_folders_are_compared_and_the_run_resumes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth, good, bad = folders(tmp_path)
    save_mask(truth / "more.png", np.eye(8, dtype=bool))
    out = tmp_path / "runs"
    code, found = report(capsys, "--truth", truth, "--masks", bad, good, "--out", out)
    assert code == 0
    assert found["images"] == 2
    assert found["means"]["base"]["good"]["Dice"] == 1
    betti = next(v for v in found["verdicts"] if v["metric"] == "Betti0")
    assert betti["better"] == "good" and not betti["sure"]
    assert any("left out" in note for note in found["notes"])
    assert any("too few" in note for note in found["notes"])
    outputs = Path(found["run"]) / "outputs"
    text = (outputs / "report.html").read_text()
    assert "false component" in text and "more not shown" in text
    with (outputs / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["masks"] for row in rows} == {"good", "bad", "(truth redrawn)"}
    assert len(list((outputs / "images").iterdir())) == 2
    code, again = report(capsys, "--resume", found["run"])
    assert (code, again["means"]) == (0, found["means"])


def test_what_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth, good, bad = folders(tmp_path, 1)
    out = ("--out", tmp_path / "runs")
    code, found = report(capsys, "--truth", truth, "--masks", good, *out)
    assert (code, found["error"]["code"]) == (2, "segment_report.one_folder")
    save_mask(tmp_path / "other.png", np.eye(4, dtype=bool))
    code, found = report(capsys, "--truth", truth, "--masks", good, tmp_path, *out)
    assert (code, found["error"]["code"]) == (3, "segment_report.nothing_shared")
    code, found = report(capsys, "--truth", truth, "--masks", good, tmp_path / "none", *out)
    assert (code, found["error"]["code"]) == (3, "folder.missing")
    save_mask(bad / "w0-mask.png", np.eye(4, dtype=bool))
    code, found = report(capsys, "--truth", truth, "--masks", good, bad, *out)
    assert (code, found["error"]["code"]) == (3, "topology.unequal_shapes")
