"""Images: right way up, right colours, right layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers import bumpy_sphere, grid, icosphere, permuted
from PIL import Image

from geo3d.errors import InputError
from geo3d.mesh.mesh import Mesh
from geo3d.render.cameras import orbit
from geo3d.render.previews import (
    contact_sheet,
    display_azimuth,
    match_image,
    match_preview,
    save_png,
    shaded_view,
)
from geo3d.render.shading import Painter, Style, render_mesh

NO_FACES = np.zeros((0, 3), np.int64)


def drawn(image: np.ndarray) -> np.ndarray:
    return (image < 250).any(axis=2)


def red_top(mesh: Mesh, axis: int = 1) -> np.ndarray:
    colors = np.tile(np.array([0, 0, 255], np.uint8), (mesh.n_vertices, 1))
    middle = np.ptp(mesh.vertices[:, axis]) / 2 + mesh.vertices[:, axis].min()
    colors[mesh.vertices[:, axis] > middle] = [255, 0, 0]
    return colors


@pytest.mark.parametrize("cloud", [False, True])
@pytest.mark.parametrize(("up", "axis"), [("y", 1), ("z", 2)])
def test_up_is_up(up: str, axis: int, cloud: bool) -> None:
    sphere = icosphere(3)
    shape = Mesh(sphere.vertices, NO_FACES) if cloud else sphere
    image = shaded_view(shape, red_top(sphere, axis), azimuth=0.4, up=up, size=64).astype(int)
    redder = image[..., 0] - image[..., 2]
    assert drawn(image[:32]).sum() > 500 and drawn(image[32:]).sum() > 500
    assert redder[:24].sum() > 0 > redder[40:].sum()


def test_right_is_right_from_the_front() -> None:
    sphere = icosphere(3)
    image = shaded_view(sphere, red_top(sphere, 0), azimuth=0.0, size=64).astype(int)
    redder = image[..., 0] - image[..., 2]
    assert redder[:, 40:].sum() > 0 > redder[:, :24].sum()


def test_a_sphere_fills_its_disc_and_nothing_else() -> None:
    image = shaded_view(icosphere(4), azimuth=0.0, size=100, style=Style(supersample=1))
    j, i = np.mgrid[:100, :100] + 0.5
    distance = np.hypot(i - 50, j - 50)
    mask = drawn(image)
    assert mask[distance < 42].all() and not mask[distance > 47].any()


def test_a_point_cloud_covers_the_same_place() -> None:
    sphere = icosphere(4)
    solid = drawn(shaded_view(sphere, azimuth=0.0, size=100))
    dots = drawn(shaded_view(Mesh(sphere.vertices, NO_FACES), azimuth=0.0, size=100))
    assert dots[solid].mean() > 0.9
    assert dots.sum() < 1.2 * solid.sum()


def test_nearer_points_hide_farther_ones() -> None:
    camera = orbit(icosphere(1), 0.0, 0.0, size=32)
    points = np.array([[0, 0, 0.5], [0, 0, -0.5]])
    colors = np.array([[255, 0, 0], [0, 0, 255]], np.uint8)
    for order in ([0, 1], [1, 0]):
        image = render_mesh(Mesh(points[order], NO_FACES), camera, colors[order])
        assert image[16, 16, 0] > 50 > image[16, 16, 2]


def test_open_surfaces_are_lit_from_both_sides() -> None:
    front = shaded_view(grid(5), azimuth=0.0, size=40)
    back = shaded_view(grid(5), azimuth=np.pi, size=40)
    assert abs(front[20, 20].astype(int) - back[20, 20]).max() < 40
    assert back[20, 20].min() > 80


def test_shadows_only_darken() -> None:
    shape = bumpy_sphere(3)
    lit = shaded_view(shape, size=80, style=Style(shadow=False)).astype(int)
    shaded = shaded_view(shape, size=80).astype(int)
    assert (shaded <= lit).all() and (shaded < lit).any()


def test_own_colors_are_used_and_wrong_ones_refused() -> None:
    sphere = icosphere(2)
    green = np.tile(np.array([0, 255, 0], np.uint8), (sphere.n_vertices, 1))
    image = shaded_view(Mesh(sphere.vertices, sphere.faces, green), azimuth=0.0, size=32)
    assert image[16, 16, 1] > 100 > image[16, 16, 0]
    with pytest.raises(InputError, match=r"render\.bad_colors"):
        shaded_view(sphere, green[:-1], size=32)


def test_matched_shapes_look_the_same() -> None:
    source = bumpy_sphere(3)
    target, p2p_21 = permuted(source)
    image = match_image(source, target, p2p_21, size=80).astype(int)
    left, right = image[:80, :80], image[:80, 80:160]
    assert image.shape[1] == 160
    assert np.abs(left - right).mean() < 0.5
    wrong = match_image(source, target, np.roll(p2p_21, 300), size=80).astype(int)
    assert np.abs(wrong[:80, 80:160] - right).mean() > 5


def test_errors_add_a_third_image(tmp_path: Path) -> None:
    shape = bumpy_sphere(2)
    ids = np.arange(shape.n_vertices)
    path = match_preview(
        shape, shape, ids, tmp_path / "match.png", errors=np.linspace(0, 1, len(ids)), size=60
    )
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.width == 180
    assert [p.name for p in tmp_path.iterdir()] == ["match.png"]


def test_a_map_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(InputError, match=r"preview\.bad_map"):
        match_image(icosphere(1), icosphere(2), np.zeros(42, np.int64))


def test_contact_sheet_places_images_in_rows() -> None:
    images = [np.full((10, 20, 3), value, np.uint8) for value in (10, 20, 30)]
    sheet = contact_sheet(images, columns=2)
    assert sheet.shape == (20, 40, 3)
    assert sheet[5, 5, 0] == 10 and sheet[5, 30, 0] == 20 and sheet[15, 5, 0] == 30
    assert sheet[15, 30, 0] == 255
    labelled = contact_sheet(images, ["a", "b", "a name far too long for its cell"], columns=2)
    assert (labelled[10:36, :20] < 200).any()
    with pytest.raises(InputError, match=r"preview\.label_count"):
        contact_sheet(images, ["one"])
    with pytest.raises(InputError, match=r"preview\.no_images"):
        contact_sheet([])


def test_display_view_turns_towards_the_front() -> None:
    assert 0 < abs(display_azimuth(grid(3))) < 1.2


def test_png_round_trip_replaces_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_text("old")
    image = np.random.default_rng(0).integers(0, 255, (5, 7, 3), dtype=np.uint8)
    save_png(image, path)
    np.testing.assert_array_equal(np.asarray(Image.open(path)), image)


def test_opacity_is_that_of_the_shape_and_the_colour_stays() -> None:
    sphere = icosphere(4)
    camera = orbit(sphere, 0.0, size=60)
    painter = Painter(sphere)
    rgba, white = painter.rgba(camera).astype(int), painter.rgb(camera).astype(int)
    np.testing.assert_array_equal(white, render_mesh(sphere, camera))
    clear, whole = rgba[..., 3] == 0, rgba[..., 3] == 255
    assert (rgba[clear] == 0).all() and (white[clear] == 255).all()
    np.testing.assert_array_equal(rgba[whole][:, :3], white[whole])
    # on the rim the colour is the sphere's own, not mixed with the background
    rim = ~clear & ~whole
    assert rim.sum() > 40 and (rgba[rim][:, :3] < 220).all()


def test_sharp_edges_show_flat_faces() -> None:
    corners = np.array(np.meshgrid([0, 1], [0, 1], [0, 1], indexing="ij")).reshape(3, -1).T
    faces = [[0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1]]
    faces += [[2, 3, 7], [2, 7, 6], [0, 2, 6], [0, 6, 4], [1, 5, 7], [1, 7, 3]]
    cube = Mesh(corners.astype(float), np.array(faces))
    camera = orbit(cube, 0.6, 0.4, size=80)
    colors = [
        len(np.unique(render_mesh(cube, camera, style=s).reshape(-1, 3), axis=0))
        for s in (
            Style(supersample=1, shadow=False),
            Style(supersample=1, shadow=False, crease=0.6),
        )
    ]
    # three visible faces and the background
    assert colors[0] > 50 and colors[1] == 4
