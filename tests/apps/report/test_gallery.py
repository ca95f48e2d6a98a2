"""The gallery of runs: found, filtered, tagged, deleted, and nothing outside of its folder."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from PIL import Image
from report_runs import plain_run

from apps.cli import main
from apps.report.gallery import delete_run, filtered, find_runs, set_tag, tags_of
from apps.report.gallery_page import gallery_page
from geo3d.errors import ConfigError, InputError
from geo3d.runs import start_run

EVIL = '<img src=x onerror="alert(1)">'


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with three runs: two of the command line, one of the workbench."""
    folder = tmp_path / "runs"
    plain_run(folder, "match", {"probability": 0.9, "method": "axiomatic"}, "bird", ["a.off"])
    plain_run(folder, "segment", {"pictures": [{"betti0": 1, "betti1": 4}]}, "wall")
    plain_run(folder / "jobs" / ("0" * 32) / "run", "scene", {"points": 7}, "street")
    return folder


def listed(root: Path, *flags: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    assert main(["runs", "--root", str(root), "--json", *flags]) == 0
    return [Path(row["run"]).name[:4] for row in json.loads(capsys.readouterr().out)["runs"]]


def test_runs_are_found_and_filtered(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sorted(listed(root, capsys=capsys)) == ["bird", "stre", "wall"]
    assert listed(root, "--verb", "match", capsys=capsys) == ["bird"]
    assert listed(root, "--verb", "axiomatic", capsys=capsys) == ["bird"]
    assert listed(root, "--find", "BIRD a.off", capsys=capsys) == ["bird"]
    assert listed(root, "--find", "bird wall", capsys=capsys) == []
    assert len(listed(root, "--limit", "2", capsys=capsys)) == 2
    assert main(["runs", "--root", str(root)]) == 0
    assert "Probability 0.9" in capsys.readouterr().out


def test_the_newest_is_first(tmp_path: Path) -> None:
    for name, created in (
        ("old", "2026-01-01T00:00:00+00:00"),
        ("new", "2026-02-01T00:00:00+00:00"),
    ):
        run = plain_run(tmp_path, name=name)
        record = json.loads((run.path / "manifest.json").read_text())
        (run.path / "manifest.json").write_text(json.dumps({**record, "created": created}))
    assert [run.name for run in find_runs(tmp_path)] == ["new", "old"]


def test_tags_come_and_go(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bird = str(next(root.glob("match/bird*")))
    assert main(["runs", bird, "--root", str(root), "--add-tag", " quite  good "]) == 0
    assert "quite good" in capsys.readouterr().out
    assert listed(root, "--tag", "quite good", capsys=capsys) == ["bird"]
    assert listed(root, "--find", "quite", capsys=capsys) == ["bird"]
    assert main(["runs", bird, "--root", str(root), "--remove-tag", "quite good", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tags"] == {bird: []}
    for bad in ("", "x" * 41, "a\x1b[31m"):
        with pytest.raises(InputError, match="letters"):
            set_tag(root, Path(bird), bad)
    for i in range(20):
        set_tag(root, Path(bird), f"t{i}")
    with pytest.raises(InputError, match="enough"):
        set_tag(root, Path(bird), "more")
    Path(bird, "tags.json").write_text('{"a": 1}')
    assert tags_of(filtered(find_runs(root), "match")[0]) == []


def test_deleting_takes_the_run_and_nothing_else(root: Path) -> None:
    outside = root.parent / "outside"
    outside.mkdir()
    (outside / "kept.txt").write_text("kept")
    bird = next(root.glob("match/bird*"))
    (bird / "outputs" / "link").symlink_to(outside)
    assert delete_run(root, bird) == bird
    street = next(root.glob("jobs/*/run/scene/*"))
    assert delete_run(root, street) == root / "jobs" / ("0" * 32)
    assert (outside / "kept.txt").read_text() == "kept"
    assert [run.name for run in find_runs(root)] == ["wall"]
    assert sorted(p.name for p in root.iterdir()) == ["jobs", "match", "segment"]


def test_what_lies_elsewhere_is_refused(root: Path) -> None:
    other = plain_run(root.parent / "other", "match").path
    (root / "match" / "link").symlink_to(other)
    (root / "evil").symlink_to(root.parent / "other" / "match")
    for folder in (other, root / "match" / "link", root / "evil" / other.name, root, root / ".."):
        for act in (delete_run, lambda r, f: set_tag(r, f, "x")):
            with pytest.raises(InputError):
                act(root, folder)
    assert other.is_dir() and len(find_runs(root)) == 3


def test_a_run_that_goes_on_is_not_deleted(root: Path) -> None:
    run = start_run("match", "busy", root=root)
    with pytest.raises(ConfigError, match="still goes on"):
        delete_run(root, run.path)
    assert run.path.is_dir()


def test_deleting_asks(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bird = str(next(root.glob("match/bird*")))
    words = ["runs", bird, "--root", str(root), "--delete"]
    assert main([*words, "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "runs.not_confirmed"
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda question: "n")
    assert main(words) == 130 and os.path.isdir(bird)
    monkeypatch.setattr("builtins.input", lambda question: "y")
    assert main(words) == 0 and not os.path.exists(bird)


def test_a_page_shows_pictures_numbers_and_commands(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = plain_run(root, "match", {"probability": 0.5}, "x", [EVIL])
    Image.new("RGB", (900, 300)).save(run.previews / "a.png")
    set_tag(root, run.path, EVIL[:39])
    file = tmp_path / "all.html"
    assert main(["runs", "--root", str(root), "--html", str(file)]) == 0
    text = file.read_text("utf-8")
    assert str(file) in capsys.readouterr().out
    assert text.count("<article") == 4 and text.count("data:image/jpeg") == 4
    assert "<img src=x" not in text and "geo3d match" in text and "&lt;img" in text
    assert "No runs" in gallery_page([])


def test_commands_are_printed_again(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bird = str(next(root.glob("match/bird*")))
    assert main(["runs", bird, "--again"]) == 0
    assert capsys.readouterr().out == "geo3d match a.off\n"
    assert main(["runs", "--again", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "runs.no_run"
    assert main(["runs", "--root", str(root / "none"), "--json"]) == 3
