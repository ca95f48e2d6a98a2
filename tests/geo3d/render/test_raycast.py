"""Ray casting against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import bumpy_sphere, icosphere, moved

from geo3d.errors import MeshError
from geo3d.mesh.mesh import Mesh
from geo3d.render import raycast as module
from geo3d.render.cameras import Camera, orbit
from geo3d.render.raycast import RayCaster, raycast

TRIANGLE = Mesh(np.array([[0.0, 0, 2], [4, 0, 2], [0, 4, 2]]), np.array([[0, 1, 2]]))


def brute_force(mesh: Mesh, origin: np.ndarray, direction: np.ndarray) -> tuple[float, int]:
    best, face = np.inf, -1
    for i, (a, b, c) in enumerate(mesh.vertices[mesh.faces]):
        matrix = np.stack([b - a, c - a, -direction], axis=1)
        if abs(np.linalg.det(matrix)) < 1e-14:
            continue
        u, v, t = np.linalg.solve(matrix, origin - a)
        if u >= 0 and v >= 0 and u + v <= 1 and 0 < t < best:
            best, face = t, i
    return best, face


def test_barycentric_coordinates_by_hand() -> None:
    hits = RayCaster(TRIANGLE).cast(np.array([[1.0, 2, 0]]), np.array([[0, 0, 1.0]]))
    assert hits.face_ids.tolist() == [0]
    assert hits.distance[0] == pytest.approx(2.0)
    np.testing.assert_allclose(hits.barycentric[0], [0.25, 0.25, 0.5])


def test_a_miss_is_minus_one_and_infinite() -> None:
    caster = RayCaster(TRIANGLE)
    origins, directions = np.array([[5.0, 5, 0], [1, 1, 3]]), np.tile([0, 0, 1.0], (2, 1))
    hits = caster.cast(origins, directions)
    assert hits.face_ids.tolist() == [-1, -1]
    assert np.isinf(hits.distance).all()
    assert not caster.is_hit(origins, directions).any()


def test_the_pixel_convention() -> None:
    # unit pixels on the plane z = 2: pixel (i, j) sees the point (i + 0.5, j + 0.5)
    camera = Camera(np.eye(4), 2.0, 2.0, 0.0, 0.0, 4, 4)
    seen = raycast(TRIANGLE, camera)
    i, j = np.meshgrid(np.arange(4) + 0.5, np.arange(4) + 0.5)
    inside = i + j < 4 - 1e-9
    np.testing.assert_array_equal(seen.face_ids[inside], 0)
    np.testing.assert_array_equal(seen.face_ids[i + j > 4 + 1e-9], -1)
    np.testing.assert_allclose(seen.depth[inside], 2.0)
    points = seen.barycentric @ TRIANGLE.vertices
    np.testing.assert_allclose(points[inside][:, 0], i[inside])
    np.testing.assert_allclose(points[inside][:, 1], j[inside])


def test_depth_of_a_sphere() -> None:
    sphere = icosphere(5)
    camera = orbit(sphere, 0.7, 0.3, size=64)
    depth = raycast(sphere, camera).depth
    origins, directions = camera.rays()
    half = -(origins * directions).sum(axis=1)
    under = half**2 - (origins**2).sum(axis=1) + 1.0
    along = half - np.sqrt(np.maximum(under, 0))
    expected = (along * (directions @ camera.c2w[:3, 2])).reshape(64, 64)
    well_inside = (under > 0.05).reshape(64, 64)
    assert np.isinf(depth[(under < -0.05).reshape(64, 64)]).all()
    np.testing.assert_allclose(depth[well_inside], expected[well_inside], atol=3e-3)


def test_it_equals_brute_force_far_from_the_origin() -> None:
    shape = moved(bumpy_sphere(2), 1e-3 * np.eye(3), 5.0)
    camera = orbit(shape, 0.3, 0.2, size=24)
    origins, directions = camera.rays()
    hits = RayCaster(shape).cast(origins, directions)
    for i in range(0, len(origins), 7):
        distance, face = brute_force(shape, origins[i], directions[i])
        assert (hits.face_ids[i] >= 0) == (face >= 0)
        if face >= 0:
            assert hits.distance[i] == pytest.approx(distance, rel=1e-4)


def test_tiles_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    shape, camera = bumpy_sphere(2), orbit(bumpy_sphere(2), size=40)
    whole = raycast(shape, camera)
    monkeypatch.setattr(module, "RAYS_AT_ONCE", 100)
    tiled = raycast(RayCaster(shape), camera)
    np.testing.assert_array_equal(whole.face_ids, tiled.face_ids)
    np.testing.assert_array_equal(whole.depth, tiled.depth)


def test_a_cloud_has_nothing_to_hit() -> None:
    with pytest.raises(MeshError, match=r"raycast\.no_faces"):
        RayCaster(Mesh(np.eye(3), np.zeros((0, 3), np.int64)))
