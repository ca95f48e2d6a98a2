"""Camera conventions, framing and converters.

Cameras round the cube: cover the sphere, hold the cube, keep to their openings.
"""

from __future__ import annotations

import numpy as np
import pytest
from helpers import bumpy_sphere, grid, icosphere, moved, rotation

from geo3d.errors import InputError
from geo3d.mesh.mesh import Mesh
from geo3d.render.cameras import (
    CUBE_RADIUS,
    Camera,
    look_at,
    opencv_to_opengl,
    opengl_to_opencv,
    orbit,
    principal_azimuth,
    radical_inverse,
    sphere_camera,
    sphere_views,
)


def identity_camera(width: int = 4, height: int = 2) -> Camera:
    return Camera(np.eye(4), 2.0, 2.0, width / 2, height / 2, width, height)


def test_axes_are_right_down_forward() -> None:
    camera = identity_camera()
    pixels, depth = camera.project(np.array([[0, 0, 1.0], [1, 0, 1], [0, 1, 1], [0, 0, 3]]))
    np.testing.assert_allclose(pixels, [[2, 1], [4, 1], [2, 3], [2, 1]])
    np.testing.assert_allclose(depth, [1, 1, 1, 3])


def test_rays_go_through_pixel_centres() -> None:
    camera = identity_camera()
    origins, directions = camera.rays()
    assert origins.shape == (8, 3)
    pixels, _ = camera.project(origins + 3.0 * directions)
    np.testing.assert_allclose(pixels[0], [0.5, 0.5])
    np.testing.assert_allclose(pixels[-1], [3.5, 1.5])
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1.0)
    np.testing.assert_allclose(camera.rays(slice(1, 2))[1], directions[4:])


def test_look_at_keeps_up_upright() -> None:
    c2w = look_at(np.array([3.0, 1, 2]), np.zeros(3), np.array([0, 1.0, 0]))
    camera = Camera(c2w, 1.0, 1.0, 0.0, 0.0, 1, 1)
    pixels, depth = camera.project(np.array([[0.0, 0, 0], [0, 0.1, 0]]))
    np.testing.assert_allclose(pixels[0], 0.0, atol=1e-12)
    assert depth[0] == pytest.approx(np.sqrt(14))
    assert pixels[1, 1] < 0 and abs(pixels[1, 0]) < 1e-12


def test_converters_are_inverse_and_flip_y_and_z() -> None:
    c2w = look_at(np.array([1.0, 2, 3]), np.zeros(3), np.array([0, 0, 1.0]))
    gl = opencv_to_opengl(c2w)
    np.testing.assert_allclose(gl[:3, 1], -c2w[:3, 1])
    np.testing.assert_allclose(gl[:3, 2], -c2w[:3, 2])
    np.testing.assert_allclose(gl[:3, [0, 3]], c2w[:3, [0, 3]])
    np.testing.assert_allclose(opengl_to_opencv(gl), c2w)


@pytest.mark.parametrize(("up", "front", "right"), [("y", 2, (0, 1)), ("z", 1, (0, 1))])
def test_orbit_starts_at_the_front_and_moves_to_plus_x(
    up: str, front: int, right: tuple[int, int]
) -> None:
    sphere = icosphere(1)
    ahead = orbit(sphere, 0.0, 0.0, up=up).position
    assert np.argmax(np.abs(ahead)) == front
    assert np.sign(ahead[front]) == (1 if up == "y" else -1)
    side = orbit(sphere, np.pi / 2, 0.0, up=up).position
    assert np.argmax(np.abs(side)) == right[0] and side[0] > 0


@pytest.mark.parametrize("azimuth", [0.0, 1.1, 4.0])
def test_orbit_frames_every_vertex_tightly(azimuth: float) -> None:
    shape = moved(bumpy_sphere(2), np.diag([3.0, 1, 0.2]) @ rotation(2), 100.0)
    camera = orbit(shape, azimuth, 0.4, size=200)
    pixels, depth = camera.project(shape.vertices)
    assert depth.min() > 0
    assert pixels.min() >= 0.06 * 200 - 1e-6 and pixels.max() <= 0.94 * 200 + 1e-6
    assert np.ptp(pixels, axis=0).max() > 0.7 * 200


