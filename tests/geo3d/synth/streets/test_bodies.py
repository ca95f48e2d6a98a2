"""Bodies stand inside their primitives, upright and by their id; words about things are obeyed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from geo3d.layout.layout import Layout, Primitive, Region, box, ellipsoid
from geo3d.render.cameras import Camera
from geo3d.synth.streets.bodies import Part, body_of, key_of
from geo3d.synth.streets.frames import frame_of
from geo3d.synth.streets.painter import StreetPainter
from geo3d.synth.streets.wishes import known_words, wish_of

NAMES = (
    "car", "truck", "bus", "building", "person", "bicycle", "pole", "traffic sign", "trash bin",
)  # fmt: skip
SIZES = {"building": (9.0, 8.0, 12.0), "pole": (0.2, 5.0, 0.2), "bus": (2.5, 3.1, 11.0)}


def thing(name: str, yaw: float = 0.4, id: str = "one") -> Primitive:
    return box(id, name, (3.0, -1.0, 12.0), SIZES.get(name, (1.8, 1.5, 4.4)), yaw)


def world_box(primitive: Primitive) -> Primitive:
    """Return the same box as published samples store it: world coordinates, no transform."""
    return replace(primitive, vertices=primitive.world_vertices(), transform=np.eye(4))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("number", range(6))
def test_bodies_lie_inside_their_boxes(name: str, number: int) -> None:
    primitive = thing(name, id=f"{name}-{number}")
    body, frame = body_of(primitive)
    local = (body.vertices - frame.to_world[:3, 3]) @ np.linalg.inv(frame.to_world[:3, :3]).T
    assert (np.abs(local[:, [0, 2]]) < 0.5 + 1e-9).all()
    assert (local[:, 1] > -1e-9).all() and (local[:, 1] < 1 + 1e-9).all()
    assert len(body.parts) == len(body.faces) and body.faces.max() < len(body.vertices)


def test_cars_have_cabins_and_wheels_and_houses_roofs() -> None:
    parts = {name: set(body_of(thing(name, id="b-3"))[0].parts.tolist()) for name in NAMES}
    assert {Part.CABIN, Part.WHEEL} <= parts["car"] and {Part.HEAD, Part.LEGS} <= parts["person"]
    roofed = [Part.ROOF in body_of(thing("building", id=f"h-{i}"))[0].parts for i in range(20)]
    assert 10 < sum(roofed) < 20


def test_crowns_lie_inside_their_ellipsoids() -> None:
    ball = ellipsoid("tree", "vegetation", (1.0, -4.0, 9.0), (3.0, 4.0, 2.0), 0.7)
    body, _ = body_of(ball)
    inside = (body.vertices - ball.transform[:3, 3]) @ np.linalg.inv(ball.transform[:3, :3]).T
    assert (np.linalg.norm(inside, axis=1) < 0.5).all() and len(body.faces) > 500


@pytest.mark.parametrize("yaw", [0.0, 0.4, 2.0, -1.2])
def test_frames_of_turned_boxes_do_not_depend_on_how_they_are_stored(yaw: float) -> None:
    primitive = thing("building", yaw)
    for frame in (frame_of(primitive), frame_of(world_box(primitive))):
        np.testing.assert_allclose(frame.size, (12, 8, 9), atol=1e-9)
        np.testing.assert_allclose(frame.to_world[:3, 1], (0, -8, 0), atol=1e-9)
        np.testing.assert_allclose(frame.to_world[:3, 3], (3, 3, 12), atol=1e-9)
        along = 12 * np.array([np.sin(yaw), 0, np.cos(yaw)])
        np.testing.assert_allclose(np.abs(frame.to_world[:3, 0]), np.abs(along), atol=1e-9)
    front = frame_of(thing("car", yaw)).to_world[:3, 0]
    np.testing.assert_allclose(front / 4.4, (np.sin(yaw), 0, np.cos(yaw)), atol=1e-9)


def test_frames_of_ellipsoids() -> None:
    ball = ellipsoid("tree", "vegetation", (1.0, -4.0, 9.0), (3.0, 5.0, 2.0), 0.7)
    for primitive in (ball, world_box(ball)):
        frame = frame_of(primitive)
        np.testing.assert_allclose(sorted(frame.size), (2, 3, 5), atol=0.01)
        assert frame.size[1] == pytest.approx(5, abs=0.01)


def test_keys_depend_on_the_id_alone() -> None:
    assert key_of(thing("car", id="a")) == key_of(thing("bus", id="a")) != key_of(thing("car"))


def test_words_ask_for_colours_materials_and_seasons() -> None:
    assert wish_of("Red brick").material == "brick"
    assert wish_of("dark green").color == (0.03, 0.12, 0.045)
    assert wish_of("a snowy wooden house").states == {"snow"}
    assert wish_of("groovy").is_empty and not wish_of("modern").is_empty
    assert not any(wish_of(word).is_empty for word in known_words() if word not in SHADES)


SHADES = ("light", "pale", "bright", "dark", "deep")


def street(*styles: str) -> Layout:
    """Return a row of houses before a camera at the origin, each with a style."""
    ground = box("g", "ground", (0, 0.5, 10), (60, 1, 60))
    houses = [
        box(
            f"h{i}", "building", (7.0 * (i - (len(styles) - 1) / 2), -4, 20), (6, 8, 6), style=style
        )
        for i, style in enumerate(styles)
    ]
    pose = np.eye(4)
    pose[1, 3] = -1.5
    return Layout("row", (ground, *houses), pose[None])


def means(layout: Layout, style: tuple[str, ...] = ("overcast",)) -> dict[str, np.ndarray]:
    """Return the mean colour of each primitive in an image."""
    painter = StreetPainter(layout, 3)
    camera = Camera(layout.trajectory[0], 40.0, 40.0, 32.0, 40.0, 64, 64)
    view = painter.view(camera, 1)
    image = painter.paint(view, style).reshape(-1, 3)[view.surfels.rows] / 255
    ids = [p.id for p in layout.primitives]
    return {
        ids[i]: image[view.surfels.instance == i].mean(axis=0)
        for i in np.unique(view.surfels.instance).tolist()
    }


def test_the_style_of_a_thing_changes_that_thing_alone() -> None:
    plain, styled = means(street("", "", "")), means(street("", "blue", ""))
    for id in ("h0", "h2"):
        np.testing.assert_array_equal(plain[id], styled[id])
    bluer = (styled["h1"] - plain["h1"]) @ (-1, 0, 1)
    assert bluer > 0.1
    brick = means(street("", "brick", ""))["h1"]
    assert brick[0] - brick[2] > 0.05 and (brick != plain["h1"]).any()
    snowy = means(street("", "snow", ""))
    assert (snowy["h1"] > plain["h1"] + 0.02).all()
    np.testing.assert_array_equal(snowy["h0"], plain["h0"])


def test_taking_one_thing_away_leaves_the_others_as_they_look() -> None:
    layout = street("", "", "")
    fewer = replace(layout, primitives=(layout.primitives[0], *layout.primitives[2:]))
    before, after = means(layout), means(fewer)
    np.testing.assert_array_equal(before["h2"], after["h2"])


def test_regions_have_looks_of_their_own() -> None:
    layout = street("", "", "")
    region = Region((-20.0, 0.0, 0.0, 60.0), "snowy")
    plain, changed = means(layout), means(replace(layout, regions=(region,)))
    assert (changed["g"] > plain["g"] + 0.05).all()
    np.testing.assert_array_equal(changed["h2"], plain["h2"])
