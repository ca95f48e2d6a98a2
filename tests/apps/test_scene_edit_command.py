"""``geo3d scene --edit``: a finished scene is changed in a run folder of its own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import urban_teachers

from apps.cli import main
from geo3d.layout.layout import Layout, box, slab
from geo3d.runs import start_run
from scenes.urban.config import (
    FieldConfig,
    FieldsConfig,
    FitConfig,
    OutputConfig,
    SceneConfig,
    ViewConfig,
)
from scenes.urban.constraints import ConstraintConfig
from scenes.urban.driver import finish
from scenes.urban.guidance import SampleConfig
from scenes.urban.scene import Scene

TINY = FieldConfig(levels=2, finest=32, log2_rows=8, hidden=4, bottleneck=4)


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A run with a scene nobody trained."""
    config = SceneConfig(
        prompt="night",
        teacher=str(urban_teachers.write(tmp_path / "teacher")),
        fields=FieldsConfig(cell=8.0, band=1.0, stuff=TINY, objects=TINY, samples=4),
        views=ViewConfig(spacing=20.0, turns_deg=(0.0,), size=8),
        sampling=SampleConfig(steps=1),
        constraints=ConstraintConfig(semantics=0),
        fit=FitConfig(steps_per_view=1, rays=64, rounds=1),
        outputs=OutputConfig(frames=0, voxel=0.0, points=0, measured=0),
    )
    rails = np.array([[-4.0, 1.5, -6.0], [-4.0, 1.5, 40.0]])
    road = slab("road", "road", rails, rails + np.array([8.0, 0, 0]))
    poses = np.tile(np.eye(4), (2, 1, 1))
    poses[1, 2, 3] = 1.0
    layout = Layout("tiny", (road, box("car", "car", (1.5, 0.7, 14), (1.8, 1.6, 4.2))), poses)
    with start_run("scene", "tiny", config, tmp_path / "runs") as run:
        scene = Scene(config.fields, layout)
        for name in scene.block_names:
            scene.blocks.get(name)
        # what was taken back counts as changed, and is written
        scene.blocks.load_state_dict(scene.blocks.state_dict())
        run.finish(finish(scene, config, run.path, None, {}).metrics)
    return run.path


def test_a_car_is_moved_and_nothing_else(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {p.name: p.read_bytes() for p in (run_folder / "outputs/scene/blocks").iterdir()}
    assert main(["scene", "--edit", str(run_folder), "--list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["primitives"]
    assert [row["id"] for row in listed] == ["road", "car"]
    given = ["--move", "car", "0", "9", "--device", "cpu", "--out", str(tmp_path / "runs")]
    assert main(["scene", "--edit", str(run_folder), *given, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    made = Path(answer["run"]) / "outputs" / "scene"
    after = {p.name: p.read_bytes() for p in (made / "blocks").iterdir()}
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed and len(changed) == answer["blocks_changed"] <= answer["blocks_trained"]
    assert answer["blocks_same"] == len(before) - len(changed) > 2
    assert not changed & {"object-car.safetensors", "sky.safetensors"}
    ids = {p["id"]: p for p in json.loads((made / "layout.json").read_text())["primitives"]}
    assert ids["car"]["transform"][11] == 23
    assert before == {
        p.name: p.read_bytes() for p in (run_folder / "outputs/scene/blocks").iterdir()
    }


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ([], "scene.no_change"),
        (["--move", "car", "0", "far"], "scene.bad_change"),
        (["--remove", "bike"], "layout.unknown_id"),
        (["--insert", "none.glb", "0", "8"], "file.missing"),
        (["--restyle", "car", "grotesque"], "styles.unknown"),
        (["--remove", "road"], "layout.drive_without_ground"),
        (["--move", "road", "90", "0"], "layout.drive_without_ground"),
    ],
)
def test_bad_changes(
    run_folder: Path, given: list[str], code: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["scene", "--edit", str(run_folder), *given]) in (2, 3)
    assert f"[{code}" in capsys.readouterr().err
    assert len(list(run_folder.parent.iterdir())) == 1


def test_tracks_film_a_scene_and_go_with_no_change(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tracks = tmp_path / "tracks.json"
    tracks.write_text('{"car": {"times": [0, 0.1], "places": [[1.5, 14], [-1.5, 14]]}}')
    given = ["--set", "outputs.frames=2", "--set", "outputs.frame_size=24"]
    film = ["scene", "--edit", str(run_folder), "--tracks", str(tracks), *given]
    film += ["--out", str(tmp_path / "runs"), "--json"]
    assert main([*film, "--move", "car", "0", "1"]) == 2
    assert "scene.tracks_alone" in capsys.readouterr().out
    assert main(film) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["frames"] == 2 and answer["moving"] == ["car"]
    frames = sorted((Path(answer["run"]) / "outputs" / "frames").iterdir())
    assert len(frames) == 2 and frames[0].read_bytes() != frames[1].read_bytes()
    tracks.write_text("{}{")
    assert main(film) == 3
    assert "tracks.bad_file" in capsys.readouterr().out
