"""Street images: light, weather and patterns are where they belong, and views agree."""

from __future__ import annotations

import numpy as np
import pytest

from geo3d.errors import ConfigError
from geo3d.layout.layout import Layout, box
from geo3d.render.cameras import Camera
from geo3d.synth.streets.generate import generate_street
from geo3d.synth.streets.painter import StreetPainter, tone
from geo3d.synth.streets.patterns import band, every, fade, hashed, lane_marks, value_noise
from geo3d.synth.streets.styles import LIGHTS, LOOKS, STYLES, draw_style, look_of
from geo3d.synth.streets.surfels import StreetRays
from scenes.urban.conditions import RayScene, street_camera

SIZE = 32


@pytest.fixture(scope="module")
def street() -> Layout:
    return generate_street(60.0, seed=4)


@pytest.fixture(scope="module")
def painter(street: Layout) -> StreetPainter:
    return StreetPainter(street, seed=4)


def yard() -> Layout:
    """Ground at y = 0 and a wall 4 m high from z = 9 to 11; the camera drives along z at x = 0."""
    poses = np.tile(np.eye(4), (3, 1, 1))
    poses[:, :3, 3] = [(0, -1.5, 0), (0, -1.5, 1), (0, -1.5, 2)]
    parts = (
        box("g", "ground", (0, 0.5, 0), (60, 1, 60)),
        box("w", "wall", (0, -2, 10), (20, 4, 2)),
    )
    return Layout("yard", parts, poses)


def test_every_style_has_a_look() -> None:
    assert set(STYLES) == set(LIGHTS) | set(LOOKS)
    for name in STYLES:
        look_of((name,))
    for light in LIGHTS:
        for look in LOOKS:
            look_of((light, look))
    assert look_of(("night", "snow")).snow > 0 and look_of(("night", "snow")).lamps > 0
    assert look_of(("snow",)).sun == (0, 0, 0)


@pytest.mark.parametrize("names", [(), ("sunny", "night"), ("snow", "rain"), ("disco",)])
def test_other_combinations_are_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        look_of(names)
    assert caught.value.code == "street_images.unknown_style"


def test_drawn_styles_can_all_be_drawn_images_of() -> None:
    rng = np.random.default_rng(0)
    drawn = [draw_style(rng, 0.5) for _ in range(200)]
    for names in drawn:
        look_of(names)
    assert {len(names) for names in drawn} == {1, 2}
    assert {len(draw_style(rng, 0.0)) for _ in range(50)} == {1}


def test_hashed_numbers_are_even_and_depend_on_every_key() -> None:
    keys = np.arange(20_000)
    values = hashed(3, keys, 5)
    assert abs(values.mean() - 0.5) < 0.01 and abs(values.var() - 1 / 12) < 0.002
    assert abs(np.corrcoef(values, hashed(3, keys, 6))[0, 1]) < 0.03
    assert abs(np.corrcoef(values[1:], values[:-1])[0, 1]) < 0.03
    np.testing.assert_array_equal(values[7], hashed(3, np.array(7), 5))
    assert hashed(3, np.array(-7), 5) != hashed(3, np.array(7), 5)


def test_noise_meets_the_hash_at_lattice_points_and_is_smooth() -> None:
    lattice = np.array([[0.0, 2.0, -4.0], [6.0, 2.0, 8.0]])
    cells = (lattice / 2).astype(int)
    np.testing.assert_allclose(value_noise(lattice, 2.0, 9), hashed(9, *cells.T))
    line = np.stack([np.linspace(-3, 3, 4001)] * 2, axis=1)
    steps = np.abs(np.diff(value_noise(line, 1.0, 1)))
    assert steps.max() < 0.01


def test_details_fade_below_a_pixel() -> None:
    np.testing.assert_allclose(fade(1.0, np.array([0.1, 1.0, 10.0])), [1, 1, 0])


def test_lane_marks_by_hand() -> None:
    lateral = np.array([-1.75, -1.75, 1.65, 0.0, -1.75 + 3.5])
    along = np.array([1.0, 4.5, 4.0, 1.0, 1.0])
    thin = np.full(5, 0.02)
    np.testing.assert_allclose(lane_marks(lateral, along, thin, thin), [0.95, 0, 0.8, 0, 0])
    # a pixel of 32 cm across the middle line, which is 16 cm wide, holds half of its paint
    wide = np.array([0.32])
    half = lane_marks(np.array([-1.75]), np.array([1.0]), wide, np.array([0.02]))
    np.testing.assert_allclose(half, [0.475])


def test_bands_are_shares_of_a_pixel() -> None:
    x, pixel = np.array([0.0, 0.9, 1.0, 1.1, 2.0]), np.full(5, 0.4)
    np.testing.assert_allclose(band(x, -1, 1, pixel), [1, 0.75, 0.5, 0.25, 0])
    lines = every(np.array([0.0, 0.5, 1.0, 0.1]), 1.0, 0.2, np.array([0.1, 0.1, 0.1, 5.0]))
    np.testing.assert_allclose(lines, [1, 0, 1, 0.2])


