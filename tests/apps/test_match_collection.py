"""``geo3d match FOLDER``: maps, table and page of a collection; resume; mistakes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import bumpy_sphere, permuted

from apps.cli import main
from geo3d.mesh.io import save_mesh

QUICK = ["--method", "nearest", "--workers", "1"]
"""The shapes lie alike, so nearest neighbours are the right maps."""


@pytest.fixture
def shapes(tmp_path: Path) -> tuple[Path, dict[str, np.ndarray]]:
    folder, orders = tmp_path / "shapes", {}
    folder.mkdir()
    for i in range(3):
        copy, orders[f"s{i}"] = permuted(bumpy_sphere(2), seed=i)
        save_mesh(copy, folder / f"s{i}.off")
    return folder, orders


def run_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["match", *arguments, "--json", "--quiet"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_folder_becomes_maps_a_table_and_a_page(
    shapes: tuple[Path, dict[str, np.ndarray]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, orders = shapes
    found = run_json(capsys, str(folder), *QUICK, "--out", str(tmp_path / "runs"))
    outputs = Path(found["run"]) / "outputs"
    assert found["shapes"] == 3 and len(found["pairs"]) == 3 and not found["failed"]
    assert found["cycle_error"] < 0.5
    with np.load(outputs / "maps" / "s0--s2.npz") as maps:
        truth = np.argsort(orders["s0"])[orders["s2"]]
        assert np.mean(maps["p2p_21"] == truth) > 0.98
        assert np.mean(maps["p2p_12"] == np.argsort(truth)) > 0.98
    assert (outputs / "pairs.csv").read_text().startswith("source,target,probability")
    page = (outputs / "index.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 1 and "http" not in page
    # what a killed run lacks is made again, what it has is kept
    kept = outputs / "pairs" / "s0--s1.npz"
    before = kept.stat().st_mtime_ns
    (outputs / "pairs" / "s1--s2.json").unlink()
    shutil.rmtree(outputs / "maps")
    (Path(found["run"]) / "manifest.json").unlink()
    again = run_json(capsys, "--resume", found["run"])
    assert again["cycle_error"] == found["cycle_error"] and kept.stat().st_mtime_ns == before
    assert (outputs / "maps" / "s1--s2.npz").is_file()


def test_a_template_is_matched_with_the_others_and_failures_are_told(
    shapes: tuple[Path, dict[str, np.ndarray]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = shapes
    (folder / "broken.off").write_text("no mesh\n", encoding="utf-8")
    arguments = [str(folder), "--template", "s1", *QUICK, "--out", str(tmp_path / "runs")]
    found = run_json(capsys, *arguments)
    assert [(row["source"], row["target"]) for row in found["pairs"]] == [
        ("s1", "s0"),
        ("s1", "s2"),
    ]
    assert list(found["failed"]) == ["s1--broken"] and found["left_out"] == ["broken"]
    assert (Path(found["run"]) / "outputs" / "maps" / "s0--s2.npz").is_file()


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["{folder}", "--template", "s9"], "collection.no_template"),
        (["{folder}", "--save-map", "m.txt"], "match.flags_do_not_fit"),
        (["{folder}/s0.off", "{folder}/s1.off", "--template", "s0"], "match.flags_do_not_fit"),
        (["{empty}"], "collection.too_few"),
        (["{twice}"], "dataset.duplicate_name"),
        (["{dashes}"], "dataset.duplicate_name"),
    ],
)
def test_mistakes_are_told_before_there_is_a_run(
    arguments: list[str],
    code: str,
    shapes: tuple[Path, dict[str, np.ndarray]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    twice, dashes = tmp_path / "twice", tmp_path / "dashes"
    for folder, names in ((twice, ("a.off", "a.ply")), (dashes, ("a", "b--c", "a--b", "c"))):
        folder.mkdir()
        for name in names:
            (folder / name).with_suffix(Path(name).suffix or ".off").touch()
    places = {"folder": shapes[0], "empty": empty, "twice": twice, "dashes": dashes}
    filled = [a.format(**places) for a in arguments]
    assert main(["match", *filled, "--out", str(tmp_path / "runs")]) in (2, 3)
    assert code in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
