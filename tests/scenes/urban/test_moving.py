"""Things that move along tracks: where they are, and that a scene shows them there."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from geo3d.errors import InputError
from geo3d.layout.layout import Layout, box, slab
from scenes.urban.config import FieldConfig, FieldsConfig
from scenes.urban.moving import Track, layout_at, load_tracks, render_moving
from scenes.urban.scene import Scene

SMALL = FieldConfig(levels=2, base=4, finest=8, log2_rows=8, hidden=8, bottleneck=4)


def street(yaw: float = 0.0) -> Layout:
    rails = [np.array([[x, 0.0, z] for z in (-4.0, 40.0)]) for x in (-4.0, 4.0)]
    drive = np.tile(np.eye(4), (9, 1, 1))
    drive[:, 1, 3], drive[:, 2, 3] = -1.5, np.arange(9)
    car = box("car", "car", (2.0, -0.8, 12.0), (1.8, 1.6, 4.2), yaw)
    return Layout("short", (slab("road", "road", rails[0], rails[1]), car), drive, "")


def track(*places: tuple[float, float], yaw_deg: list[float] | None = None) -> Track:
    yaw = None if yaw_deg is None else np.array(yaw_deg)
    return Track(np.arange(len(places), dtype=np.float64), np.array(places, np.float64), yaw)


def sides(layout: Layout) -> np.ndarray:
    low, high = layout.primitive("car").bounds()
    return high - low


def middle(layout: Layout) -> np.ndarray:
    return layout.primitive("car").bounds().mean(axis=0)


def test_a_thing_is_between_its_places_at_its_own_height() -> None:
    way = {"car": track((2, 12), (2, 20))}
    assert np.allclose(middle(layout_at(street(), way, 0.25)), [2, -0.8, 14])
    assert np.allclose(middle(layout_at(street(), way, -5)), [2, -0.8, 12])
    assert np.allclose(middle(layout_at(street(), way, 9)), [2, -0.8, 20])


@pytest.mark.parametrize("yaw", [0.0, np.pi, np.pi / 2, -np.pi / 2])
def test_it_goes_along_its_longer_side_wherever_it_stood(yaw: float) -> None:
    around = {"car": track((2, 12), (2, 20), (10, 20))}
    before, after = layout_at(street(yaw), around, 0.5), layout_at(street(yaw), around, 1.5)
    assert np.allclose(sides(before), [1.8, 1.6, 4.2]), "along z"
    assert np.allclose(sides(after), [4.2, 1.6, 1.8]), "along x"


def test_what_reverses_does_not_turn_round_and_what_stands_keeps_its_direction() -> None:
    still = street(0.3)
    standing = layout_at(still, {"car": track((5, 5), (5, 5))}, 0.5)
    assert np.allclose(
        standing.primitive("car").transform[:3, :3], still.primitive("car").transform[:3, :3]
    )
    backwards = layout_at(street(), {"car": track((2, 20), (2, 12))}, 0.5)
    front = backwards.primitive("car").transform[:3, 2]
    assert front[2] > 0
    waits = layout_at(street(), {"car": track((2, 12), (10, 12), (10, 12))}, 1.5)
    assert np.allclose(sides(waits), [4.2, 1.6, 1.8])


def test_given_directions_are_those_of_layouts_and_go_the_short_way_round() -> None:
    way = {"car": track((2, 12), (2, 12), yaw_deg=[170.0, -170.0])}
    found = layout_at(street(1.0), way, 0.5).primitive("car").transform
    wanted = box("car", "car", (2.0, -0.8, 12.0), (1.8, 1.6, 4.2), np.pi).transform
    assert np.allclose(found, wanted)


def test_files_are_read_and_faults_named(tmp_path: Path) -> None:
    path = tmp_path / "tracks.json"

    def write(content: object) -> Path:
        path.write_text(json.dumps(content))
        return path

    good = {"car": {"times": [0, 2], "places": [[2, 12], [2, 20]]}}
    assert np.allclose(load_tracks(write(good), street())["car"].place(1.0), [2, 16])
    bad = [
        [],
        {"car": {"times": [0, 2], "places": [[2, 12]]}},
        {"car": {"times": [2, 0], "places": [[2, 12], [2, 20]]}},
        {"car": {"times": [0, 1], "places": [[2, 12], [2, float("nan")]]}},
        {"car": {"times": [0], "places": [[2, 12]], "speed": 3}},
        {"car": {"times": [0], "places": [[2, 12]], "yaw_deg": [1, 2]}},
        {"car": {"places": [[2, 12]]}},
    ]
    for content in bad:
        with pytest.raises(InputError, match=r"tracks\.bad_file"):
            load_tracks(write(content), street())
    path.write_text("no JSON")
    with pytest.raises(InputError, match=r"tracks\.bad_file"):
        load_tracks(path, street())
    with pytest.raises(InputError, match=r"tracks\.not_movable"):
        load_tracks(write({"road": good["car"]}), street())
    with pytest.raises(InputError, match=r"layout\.unknown_id"):
        load_tracks(write({"lorry": good["car"]}), street())


@torch.no_grad()
def test_a_scene_shows_things_where_they_are_and_is_as_before_afterwards() -> None:
    layout = street()
    scene = Scene(FieldsConfig(stuff=SMALL, objects=SMALL, samples=8, far=60.0), layout)
    way = {"car": track((2, 12), (-2, 12), yaw_deg=[0.0, 0.0])}
    poses = np.stack([layout.trajectory[0]] * 2)
    found = list(render_moving(scene, way, poses, [0.0, 1.0], 24))
    label = [view.maps.label == layout.primitive("car").class_id for view, _ in found]
    assert label[0][:, 12:].any() and not label[0][:, :8].any()
    assert label[1][:, :12].any() and not label[1][:, 16:].any()
    assert not torch.equal(found[0][1].rgb, found[1][1].rgb)
    assert scene.layout is layout
    again = list(render_moving(scene, {}, poses, [0.0, 1.0], 24))
    assert torch.equal(again[0][1].rgb, found[0][1].rgb)
