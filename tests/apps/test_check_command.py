"""``geo3d check``: report, repair, exit codes, and nothing but JSON under --json."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from helpers import icosphere

from apps.cli import main
from geo3d.mesh.io import load_mesh, save_mesh


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """Return a sphere with an unreferenced NaN vertex and a face out of range."""
    ball = icosphere(1)
    path = tmp_path / "broken.obj"
    rows = ["v nan 0 0", *(f"v {x!r} {y!r} {z!r}" for x, y, z in ball.vertices.tolist())]
    # The first vertex shifts all others, and OBJ counts from 1.
    rows += [f"f {a + 2} {b + 2} {c + 2}" for a, b, c in ball.faces.tolist()]
    path.write_text("\n".join([*rows, "f 1 2 99", ""]))
    return path


def test_a_healthy_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = save_mesh(icosphere(1), tmp_path / "ball.ply")
    assert main(["check", str(path), "--self-intersections"]) == 0
    out = capsys.readouterr().out
    assert "42 vertices, 80 faces (ply)" in out
    assert "no defects" in out


def test_errors_give_exit_code_3_and_json_only(
    broken: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", str(broken), "--json"]) == 3
    report = json.loads(capsys.readouterr().out)
    assert report["healthy"] is False
    codes = [defect["code"] for defect in report["defects"]]
    assert codes[:2] == ["mesh.non_finite", "mesh.index_out_of_range"]


def test_repair_writes_the_mesh_and_its_maps(
    broken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "fixed.off"
    names = ["drop_bad_faces", "drop_non_finite"]
    assert main(["check", str(broken), "--repair", *names, "--out", str(out), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert len(report["repair"]["log"]) == 2
    assert report["repair"]["after"]["healthy"] is True
    mesh = load_mesh(out)
    assert np.array_equal(mesh.vertices, icosphere(1).vertices)
    with np.load(tmp_path / "fixed.maps.npz") as maps:
        assert maps["vertex_map"].tolist() == [-1, *range(42)]
        assert maps["face_map"].tolist() == [*range(80), -1]


def test_repairs_may_be_joined_by_commas_and_are_not_written_unasked(
    broken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = broken.read_bytes()
    assert main(["check", str(broken), "--repair", "drop_bad_faces,drop_non_finite"]) == 0
    assert "drop_non_finite: removed 1 vertices" in capsys.readouterr().out
    assert broken.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["broken.obj"]


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--repair", "drop_bad_face"], "repair.unknown_name"),
        (["--out", "x.fbx"], "mesh_file.unknown_format"),
        (["--out", "broken.obj"], "check.same_file"),
    ],
)
def test_usage_errors(
    options: list[str],
    code: str,
    broken: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(broken.parent)
    assert main(["check", str(broken), *options]) == 2
    assert code in capsys.readouterr().err


def test_what_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "page.obj"
    path.write_bytes(b"<html>")
    assert main(["check", str(path), "--repair", "drop_bad_faces"]) == 3
    assert "mesh_file.not_a_mesh" in capsys.readouterr().out
    assert main(["check", str(tmp_path / "none.obj"), "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["defects"][0]["code"] == "mesh_file.not_found"
    with open(path, "wb") as file:
        file.truncate(2**30)
    assert main(["check", str(path)]) == 6
