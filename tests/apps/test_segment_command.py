"""geo3d segment from the command line: what it writes, several pictures, resuming, refusals."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from segmentation_helpers import tiny_segmenter, wall_image, wall_label

from apps.cli import main
from geo3d.segmentation.predict import load_segmenter
from geo3d.topology.betti import betti_numbers


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_segmenter(tmp_path_factory.mktemp("model") / "tiny.safetensors")


def segment(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict]:
    code = main(["segment", *map(str, arguments), "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_a_picture_becomes_mask_overlay_and_numbers(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = wall_image(tmp_path / "My wall.png")
    code, found = segment(capsys, image, "--model", model, "--out", tmp_path / "runs")
    assert code == 0 and found["failed"] == []
    run, (row,) = Path(found["run"]), found["pictures"]
    mask = np.asarray(Image.open(run / "outputs" / "my-wall-mask.png"))
    assert mask.shape == (96, 96) and set(np.unique(mask)) <= {0, 255}
    assert betti_numbers(mask == 255) == (row["betti0"], row["betti1"])
    with (run / "outputs" / "my-wall-regions.csv").open(newline="") as file:
        kinds = [line["kind"] for line in csv.DictReader(file)]
    assert (kinds.count("component"), kinds.count("hole")) == (row["betti0"], row["betti1"])
    probability = np.asarray(Image.open(run / "outputs" / "my-wall-probability.png"))
    with Image.open(image) as picture:
        expected = load_segmenter(model).predict(np.asarray(picture)).probabilities[1]
    np.testing.assert_allclose(probability / 65535, expected, atol=1e-5)
    with Image.open(run / "previews" / "my-wall-overlay.png") as overlay:
        assert len(set(overlay.convert("RGB").tobytes())) > 20
    assert json.loads((run / "manifest.json").read_text())["models"][0]["data"] == "none"


def test_a_bad_picture_does_not_stop_the_others(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a").mkdir()
    images = [wall_image(tmp_path / "wall.png"), wall_image(tmp_path / "a" / "wall.png", 1)]
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"<html>")
    images.insert(1, bad)
    out = tmp_path / "runs"
    code, found = segment(capsys, *images, tmp_path / "none.png", "--model", model, "--out", out)
    assert code == 3
    assert [row["name"] for row in found["pictures"]] == ["wall", "wall-2"]
    assert [row["code"] for row in found["failed"]] == ["image.unreadable", "image.missing"]
    assert main(["segment", str(bad), "--model", str(model), "--out", str(out)]) == 3
    assert "image.unreadable" in capsys.readouterr().err


def test_two_models_and_two_losses_are_compared(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tiny_segmenter(tmp_path / "other.safetensors", seed=5)
    image, label = wall_image(tmp_path / "wall.png"), wall_label(tmp_path / "label.png")
    models = ("--model", model, "--compare", other, "--out", tmp_path)
    code, found = segment(
        capsys, image, *models, "--label", label, "--loss-maps", "ce_dice", "cl_dice"
    )
    assert code == 0
    assert found["compared"][0]["mortar_fraction"] != found["pictures"][0]["mortar_fraction"]
    previews = Path(found["run"]) / "previews"
    pictures = {path.name: path.read_bytes() for path in previews.iterdir()}
    assert set(pictures) == {
        f"wall{ending}-{what}.png"
        for ending in ("", "-compared")
        for what in ("overlay", "loss-map-ce_dice", "loss-map-cl_dice")
    }
    assert len(set(pictures.values())) == 6
    small = wall_label(tmp_path / "small.png", size=64)
    values = np.asarray(Image.open(small)).copy()
    values[0, 0] = 8
    Image.fromarray(values).save(small)
    code, found = segment(
        capsys,
        image,
        "--model",
        model,
        "--out",
        tmp_path,
        "--loss-maps",
        "ce_dice",
        "--label",
        small,
    )
    *_, about_label, refused = found["pictures"][0]["notes"]
    assert about_label.startswith("label: 1 pixels with values other than 0 and 255")
    assert "no loss map of ce_dice" in refused


def test_a_run_goes_on_where_it_stopped(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = [wall_image(tmp_path / f"{i}.png", i) for i in range(2)]
    code, first = segment(capsys, *images, "--model", model, "--out", tmp_path, "--tile", 48)
    run = Path(first["run"])
    before = (run / "outputs" / "1-mask.png").read_bytes()
    for name in ("manifest.json", "metrics.json", "outputs/1.json", "outputs/1-mask.png"):
        (run / name).unlink()
    kept = (run / "outputs" / "0.json").stat().st_mtime_ns
    code, again = segment(capsys, "--resume", run)
    assert code == 0
    assert (run / "outputs" / "1-mask.png").read_bytes() == before
    assert (run / "outputs" / "0.json").stat().st_mtime_ns == kept
    assert [r["betti0"] for r in again["pictures"]] == [r["betti0"] for r in first["pictures"]]
    assert main(["segment", "--resume", str(run)]) == 0
    assert "hole" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "exit_code"),
    [
        ([], "segment.no_image", 2),
        (["x.png", "--model", "none.safetensors"], "file.missing", 3),
        (["none.png"], "file.missing", 3),
        (["x.png", "--loss-maps", "none"], "loss_maps.unknown_loss", 2),
        (["x.png", "--label", "y.png"], "segment.label_not_used", 2),
        (["x.png", "--resume", "."], "run.resume_is_complete", 2),
        (["--resume", "."], "run.not_a_run", 3),
    ],
)
def test_slips_are_named(
    arguments: list[str],
    code: str,
    exit_code: int,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("x.png", "y.png"):
        (tmp_path / name).touch()
    assert main(["segment", *arguments]) == exit_code
    assert code in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"x.png", "y.png"}


def test_repair_lists_its_changes_and_keeps_the_numbers_before(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = wall_image(tmp_path / "wall.png")
    flags = (picture, "--model", model, "--out", tmp_path / "runs")
    _, plain = segment(capsys, *flags)
    code, found = segment(capsys, *flags, "--repair")
    assert code == 0
    [before], [after] = plain["pictures"], found["pictures"]
    assert after["repair"]["before"] == [before["betti0"], before["betti1"]]
    outputs = Path(found["run"]) / "outputs"
    with (outputs / "wall-changes.csv").open() as file:
        assert len(list(csv.DictReader(file))) == after["repair"]["changes"]
    mask = np.asarray(Image.open(outputs / "wall-mask.png")) == 255
    assert betti_numbers(mask) == (after["betti0"], after["betti1"])
    assert after["betti0"] <= before["betti0"]