def test_the_broadest_view_of_a_wall_faces_it() -> None:
    wall = grid(4)
    assert principal_azimuth(wall, elevation=0.0) == 0.0
    turned = moved(wall, np.array([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]]))
    assert principal_azimuth(turned, elevation=0.0) == pytest.approx(np.pi / 2)
    cloud = Mesh(turned.vertices, np.zeros((0, 3), np.int64))
    assert principal_azimuth(cloud, elevation=0.0) == pytest.approx(np.pi / 2)


def test_a_single_point_can_be_framed() -> None:
    camera = orbit(Mesh(np.ones((1, 3)), np.zeros((0, 3), np.int64)), size=32)
    pixels, depth = camera.project(np.ones((1, 3)))
    assert depth[0] > 0
    np.testing.assert_allclose(pixels[0], 16, atol=1e-3)


def test_errors() -> None:
    with pytest.raises(InputError, match=r"camera\.bad_up"):
        orbit(icosphere(1), up="x")
    with pytest.raises(InputError, match=r"camera\.bad_pose"):
        look_at(np.array([0, 1.0, 0]), np.zeros(3), np.array([0, 1.0, 0]))
    with pytest.raises(InputError, match=r"camera\.bad_pose"):
        Camera(np.diag([1.0, 1, -1, 1]), 1.0, 1.0, 0.0, 0.0, 1, 1)
    with pytest.raises(InputError, match=r"camera\.bad_size"):
        Camera(np.eye(4), 1.0, 1.0, 0.0, 0.0, 0, 1)


CORNERS = np.array(np.meshgrid(*[[-0.5, 0.5]] * 3)).reshape(3, -1).T


def opening(camera: object) -> float:
    return 2 * np.arctan(camera.width / 2 / camera.fx)  # type: ignore[attr-defined]


def test_the_cube_is_always_whole_and_fills_the_image() -> None:
    cameras = sphere_views(24, 64, np.random.default_rng(0))
    fovs = np.degrees([opening(c) for c in cameras])
    assert len(cameras) == 24 and fovs.min() > 10 - 1e-9 and fovs.max() < 70 + 1e-9
    assert np.ptp(fovs) > 30
    for camera in cameras:
        pixels, depth = camera.project(CORNERS)
        assert (pixels >= -1e-9).all() and (pixels <= 64 + 1e-9).all() and (depth > 0).all()
        distance = np.linalg.norm(camera.position)
        assert np.sin(opening(camera) / 2) * distance == pytest.approx(CUBE_RADIUS)


def test_directions_cover_the_sphere_evenly() -> None:
    cameras = sphere_views(64, 8, np.random.default_rng(1))
    ways = np.array([c.position / np.linalg.norm(c.position) for c in cameras])
    assert np.abs(ways.mean(0)).max() < 0.05
    np.testing.assert_allclose(ways.T @ ways / 64, np.eye(3) / 3, atol=0.03)


def test_no_view_is_below_the_lowest() -> None:
    cameras = sphere_views(50, 8, np.random.default_rng(2), lowest=0.1)
    heights = [c.position[2] / np.linalg.norm(c.position) for c in cameras]
    assert min(heights) >= np.sin(0.1) - 1e-9 and max(heights) > 0.9


def test_one_camera_by_hand() -> None:
    camera = sphere_camera(0.0, 0.0, 3.0, np.pi / 2, 10)
    np.testing.assert_allclose(camera.position, [0, 3, 0], atol=1e-12)
    # +z is up in the image, +x to the left, for a viewer at +y
    pixels, _ = camera.project(np.array([[0, 0, 1.0], [1.0, 0, 0]]))
    np.testing.assert_allclose(pixels, [[5, 5 - 5 / 3], [5 - 5 / 3, 5]], atol=1e-9)


def test_radical_inverse_by_hand() -> None:
    assert [radical_inverse(i) for i in range(5)] == [0, 0.5, 0.25, 0.75, 0.125]
    assert radical_inverse(5, 3) == pytest.approx(2 / 3 + 1 / 9)


@pytest.mark.parametrize("bad", [{"n": 0}, {"fov_range": (0.0, 1.0)}, {"lowest": 2.0}])
def test_impossible_views_are_refused(bad: dict) -> None:
    with pytest.raises(InputError) as caught:
        sphere_views(**{"n": 2, "size": 8, "rng": np.random.default_rng(0), **bad})
    assert caught.value.code == "camera.bad_views"
