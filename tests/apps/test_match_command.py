"""The verb ``geo3d match``: from two files to maps, pictures, JSON; resume; mistakes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import bumpy_sphere, moved, permuted, rotation
from prior_helpers import NETWORK as PRIOR
from prior_helpers import random_prior

from apps.cli import main
from geo3d.errors import FileFormatError
from geo3d.files import asset
from geo3d.mesh.io import load_mesh, save_mesh
from geo3d.runs import open_run, start_run
from shape_matching.map_files import load_p2p, read_landmarks
from shape_matching.match import match
from shape_matching.methods import METHODS, match_nearest
from shape_matching.prior.prior import save_prior

QUICK = ["--preset", "fast", "--set", "k_final=40", "--set", "starts=[wks]"]
TRUTH = permuted(bumpy_sphere(2), seed=2)[1]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Write a shape, its moved and shuffled copy, starts, and files that are neither."""
    folder = tmp_path_factory.mktemp("shapes")
    mesh = bumpy_sphere(2)
    copy, order = permuted(moved(mesh, rotation(1)), seed=2)
    save_mesh(mesh, folder / "ball.off")
    save_mesh(copy, folder / "copy.ply")
    save_mesh(bumpy_sphere(1), folder / "tiny.off")
    (folder / "text.off").write_text("no mesh\n")
    (folder / "map.txt").write_text("".join(f"{i}\n" for i in order))
    (folder / "short.txt").write_text("1\n2\n")
    (folder / "bad.txt").write_text("1 2 3\n4 5 6\n")
    chosen = range(0, 162, 20)
    (folder / "pairs.txt").write_text("".join(f"{order[i]} {i}\n" for i in chosen) + "\n")
    (folder / "two.txt").write_text("0 0\n1 1\n")
    (folder / "far.txt").write_text("0 0\n1 1\n2 999\n")
    (folder / "bad.yaml").write_text("k_finale: 40\n")
    return {p.name: str(p) for p in folder.iterdir()} | {"none.off": str(folder / "none.off")}


@pytest.fixture
def no_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Save the time for images where they are not looked at; they take most of a run's."""
    dot = np.zeros((1, 1, 3), dtype=np.uint8)
    monkeypatch.setattr("geo3d.render.previews.match_image", lambda *args, **more: dot)
    monkeypatch.setattr("shape_matching.evaluate.figures.plot_fmap", lambda *args: None)


