"""Signed distances to unions of solids, against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh

from geo3d.mesh.mesh import Mesh
from scenes.objects.small.distances import signed_distances

RESOLUTION = 20


def grid() -> np.ndarray:
    axis = np.arange(RESOLUTION + 1) / RESOLUTION - 0.5
    return np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1)


def box(low: tuple[float, float, float], high: tuple[float, float, float]) -> trimesh.Trimesh:
    return trimesh.creation.box(bounds=np.array([low, high]))


def joined(*parts: trimesh.Trimesh) -> Mesh:
    whole = trimesh.util.concatenate(parts)
    return Mesh(whole.vertices, whole.faces)


def box_distance(points: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    away = np.maximum(low - points, points - high)
    outside = np.linalg.norm(np.maximum(away, 0), axis=-1)
    return outside + np.minimum(away.max(-1), 0)


@pytest.mark.parametrize("reach", [1.0, 2.5])
def test_a_box_has_its_exact_distance(reach: float) -> None:
    low, high = (-0.31, -0.22, -0.4), (0.13, 0.29, 0.37)
    found = signed_distances(joined(box(low, high)), RESOLUTION, reach)
    exact = box_distance(grid(), np.array(low), np.array(high)) * RESOLUTION
    assert np.abs(found - np.clip(exact, -reach, reach)).max() < 2e-3


def test_a_box_whose_faces_lie_in_the_grid() -> None:
    found = signed_distances(joined(box((-0.25, -0.25, -0.25), (0.25, 0.25, 0.25))), RESOLUTION)
    exact = box_distance(grid(), np.full(3, -0.25), np.full(3, 0.25)) * RESOLUTION
    clear = np.abs(exact) > 1e-6
    assert np.array_equal((found < 0)[clear], (exact < 0)[clear])


def test_the_sign_is_that_of_the_union() -> None:
    first, second = ((-0.4, -0.3, -0.3), (0.1, 0.3, 0.3)), ((-0.1, -0.2, -0.2), (0.4, 0.2, 0.2))
    found = signed_distances(joined(box(*first), box(*second)), RESOLUTION)
    parts = [box_distance(grid(), np.array(a), np.array(b)) for a, b in (first, second)]
    union = np.minimum(*parts)
    clear = np.abs(union) > 1e-6
    assert np.array_equal((found < 0)[clear], (union < 0)[clear])


def ball(radius: float) -> trimesh.Trimesh:
    return trimesh.creation.icosphere(4, radius=radius)


def test_a_sealed_hollow_is_inside() -> None:
    inner = ball(0.2)
    inner.invert()
    found = signed_distances(joined(ball(0.4), inner), RESOLUTION)
    exact = (np.linalg.norm(grid(), axis=-1) - 0.4) * RESOLUTION
    clear = np.abs(exact) > 0.05
    assert np.array_equal((found < 0)[clear], (exact < 0)[clear])
    # the inner wall is forgotten, but for at most a cell
    assert found[exact < -3].max() == -2.0
    near = np.abs(exact) < 1
    assert np.abs(found - exact)[near].max() < 0.05


def test_an_open_hollow_is_outside() -> None:
    walls = [
        box((-0.4, -0.4, -0.4), (0.4, 0.4, -0.2)),
        box((-0.4, -0.4, -0.3), (-0.2, 0.4, 0.4)),
        box((0.2, -0.4, -0.3), (0.4, 0.4, 0.4)),
    ]
    found = signed_distances(joined(*walls), RESOLUTION)
    assert found[10, 10, 16] == 2.0 and found[10, 10, 4] == -2.0
