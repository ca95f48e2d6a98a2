"""Cameras round the cube: cover the sphere, hold the cube, keep to their openings."""

from __future__ import annotations

import numpy as np
import pytest

from geo3d.errors import InputError
from geo3d.render.sphere_views import CUBE_RADIUS, radical_inverse, sphere_camera, sphere_views

CORNERS = np.array(np.meshgrid(*[[-0.5, 0.5]] * 3)).reshape(3, -1).T


def opening(camera: object) -> float:
    return 2 * np.arctan(camera.width / 2 / camera.fx)  # type: ignore[attr-defined]


def test_the_cube_is_always_whole_and_fills_the_picture() -> None:
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
    # +z is up in the picture, +x to the left, for a viewer at +y
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