def run_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["match", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    files = [p for p in folder.rglob("*") if p.is_file()]
    return {str(p.relative_to(folder)): (p.stat().st_mtime_ns, p.read_bytes()) for p in files}


def test_two_files_to_a_run_folder_and_resume(
    files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = run_json(capsys, files["ball.off"], files["copy.ply"], *QUICK, "--out", str(tmp_path))
    assert found["source_vertices"] == found["target_vertices"] == 162
    assert found["method"] == "axiomatic" and not found["ambiguous"] and found["notes"] == []
    assert found["mean_confidence"] > 0.99 and found["scores"]["orientation"] > 0.9
    run = Path(found["run"])
    assert run.parent == tmp_path / "match" and run.name.startswith("ball-copy-")
    assert Path(found["map"]) == run / "outputs" / "map.txt"
    lines = (run / "outputs" / "map.txt").read_text().splitlines()
    assert [int(line) for line in lines] == TRUTH.tolist()
    assert np.array_equal(load_p2p(run / "outputs" / "map.npz"), TRUTH)
    for name in ("source", "target", "confidence"):
        mesh = load_mesh(run / "outputs" / f"{name}.glb")
        assert mesh.n_vertices == 162 and mesh.vertex_colors is not None
    # matched vertices have one colour
    source, target = (load_mesh(run / "outputs" / f"{n}.glb") for n in ("source", "target"))
    assert source.vertex_colors is not None and target.vertex_colors is not None
    assert np.array_equal(source.vertex_colors[TRUTH], target.vertex_colors)
    for name in ("match", "fmap"):
        assert (run / "previews" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert not (run / "previews" / "live-fmap.png").exists()
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["metrics"]["mean_confidence"] == found["mean_confidence"]
    assert len(manifest["inputs"]) == 2
    assert "k_final: 40" in (run / "config.yaml").read_text()
    events = [json.loads(line) for line in (run / "progress.jsonl").read_text().splitlines()]
    assert {"eigenbasis", "coupled refinement"} <= {event["stage"] for event in events}
    # a finished run is shown again, not computed again
    before = snapshot(run)
    assert run_json(capsys, "--resume", str(run)) == found
    assert main(["match", "--resume", str(run)]) == 0
    assert "right with probability" in capsys.readouterr().out
    assert snapshot(run) == before


@pytest.mark.usefixtures("no_images")
def test_a_cut_run_is_finished_by_resume(
    files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [files["ball.off"], files["copy.ply"], *QUICK, "--out", str(tmp_path)]
    found = run_json(capsys, *arguments, "--landmarks", files["pairs.txt"])
    run = Path(found["run"])
    (run / "manifest.json").unlink()
    for path in (run / "outputs").iterdir():
        path.unlink()
    again = run_json(capsys, "--resume", str(run))
    assert {k: v for k, v in again.items() if k != "seconds"} == {
        k: v for k, v in found.items() if k != "seconds"
    }
    assert load_p2p(run / "outputs" / "map.txt").tolist() == TRUTH.tolist()


@pytest.mark.usefixtures("no_images")
def test_starts_reach_the_matcher(
    files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[dict[str, Any]] = []

    def remember(*shapes: Any, **more: Any) -> Any:
        given.append(more)
        return match_nearest(*shapes)

    monkeypatch.setattr("shape_matching.methods.METHODS", {"axiomatic": remember})
    shapes = [files["ball.off"], files["copy.ply"], *QUICK, "--out", str(tmp_path), "--quiet"]
    assert main(["match", *shapes, "--landmarks", files["pairs.txt"]]) == 0
    assert main(["match", *shapes, "--initial-map", files["map.txt"]]) == 0
    assert given[0]["landmarks"].shape == (9, 2) and "initial_map" not in given[0]
    assert given[1]["initial_map"].tolist() == TRUTH.tolist() and "landmarks" not in given[1]


def test_help_lists_the_methods(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("match", "evaluate"):
        with pytest.raises(SystemExit):
            main([verb, "--help"])
        # Lines are broken at the hyphens of a name, too.
        text = "".join(capsys.readouterr().out.split())
        assert [name for name in METHODS if name not in text] == []


@pytest.mark.usefixtures("no_images")
def test_the_method_with_the_prior_takes_starts_and_shows_its_map(
    files: dict[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn: list[tuple[str, str, tuple[int, ...]]] = []

    def remember(path: Path, fmap_12: np.ndarray, title: str) -> None:
        assert path.parent.is_dir()
        drawn.append((path.name, title, fmap_12.shape))

    monkeypatch.setattr("shape_matching.evaluate.figures.plot_fmap", remember)
    monkeypatch.setattr("shape_matching.evaluate.figures.LIVE_S", 0.0)
    prior = tmp_path / "prior.safetensors"
    save_prior(prior, random_prior(PRIOR))
    small = "map_size=8 zoomout_size=12 network_eigenpairs=16 n_points=64 zoomout_points=64"
    sets = [f"zero_shot.{s}" for s in (*small.split(), "width=8", "features=8", "steps=6")]
    sets.append("improvements=[optimise]")
    flags = [f for s in (*sets, f"prior={prior}") for f in ("--set", s)]
    shapes = [files["ball.off"], files["copy.ply"], *QUICK, "--out", str(tmp_path)]
    flags += ["--method", "diffumatch", "--landmarks", files["pairs.txt"], "--seed", "7"]
    found = run_json(capsys, *shapes, *flags)
    assert found["method"] == "diffumatch" and "orientation" in found["scores"]
    assert "\nseed: 7\n" in (Path(found["run"]) / "config.yaml").read_text()
    manifest = json.loads((Path(found["run"]) / "manifest.json").read_text())
    assert manifest["seed"] == 7 and str(prior) in [i["path"] for i in manifest["inputs"]]
    stages = [title.rpartition(": ")[2] for name, title, _ in drawn if name == "live-fmap.png"]
    assert stages[0] == "chosen" and stages[-1] == "refined"
    assert any(stage.startswith("step ") for stage in stages)
    assert drawn[-1] == ("fmap.png", "functional map", (40, 40))


@pytest.mark.usefixtures("no_images")
def test_the_seed_is_that_of_the_settings_unless_the_flag_is_given(
    files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shapes = [files["ball.off"], files["copy.ply"], "--method", "nearest", "--out", str(tmp_path)]
    for flags, seed in ((["--set", "seed=5"], 5), (["--set", "seed=5", "--seed", "0"], 0)):
        run = Path(run_json(capsys, *shapes, *flags)["run"])
        assert json.loads((run / "manifest.json").read_text())["seed"] == seed
        assert f"\nseed: {seed}\n" in (run / "config.yaml").read_text()


@pytest.mark.usefixtures("no_images")
def test_other_methods_and_text(
    files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shapes = [files["ball.off"], files["ball.off"], "--out", str(tmp_path), "--quiet"]
    assert main(["match", *shapes, "--method", "nearest", "--up", "z"]) == 0
    text = capsys.readouterr().out
    assert "matched 162 target vertices onto 162 source vertices" in text and "map.txt" in text
    (run,) = (tmp_path / "match").iterdir()
    assert load_p2p(run / "outputs" / "map.txt").tolist() == list(range(162))


@pytest.mark.parametrize(
    ("flags", "exit_code", "error_code"),
    [
        ([], 2, "match.two_shapes"),
        (["ball.off"], 2, "match.two_shapes"),
        (["ball.off", "copy.ply", "--method", "magic"], 2, "match.unknown_method"),
        (
            ["ball.off", "copy.ply", "--method", "nearest", "--landmarks", "pairs.txt"],
            2,
            "match.start_not_used",
        ),
        (
            ["ball.off", "copy.ply", "--landmarks", "pairs.txt", "--initial-map", "map.txt"],
            2,
            "match.two_starts",
        ),
        (["ball.off", "none.off"], 3, "file.missing"),
        (["ball.off", "copy.ply", "--landmarks", "none.off"], 3, "file.missing"),
        (["ball.off", "copy.ply", "--landmarks", "bad.txt"], 3, "landmarks.bad_file"),
        (["ball.off", "copy.ply", "--initial-map", "text.off"], 3, "correspondence.bad_map"),
        (["ball.off", "copy.ply", "--preset", "fastest"], 2, "config.unknown_preset"),
        (["ball.off", "copy.ply", "--config", "bad.yaml"], 2, "config.unknown_key"),
        (["ball.off", "copy.ply", "--set", "k_final=3"], 2, "config.bad_value"),
        (["ball.off", "copy.ply", "--set", "prior=none.off"], 3, "checkpoint.missing"),
        (["ball.off", "copy.ply", "--device", "abacus"], 2, "device.unknown"),
        (["--resume", "none.off"], 3, "run.not_a_run"),
        (["copy.ply", "--resume", "none.off"], 2, "run.resume_is_complete"),
        (["--landmarks", "pairs.txt", "--resume", "none.off"], 2, "run.resume_is_complete"),
    ],
)
def test_mistakes_leave_no_run_behind(
    files: dict[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    exit_code: int,
    error_code: str,
) -> None:
    flags = [files.get(flag, flag) for flag in flags]
    assert main(["match", *flags, "--out", str(tmp_path), "--json"]) == exit_code
    assert json.loads(capsys.readouterr().out)["error"]["code"] == error_code
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flags", "error_code"),
    [
        (["ball.off", "text.off"], "mesh_file."),
        (["ball.off", "tiny.off"], "match.too_small"),
        (["ball.off", "copy.ply", "--landmarks", "two.txt"], "landmarks.bad"),
        (["ball.off", "copy.ply", "--landmarks", "far.txt"], "landmarks.bad"),
        (["ball.off", "copy.ply", "--initial-map", "short.txt"], "fmap.bad_p2p"),
    ],
)
def test_files_that_do_not_fit_fail_the_run(
    files: dict[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    error_code: str,
) -> None:
    flags = [files.get(flag, flag) for flag in flags]
    assert main(["match", *flags, *QUICK, "--out", str(tmp_path), "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["error"]["code"].startswith(error_code)
    (run,) = (tmp_path / "match").iterdir()
    assert json.loads((run / "state.json").read_text())["status"] == "failed"
    assert not (run / "manifest.json").exists() and not list((run / "outputs").iterdir())


@pytest.mark.usefixtures("no_images")
def test_cancelled_runs_say_so(
    files: dict[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def cancel(*shapes: Any, **more: Any) -> Any:
        (run,) = (tmp_path / "match").iterdir()
        (run / "cancel").touch()
        return match(*shapes, **more)

    with monkeypatch.context() as patched:
        patched.setattr("shape_matching.methods.METHODS", {"axiomatic": cancel})
        arguments = [files["ball.off"], files["copy.ply"], *QUICK, "--out", str(tmp_path)]
        assert main(["match", *arguments, "--json"]) == 130
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "run.cancelled"
    (run,) = (tmp_path / "match").iterdir()
    assert json.loads((run / "state.json").read_text())["status"] == "cancelled"
    assert run_json(capsys, "--resume", str(run))["mean_confidence"] > 0.99


def test_runs_of_other_verbs_are_not_resumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for verb in ("demo", "match"):
        # the run of match was killed before it wrote down its files
        run = start_run(verb, "x", None, tmp_path)
        assert main(["match", "--resume", str(run.path), "--json"]) == 3
        assert json.loads(capsys.readouterr().out)["error"]["code"] == "run.cannot_resume"
        open_run(run.path)


@pytest.mark.usefixtures("no_images")
def test_changed_inputs_are_not_resumed(
    files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "a.off"
    source.write_bytes(Path(files["ball.off"]).read_bytes())
    found = run_json(capsys, str(source), files["copy.ply"], *QUICK, "--out", str(tmp_path))
    (Path(found["run"]) / "manifest.json").unlink()
    save_mesh(bumpy_sphere(2, seed=1), source)
    assert main(["match", "--resume", found["run"], "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "run.inputs_changed"


@pytest.mark.parametrize(
    "text", ["", "1\n2\n3\n", "1 2 3 4\n", "1 2\n3\n", "a b\n", "1 2.5\n", f"1 {10**30}\n"]
)
def test_landmark_files(tmp_path: Path, text: str) -> None:
    path = tmp_path / "pairs.txt"
    path.write_text(text)
    with pytest.raises(FileFormatError) as caught:
        read_landmarks(str(path))
    assert caught.value.code == "landmarks.bad_file"
    path.write_text("0 5\n\n 7\t8 \n")
    assert read_landmarks(str(path)).tolist() == [[0, 5], [7, 8]]


@pytest.mark.slow
def test_shipped_shapes_with_the_fast_preset(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = (str(asset(f"shapes/off/{name}.off")) for name in ("bird1", "bird3"))
    found = run_json(capsys, source, target, "--preset", "fast", "--out", str(tmp_path))
    images = load_p2p(found["map"])
    assert len(images) == found["target_vertices"] == load_mesh(target).n_vertices
    assert images.min() >= 0 and images.max() < found["source_vertices"]
    assert found["mean_confidence"] > 0.5


@pytest.mark.usefixtures("no_images")
def test_maps_and_landmarks_that_count_from_one(
    files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = [[int(TRUTH[i]) + 1, i + 1] for i in range(0, 162, 40)]
    marks = tmp_path / "marks.txt"
    marks.write_text("# five points\n" + "".join(f"{a} {b}  # one\n" for a, b in pairs))
    saved = tmp_path / "map.mat"
    arguments = [files["ball.off"], files["copy.ply"], *QUICK, "--out", str(tmp_path)]
    more = ["--landmarks", str(marks), "--save-map", str(saved), "--one-based"]
    run_json(capsys, *arguments, *more)
    assert load_p2p(saved, one_based=True).tolist() == TRUTH.tolist()
    again = run_json(capsys, *arguments, "--initial-map", str(saved), "--one-based")
    assert load_p2p(again["map"]).tolist() == TRUTH.tolist()
    assert main(["match", *arguments, "--save-map", str(tmp_path / "map.csv")]) == 3
    assert "correspondence.unknown_format" in capsys.readouterr().err
