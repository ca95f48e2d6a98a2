"""geo3d bench segment from the command line: the tables alone, and slips."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from apps.cli import main
from geo3d.segmentation.measures import METRICS, Measures, write_measures

IDS = tuple(f"{i:03d}" for i in (*range(71, 91), *range(121, 131), *range(171, 181)))


def published_folder(root: Path) -> Path:
    draws = np.random.default_rng(0)
    for loss, level in (("CEDice", 5.0), ("clDice", 3.0)):
        for seed in range(3):
            values = {m: draws.normal(level, 0.5, len(IDS)) for m in METRICS}
            path = root / "supervised" / "accurate" / "large" / loss / f"{seed}.csv"
            write_measures(Measures(IDS, values), path)
    return root


def test_tables_of_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = published_folder(tmp_path / "results")
    published = tmp_path / "published.csv"
    published.write_text(
        "framework,labels,size,loss,split,metric,mean,std,n_seeds\n"
        "supervised,accurate,large,CEDice,ID,Betti0,3.31,6.60,10\n"
    )
    command = ["bench", "segment", "--tables", str(folder), "--out", str(tmp_path / "runs")]
    assert main([*command, "--published", str(published), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["measured"]) == 2 * 4 * len(METRICS)
    assert [row["mean"] for row in found["published"]] == [3.31]
    better = {(c["split"], c["metric"]): c for c in found["significance"]}
    assert better["ID", "Betti0"]["better"] and better["ID", "Betti0"]["p_corrected"] < 0.05
    assert not better["OOD", "Dice"]["better"]
    assert main(command) == 0
    text = capsys.readouterr().out
    assert "| clDice | 3 |" in text and "Published" not in text
    assert main([*command, "--compat", "--json"]) == 0
    compat = json.loads(capsys.readouterr().out)["significance"]
    assert {c["n_pairs"] for c in compat} == {60}


@pytest.mark.parametrize(
    ("arguments", "code", "exit_code"),
    [
        (["--tables", "none"], "folder.missing", 3),
        (["--tables", "none", "--losses", "ce_dice"], "segment_bench.tables_only", 2),
        (["--compat"], "segment_bench.tables_flags", 2),
        (["--data", "none"], "folder.missing", 3),
        (["--losses", "none"], "segmenter.unknown_loss", 2),
        (["--resume", "none", "--seeds", "3"], "run.resume_is_complete", 2),
        (["--resume", "none"], "run.not_a_run", 3),
    ],
)
def test_slips_are_named_and_leave_nothing_behind(
    arguments: list[str],
    code: str,
    exit_code: int,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["bench", "segment", *arguments]) == exit_code
    assert code in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
