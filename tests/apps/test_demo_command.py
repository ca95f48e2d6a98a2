"""The verb ``geo3d demo``: which pairs, what is measured, what is written."""

from __future__ import annotations

import importlib
import json
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from apps.cli import main
from apps.commands import demo as demo_all
from apps.commands import demo_pairs as demo
from geo3d.files import asset
from geo3d.mesh.io import load_mesh
from shape_matching.map_files import load_p2p


def test_the_few_pairs_are_shipped_one_of_each_kind() -> None:
    lines = asset("shapes/pairs.txt").read_text().split("\n")
    assert set(demo.FEW) <= set(lines)
    assert len({pair.rstrip("0123456789").split()[0][:-1] for pair in demo.FEW}) == 5


def test_one_pair_is_matched_measured_and_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "FEW", ("octopus3 octopus2",))
    flags = ["--preset", "fast", "--set", "starts=[wks]", "--set", "zero_shot.steps=3"]
    assert main(["demo", "--pairs", "few", *flags, "--out", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    (row,) = found["pairs"]
    assert row["pair"] == "octopus3 octopus2" and row["seconds"] >= 0
    assert 0 <= row["error_x100"] < 100 and found["mean_error_x100"] == row["error_x100"]
    run = Path(found["run"])
    assert run.parent == tmp_path / "demo"
    images = load_p2p(run / "outputs" / "octopus3-octopus2.txt")
    source, target = (load_mesh(asset(f"shapes/off/octopus{i}.off")) for i in (3, 2))
    assert len(images) == target.n_vertices and images.max() < source.n_vertices
    assert (run / "previews" / "octopus3-octopus2.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((run / "manifest.json").read_text())["metrics"]["pairs"] == found["pairs"]


def test_all_means_every_pair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def pretend(dataset: object, pair: tuple[str, str], *rest: object) -> dict[str, object]:
        return {"pair": " ".join(pair), "error_x100": float(pair[1][-1]), "seconds": 0.0}

    monkeypatch.setattr(demo, "_match", pretend)
    for pairs, count in (("few", 5), ("all", 25)):
        assert main(["demo", "--pairs", pairs, "--out", str(tmp_path), "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert len(found["pairs"]) == count
        errors = [row["error_x100"] for row in found["pairs"]]
        assert found["mean_error_x100"] == pytest.approx(np.mean(errors))
    assert main(["demo", "--pairs", "few", "--out", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "octopus3 octopus2" in text and "error x100   2.00" in text and "images:" in text


@pytest.mark.parametrize(
    ("flags", "error_code"),
    [
        (["--preset", "fastest"], "config.unknown_preset"),
        (["--set", "k_final=1"], "config.bad_value"),
        (["--set", "colour=1"], "config.unknown_key"),
    ],
)
def test_mistakes_leave_no_run_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], error_code: str
) -> None:
    assert main(["demo", "--pairs", "few", *flags, "--out", str(tmp_path), "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == error_code
    assert not list(tmp_path.iterdir())


def pretended(words: dict[str, list[str]]) -> Callable[..., dict[str, list[str]]]:
    return lambda args, folder: words


def test_all_parts_are_shown_on_one_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two cheap parts stand for the four; the second fails and is told of."""
    ball = asset("shapes/off/bird1.off")
    words = {
        "a map": ["match", str(ball), str(ball), "--method", "nearest"],
        "nothing": ["match", str(ball), str(tmp_path / "none.off")],
    }
    monkeypatch.setattr(demo_all, "parts", pretended(words))
    assert main(["demo", "--out", str(tmp_path), "--json", "--device", "cpu"]) == 3
    found = json.loads(capsys.readouterr().out)
    good, bad = found["parts"]
    assert good["exit_code"] == 0 and bad["error"]["code"] == "file.missing"
    text = Path(found["page"]).read_text("utf-8")
    assert "four methods" in text and "--method nearest" in text and text.count("<canvas") == 2
    record = json.loads((Path(good["run"]) / "manifest.json").read_text())
    assert record["argv"][:2] == ["geo3d", "match"]
    monkeypatch.setattr(demo_all, "parts", pretended({"nothing": words["nothing"]}))
    assert main(["demo", "--out", str(tmp_path), "--json"]) != 0
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "demo.nothing_worked"


def test_the_parts_are_the_four_methods(tmp_path: Path) -> None:
    found = demo_all.parts(Namespace(seed=4), tmp_path)
    assert [words[0] for words in found.values()] == ["match", "scene", "generate", "segment"]
    assert all(words[-2:] == ["--seed", "4"] for words in list(found.values())[:3])
    for words in found.values():
        parser = ArgumentParser()
        importlib.import_module(f"apps.commands.{words[0]}").add_arguments(parser)
        parser.parse_args(words[1:])


@pytest.mark.slow
@pytest.mark.parametrize(("preset", "most"), [("default", 2.0), ("fast", 3.0)])
def test_creatures_of_one_kind_match_well(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    preset: str,
    most: float,
) -> None:
    monkeypatch.setattr(demo, "FEW", ("bird1 bird3", "quadruped1 quadruped2"))
    words = ["demo", "--pairs", "few", "--preset", preset]
    assert main([*words, "--out", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["mean_error_x100"] < most
