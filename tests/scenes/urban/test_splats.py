"""Scenes as flat Gaussians: they lie on surfaces, and look like what they were made of."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from geo3d.render.cameras import Camera
from scenes.urban.splats import Discs, paint_discs, surface_normals


def a_camera(size: int = 32) -> Camera:
    return Camera(np.eye(4), size / 2, size / 2, size / 2, size / 2, size, size)


def seen_plane(normal: np.ndarray, away: float = 5.0) -> tuple[np.ndarray, ...]:
    """Return places, depths and directions of a plane that the camera at the origin looks at."""
    camera = a_camera()
    _, directions = camera.rays()
    directions = directions.reshape(32, 32, 3)
    along = away * normal[2] / (directions @ normal)
    places = directions * along[..., None]
    return places, places[..., 2], directions


def test_normals_are_those_of_a_plane_and_look_at_the_camera() -> None:
    normal = np.array([0.2, -0.3, -0.9])
    normal /= np.linalg.norm(normal)
    places, depth, directions = seen_plane(normal)
    found = surface_normals(places, depth, directions)
    assert np.allclose(found, normal, atol=1e-6)


def test_normals_do_not_bridge_a_step() -> None:
    places, depth, directions = seen_plane(np.array([0.0, 0, -1]))
    places, depth = places.copy(), depth.copy()
    places[:, 16:] *= 3
    depth[:, 16:] *= 3
    found = surface_normals(places, depth, directions)
    assert np.allclose(found, [0, 0, -1], atol=1e-6)


def test_a_single_pixel_looks_at_the_camera() -> None:
    places, depth, directions = seen_plane(np.array([0.0, 0, -1]))
    alone = np.full(depth.shape, np.inf)
    alone[3, 4] = depth[3, 4]
    assert np.allclose(surface_normals(places, alone, directions)[3, 4], -directions[3, 4])


def test_gaussians_have_y_down_as_their_viewers_expect() -> None:
    one = np.array([[1.0, -3.0, 7.0]])
    discs = Discs(one, np.zeros((1, 3), np.uint8), np.full((1, 3), 0.1), np.eye(4)[:1])
    row = discs.table()[0]
    assert row[:3].tolist() == [1, -3, 7] and row[13:].tolist() == [1, 0, 0, 0]
    assert np.allclose(row[10:13], np.log(0.1)) and np.allclose(row[6:9], -0.5 / 0.2820948)


def test_a_wall_of_discs_hides_what_is_behind_it_and_is_thin_from_the_side() -> None:
    grid = np.stack(np.meshgrid(np.arange(-2, 2, 0.1), np.arange(-2, 2, 0.1)), axis=2)
    points = np.column_stack([grid.reshape(-1, 2), np.full(1600, 4.0)])
    red = np.tile(np.array([[255, 0, 0]], np.uint8), (1600, 1))
    scales = np.tile([0.06, 0.06, 0.006], (1600, 1))
    upright = np.tile([1.0, 0, 0, 0], (1600, 1))
    blue = np.tile([0.0, 0, 1], (32, 32, 1))
    image = paint_discs(Discs(points, red, scales, upright), a_camera(), blue)
    assert image[16, 16, 0] > 0.9 and image[16, 16, 2] < 0.1
    assert np.array_equal(image[0, 0], [0, 0, 1])
    edge_on = Rotation.from_euler("y", 90, degrees=True).as_quat(scalar_first=True)
    column = np.abs(points[:, 0]) < 0.01
    turned = Discs(points[column], red[column], scales[column], np.tile(edge_on, (40, 1)))
    narrow = paint_discs(turned, a_camera(), blue)
    assert narrow[16, :, 0].sum() < image[16, :, 0].sum() / 10