def test_shadows_and_places_by_hand() -> None:
    layout = yard()
    camera = Camera(layout.trajectory[0], 40.0, 40.0, 16.0, 4.0, 32, 32)
    rays = StreetRays(layout)
    surfels = rays.surfels(camera)
    ground = surfels.label == 5
    np.testing.assert_allclose(surfels.points[ground, 1], 0, atol=1e-9)
    np.testing.assert_allclose(surfels.normals[ground], [[0, -1, 0]] * ground.sum(), atol=1e-9)
    np.testing.assert_allclose(surfels.lateral, surfels.points[:, 0], atol=1e-9)
    # the sun stands behind the wall at 45 degrees: its shadow is 4 m long and ends at z = 5
    lit = rays.lit(surfels, np.array([0.0, -1.0, 1.0]) / np.sqrt(2))
    z = surfels.points[:, 2]
    assert (lit[ground] == (z[ground] < 5)).all() and 0 < lit[ground].sum() < ground.sum()
    wall = (surfels.label == 8) & (surfels.normals[:, 2] < -0.5)
    assert wall.any() and not lit[wall].any()


def test_rays_see_what_the_condition_says(street: Layout) -> None:
    camera = street_camera(street.trajectory[5], 64)
    surfels, maps = StreetRays(street).surfels(camera), RayScene(street, 1).maps(camera, False)
    label = np.full(64 * 64, -1)
    label[surfels.rows] = surfels.label
    same = label == maps.label.ravel()
    # bodies are finer than their primitives, and never outside of them
    assert same.mean() > 0.9
    depth = np.full(64 * 64, np.inf)
    forward = surfels.directions[surfels.rows] @ camera.c2w[:3, 2]
    depth[surfels.rows] = surfels.distance * forward
    first = np.where(maps.depth.ravel() < 0, np.inf, maps.depth.ravel())
    assert (depth >= first - 0.02).all()
    ground = np.isin(maps.label.ravel(), (5, 6, 7, 11))
    assert same[ground].all()


def test_images_repeat_and_differ_by_style_and_seed(street: Layout, painter: StreetPainter) -> None:
    view = painter.view(street_camera(street.trajectory[5], SIZE))
    images = {name: painter.paint(view, (name,)) for name in STYLES}
    again = StreetPainter(street, seed=4)
    for name, image in images.items():
        assert image.shape == (SIZE, SIZE, 3) and image.dtype == np.uint8
        same = again.paint(again.view(view.camera), (name,))
        np.testing.assert_array_equal(image, same)
    means = {name: float(p.mean()) for name, p in images.items()}
    assert means["night"] < 0.6 * means["rain"] < 0.6 * means["overcast"]
    assert (StreetPainter(street, 5).paint(view, ("sunny",)) != images["sunny"]).mean() > 0.3


def test_style_changes_what_it_should(street: Layout, painter: StreetPainter) -> None:
    camera = street_camera(street.trajectory[5], SIZE)
    view, label = painter.view(camera), RayScene(street, 1).maps(camera, False).label

    def mean(style: tuple[str, ...], number: int) -> np.ndarray:
        return painter.paint(view, style)[label == number].mean(axis=0) / 255

    sky, road = mean(("sunny",), -1), mean(("sunny",), 5)
    assert sky[2] > sky[0] + 0.1
    assert mean(("sunset",), -1)[0] > mean(("sunset",), -1)[2]
    assert (mean(("snow",), 5) > road + 0.15).all()
    assert (mean(("night",), -1) < 0.25).all()
    near_grey = mean(("fog",), 8)
    assert np.ptp(near_grey) < 0.08
    leaf, turned = mean(("sunny",), 10), mean(("autumn",), 10)
    assert leaf[1] > leaf[0] and turned[0] - turned[1] > leaf[0] - leaf[1]
    wall, brick = mean(("sunny",), 8), mean(("brick",), 8)
    assert brick[0] - brick[2] > wall[0] - wall[2]


def test_supersampling_is_a_mean(street: Layout, painter: StreetPainter) -> None:
    coarse = street_camera(street.trajectory[5], 16)
    fine = street_camera(street.trajectory[5], 32)
    a = painter.paint(painter.view(coarse, 2), ("overcast",)).astype(float)
    b = painter.paint(painter.view(fine, 1), ("overcast",)).astype(float)
    # equal in linear light, up to the footprint by which details fade
    b = (b / 255) ** 2.2
    mean = b.reshape(16, 2, 16, 2, 3).mean(axis=(1, 3)) ** (1 / 2.2) * 255
    assert np.abs(a - mean).mean() < 4


def test_tone_rises_and_stays_in_range() -> None:
    light = np.linspace(0, 20, 500)[:, None].repeat(3, axis=1)
    shown = tone(light)
    assert (np.diff(shown[:, 0]) >= 0).all() and shown.min() == 0 and shown.max() <= 1
