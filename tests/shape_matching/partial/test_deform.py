"""Rigid motions of balls, and the registration made of them."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import bumpy_sphere, rotation

from geo3d.mesh.mesh import Mesh
from geo3d.mesh.ops import total_area
from shape_matching.partial.deform import Start, cones, fitted_balls, registered, strain
from shape_matching.partial.surface import surface_of


def test_balls_find_rotation_and_shift() -> None:
    rng = np.random.default_rng(0)
    points, turn = rng.standard_normal((20, 3)), rotation(3)
    weights = rng.random((4, 20))
    found = fitted_balls(weights, points, points @ turn.T + [1.0, 2.0, 3.0])
    np.testing.assert_allclose(found.rotations, np.tile(turn, (4, 1, 1)), atol=1e-9)
    np.testing.assert_allclose(found.shifts, np.tile([1.0, 2.0, 3.0], (4, 1)), atol=1e-9)
    np.testing.assert_allclose(found.strain, 0, atol=1e-6)


def test_a_mirror_image_is_no_motion() -> None:
    points = np.random.default_rng(0).standard_normal((20, 3))
    found = fitted_balls(np.ones((1, 20)), points, points * [1, 1, -1])
    assert np.linalg.det(found.rotations[0]) == pytest.approx(1)
    assert found.strain[0] > 0.3


def test_cones_end_at_the_radius() -> None:
    rows = np.array([[0.0, 0.1, 0.2, 0.4]])
    np.testing.assert_allclose(cones(rows, 0.2), [[1, 0.5, 0, 0]])


def test_registration_mends_a_blurred_map() -> None:
    ball = bumpy_sphere(3)
    moved = Mesh(ball.vertices @ rotation(1).T, ball.faces)
    unit = total_area(ball) ** 0.5
    one, two = surface_of(ball, unit, 60), surface_of(moved, unit, 60)
    rng = np.random.default_rng(0)
    wanted = one.mesh.vertices[two.samples] + 0.03 * rng.standard_normal((60, 3))
    images = np.array([np.square(one.mesh.vertices - p).sum(axis=1).argmin() for p in wanted])
    start = Start(two.samples, images, np.ones(60))
    p2p_21, p2p_12 = registered(one, two, start, contained=True)
    assert (p2p_21 == np.arange(len(p2p_21))).mean() > 0.9
    assert (p2p_12 == np.arange(len(p2p_12))).mean() > 0.9
    everything = Start(np.arange(len(p2p_21)), p2p_21, two.mass)
    assert strain(one, two, everything, 0.2).mean() < 0.1 < strain(one, two, start, 0.2).mean()
