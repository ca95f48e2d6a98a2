"""The page of a run: what is on it, what is never on it, and that it needs nothing else."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from helpers import bumpy_sphere, grid
from PIL import Image
from report_runs import match_run, plain_run, save_splats

from apps.cli import main
from apps.report import pictures, shapes
from apps.report.packing import _frame, packed_group
from apps.report.page import page
from apps.report.records import read_record
from apps.report.shapes import CONFIDENCE, MATCHED, Group, Model, shapes_of
from geo3d.errors import InputError
from geo3d.mesh.io import save_mesh
from geo3d.runs import start_run

EVIL = '<img src=x onerror="alert(1)">'
ENDS = "</script><script>alert(1)</script>"


def found_in(text: str, pattern: str) -> str:
    """Return what the pattern's first group holds."""
    found = re.search(pattern, text)
    assert found is not None
    return found[1]


class Tags(HTMLParser):
    """Names and attributes of a page's elements."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def test_a_match_is_shown_in_3d_with_picture_numbers_and_command(tmp_path: Path) -> None:
    run, p2p = match_run(tmp_path)
    text = page([read_record(run.path)])
    tags = Tags(text)
    assert len(tags.named("canvas")) == 2 and len(tags.named("img")) == 1
    assert "Probably right" in text and "geo3d match a.off b.off" in text
    groups = json.loads(found_in(text, r'id="groups">(.*?)</script>'))
    source, target = groups[0]["models"]
    assert groups[0]["sets"] == [MATCHED, CONFIDENCE]
    numbers = found_in(text, rf'id="{target["id"]}">([^<]*)<')
    data = base64.b64decode(numbers)
    matches = np.frombuffer(data, "<i4", target["count"], target["matches"])
    assert np.array_equal(matches, p2p)
    assert "matches" not in source


def test_places_colours_and_corners_come_back(tmp_path: Path) -> None:
    mesh = bumpy_sphere(2)
    colors = np.arange(3 * mesh.n_vertices).reshape(-1, 3).astype(np.uint8)
    model = Model("a", mesh.vertices * 100 + 7, {"c": colors}, mesh.faces)
    header, data = packed_group(Group([model]), 0)
    (h,), raw = header["models"], base64.b64decode(data["model-0"])
    places = np.frombuffer(raw, "<u2", 3 * h["count"], h["places"]).reshape(-1, 3)
    back = np.array(h["low"]) + places / 65535 * np.array(h["size"])
    assert np.abs(back - model.points).max() < 0.51 * max(h["size"]) / 65535
    assert np.array_equal(np.frombuffer(raw, "u1", colors.size, h["colors"]["c"]), colors.ravel())
    corners = np.frombuffer(raw, "<u4", mesh.faces.size, h["corners"])
    assert np.array_equal(corners.reshape(-1, 3), mesh.faces)
    assert np.linalg.norm((model.points - h["center"]) / h["radius"], axis=1).max() < 1.2


def test_splats_of_scenes_are_turned_to_y_up(tmp_path: Path) -> None:
    places = np.array([[1.0, 2.0, 3.0], [0.0, -1.0, 4.0], [0.0, 0.0, 0.0]])
    for verb, sign in (("scene", -1.0), ("generate", 1.0)):
        run = plain_run(tmp_path, verb)
        save_splats(run.outputs / "gaussians.ply", places)
        group = shapes_of(run.path, verb)
        assert group is not None
        (model,) = group.models
        assert np.allclose(model.points, places * [1, sign, sign])
        assert model.splats is not None and np.allclose(model.splats.scales, 0.05)
        assert np.allclose(
            np.abs(model.splats.turns[0]), [0, 1, 0, 0] if sign < 0 else [1, 0, 0, 0]
        )
        assert (model.colors[shapes.COLOURS] == [235, 128, 128]).all()


def test_large_shapes_are_simplified_and_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shapes, "FACES", 300)
    monkeypatch.setattr(shapes, "POINTS", 50)
    run = plain_run(tmp_path)
    save_mesh(bumpy_sphere(3), run.outputs / "big.ply")
    places = np.random.default_rng(0).normal(size=(400, 3))
    save_splats(run.outputs / "cloud.ply", places, np.full((400, 3), 0.1))
    group = shapes_of(run.path, "bench")
    assert group is not None and "big" in group.notes[0] and "cloud" in group.notes[0]
    sizes = {m.title: len(m.points) if m.faces is None else len(m.faces) for m in group.models}
    assert sizes["cloud"] == 50 and 100 < sizes["big"] <= 300


def test_one_file_of_each_shape_is_shown(tmp_path: Path) -> None:
    run = plain_run(tmp_path)
    for name in ("a.glb", "a.obj", "a.ply", "b.off"):
        save_mesh(grid(4), run.outputs / name)
    (run.outputs / "broken.ply").write_bytes(b"ply\nnonsense")
    group = shapes_of(run.path, "bench")
    assert group is not None and sorted(m.title for m in group.models) == ["a", "b"]
    assert any("broken.ply" in note for note in group.notes)


def test_files_for_other_programs_are_not_shown_beside_their_own(tmp_path: Path) -> None:
    run = plain_run(tmp_path, "scene")
    places = np.array([[1.0, 2.0, 3.0], [0.0, -1.0, 4.0]])
    save_splats(run.outputs / "gaussians.ply", places)
    for name in ("gaussians.glb", "mesh.glb", "mesh_textured.glb"):
        save_mesh(grid(4), run.outputs / name)
    group = shapes_of(run.path, "scene")
    assert group is not None
    assert {m.title: m.splats is not None for m in group.models} == {
        "mesh": False,
        "gaussians": True,
    }


def test_text_from_files_is_never_markup(tmp_path: Path) -> None:
    numbers = {
        EVIL: EVIL,
        "rows": [{EVIL: EVIL}],
        "inner": {ENDS: {EVIL: [EVIL]}},
        "list": [EVIL, ENDS],
        "probability": EVIL,
    }
    run = plain_run(tmp_path, "match", numbers, "x", ["--style", EVIL, ENDS])
    state = json.loads((run.path / "manifest.json").read_text())
    for key in ("name", "verb", "platform", "device", "seed", "id", "created"):
        state[key] = f"{EVIL}{ENDS}"
    state["versions"] = {EVIL: ENDS}
    state["inputs"] = [{"path": EVIL, "sha256": ENDS}]
    (run.path / "manifest.json").write_text(json.dumps(state))
    (run.path / "config.yaml").write_text(f"a: {ENDS}{EVIL}\n")
    (run.path / "request.json").write_text(json.dumps({EVIL: ENDS}))
    (run.outputs / "t.csv").write_text(f"{EVIL},b\n{ENDS},{EVIL}\n")
    save_mesh(grid(3), run.outputs / "<b>bold<.ply")
    Image.new("RGB", (9, 9)).save(run.previews / "<b onclick=1>.png")
    (run.outputs / "own.html").write_text(f"<script>alert(2)</script>{EVIL}")
    text = page([read_record(run.path)], note=EVIL)
    tags = Tags(text)
    assert len(tags.named("script")) == 3  # header, one model, our code
    assert all(not (set(a) & {"onerror", "onclick"}) for _, a in tags.found)
    assert {str(a["src"])[:5] for a in tags.named("img")} == {"data:"}
    assert not tags.named("b") or all(not a for a in tags.named("b"))
    assert "alert(2)" not in text


def test_only_what_is_written_in_the_page_may_run(tmp_path: Path) -> None:
    text = page([read_record(plain_run(tmp_path).path)])
    policy = found_in(text, r'Content-Security-Policy" content="([^"]*)"')
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    folder = Path(pictures.__file__).parent
    code = "".join((folder / name).read_text() for name in ("panes.js", "page.js"))
    assert "eval" not in code and "innerHTML" not in code and "fetch" not in code
    assert not re.search(r'(src|href)="(?!data:|#)', text)
    assert " style=" not in text


def test_links_that_lead_out_of_the_run_are_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "secret"
    outside.mkdir()
    Image.new("RGB", (30, 30), "red").save(outside / "secret.png")
    save_mesh(grid(3), outside / "secret.ply")
    (outside / "secret.csv").write_text("password\nhunter2\n")
    (outside / "secret.yaml").write_text("password: hunter2\n")
    run = plain_run(tmp_path / "runs")
    (run.previews / "secret.png").symlink_to(outside / "secret.png")
    (run.outputs / "secret.ply").symlink_to(outside / "secret.ply")
    (run.outputs / "secret.csv").symlink_to(outside / "secret.csv")
    (run.outputs / "folder").symlink_to(outside)
    (run.path / "config.yaml").unlink()
    (run.path / "config.yaml").symlink_to(outside / "secret.yaml")
    text = page([read_record(run.path)])
    assert "hunter2" not in text and "secret" not in text.replace(str(tmp_path), "")
    assert len(Tags(text).named("img")) == 1 and not Tags(text).named("canvas")


def test_damaged_pictures_are_left_out(tmp_path: Path) -> None:
    run = plain_run(tmp_path)
    (run.previews / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(30))
    (run.previews / "page.png").write_text("<svg onload=alert(1)>")
    (run.outputs / "film.mp4").write_bytes(b"<html>" + bytes(50))
    found, left_out = pictures.pictures_of(run.path, "bench")
    assert [p.title for p in found] == ["picture"] and left_out == 3


def test_pictures_keep_to_the_budget(tmp_path: Path) -> None:
    run = plain_run(tmp_path)
    noise = np.random.default_rng(0).integers(0, 255, (500, 900, 3), np.uint8)
    Image.fromarray(noise).save(run.previews / "noise.png")
    deep = np.linspace(0, 65535, 900).reshape(30, 30).astype(np.uint16)
    Image.fromarray(deep).save(run.previews / "deep.png")
    found, left_out = pictures.pictures_of(run.path, "bench", 100_000)
    assert {p.title for p in found} == {"picture", "deep"} and left_out == 1
    found, left_out = pictures.pictures_of(run.path, "bench")
    assert left_out == 0 and max(p.n_bytes for p in found) < 2_000_000


@pytest.mark.parametrize("status", ["failed", "running", "cancelled"])
def test_unfinished_runs_are_shown_too(tmp_path: Path, status: str) -> None:
    run = start_run("scene", "street", root=tmp_path)
    run._write_state(status, "no room on the disk" if status == "failed" else "")
    (run.path / "log.txt").write_text("what happened")
    text = page([read_record(run.path)])
    assert {"failed": "no room on the disk", "running": "running", "cancelled": "--resume"}[
        status
    ] in text
    assert "what happened" in text


def test_runs_of_one_verb_are_put_side_by_side(tmp_path: Path) -> None:
    runs = [plain_run(tmp_path, "bench", {"error": e}, f"r{i}") for i, e in enumerate((1.5, 2.5))]
    text = page([read_record(run.path) for run in runs])
    assert "Side by side" in text and text.count("<article") == 2
    row = found_in(text, r"<tr><td>error</td>(.*?)</tr>")
    assert "1.5" in row and "2.5" in row
    other = plain_run(tmp_path, "match", {"probability": 0.3}, "m")
    text = page([read_record(runs[0].path), read_record(other.path)])
    assert "Side by side" not in text and "Probably wrong" in text


def test_the_command_names_inputs_whole_and_leaves_out_where_to(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    shape = tmp_path / "in" / "my shape.off"
    shape.write_text("OFF")
    argv = ["x/apps/cli.py", "match", "in/my shape.off", "--seed", "3", "--out", "/o", "--json"]
    with start_run("match", "m", root=tmp_path, inputs=[shape], argv=argv) as run:
        run.finish({})
    record = read_record(run.path)
    assert record.command == ["geo3d", "match", str(shape), "--seed", "3"]
    assert f"geo3d match &#x27;{shape}&#x27; --seed 3" in page([record])


def test_the_verb_writes_where_it_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = plain_run(tmp_path)
    target = tmp_path / "new" / "it.html"
    assert main(["view", str(run.path), "--html", str(target)]) == 0
    assert str(target) in capsys.readouterr().out
    assert target.read_text("utf-8").startswith("<!doctype html>")
    assert main(["view", str(run.path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert Path(told["html"]).stat().st_size == told["bytes"]
    Path(told["html"]).unlink()


def test_mistakes_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(plain_run(tmp_path).path)
    cases = [
        ([str(tmp_path)], "run.not_a_run"),
        ([str(tmp_path / "nothing")], "run.not_a_run"),
        ([run] * 13, "view.too_many"),
        ([run, "--html", str(tmp_path)], "view.is_folder"),
    ]
    for words, code in cases:
        assert main(["view", *words, "--json"]) in (2, 3)
        assert json.loads(capsys.readouterr().out)["error"]["code"] == code


def test_a_state_without_sense_is_no_run(tmp_path: Path) -> None:
    run = plain_run(tmp_path)
    (run.path / "manifest.json").write_text("[]")
    state = json.loads((run.path / "state.json").read_text())
    (run.path / "state.json").write_text(json.dumps({**state, "record": [1]}))
    with pytest.raises(InputError, match="not a run folder"):
        read_record(run.path)


def test_all_of_a_shape_is_seen_but_not_what_floats_far_off() -> None:
    """One vertex in two hundred is the tip of a foot; a floater is a hundred sizes away."""
    body = np.random.default_rng(0).uniform(-1, 1, (400, 3))
    foot = np.array([[0.0, -1.6, 0.0]] * 2)
    for extra, all_seen in ((foot, True), (100 * foot, False)):
        points = np.concatenate([body, extra])
        middle, radius = _frame([Model("", points, {})])
        away = np.linalg.norm(points - middle, axis=1)
        assert (away.max() <= radius + 1e-9) == all_seen
        assert (away[:400] <= radius).mean() > 0.98 and radius < 2.5
