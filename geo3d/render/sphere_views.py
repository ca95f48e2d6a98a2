"""Cameras all round the unit cube, as TRELLIS renders its training objects.

Notation: the object lies in [-0.5, 0.5]^3, z up; n views; angles in radians.  View directions
follow a Hammersley sequence on the sphere with a random shift, so that few views already cover it.
The distance is tied to the opening angle: the sphere round the cube just fills the picture, seen
from near with a wide lens or from far with a long one.
Source: Xiang et al. 2025 (TRELLIS), 24 conditioning views with openings of 10 to 70 degrees.
"""

from __future__ import annotations

import numpy as np

from geo3d.errors import InputError
from geo3d.render.cameras import Camera, look_at

CUBE_RADIUS = float(np.sqrt(3.0) / 2.0)
FOV_RANGE = (float(np.radians(10.0)), float(np.radians(70.0)))


def sphere_views(
    n: int,
    size: int,
    rng: np.random.Generator,
    *,
    fov_range: tuple[float, float] = FOV_RANGE,
    lowest: float = -np.pi / 2,
) -> list[Camera]:
    """Return ``n`` square cameras looking at the origin.

    Args:
        size: width and height in pixels.
        rng: draws the shift of the sequence and the opening angles; the inverse square of the
            distance is uniform between the two ends.
        fov_range: smallest and largest full opening angle.
        lowest: elevation below which there are no views; -pi/2 covers the whole sphere.

    Raises:
        InputError: ``camera.bad_views`` for no views or impossible angles.
    """
    narrow, wide = fov_range
    if n < 1 or not 0 < narrow <= wide < np.pi or not -np.pi / 2 <= lowest < np.pi / 2:
        raise InputError(
            "camera.bad_views",
            f"{n} views with openings from {narrow:g} to {wide:g} above {lowest:g} cannot be made.",
            "Ask for at least one view, angles in radians between 0 and pi.",
        )
    shift = rng.random(2)
    inverse_squares = rng.uniform(*(np.sin(np.array(fov_range) / 2) ** 2), size=n) / CUBE_RADIUS**2
    cameras = []
    for i, inverse_square in enumerate(inverse_squares):
        yaw = 2 * np.pi * ((i / n + shift[0]) % 1.0)
        height = (radical_inverse(i) + shift[1]) % 1.0
        bottom = np.sin(lowest)
        pitch = float(np.arcsin(bottom + (1.0 - bottom) * height))
        distance = 1.0 / np.sqrt(inverse_square)
        fov = 2 * np.arcsin(CUBE_RADIUS / distance)
        cameras.append(sphere_camera(yaw, pitch, distance, fov, size))
    return cameras


def sphere_camera(yaw: float, pitch: float, distance: float, fov: float, size: int) -> Camera:
    """Return the camera at (sin yaw cos pitch, cos yaw cos pitch, sin pitch) x distance, z up.

    Raises:
        InputError: ``camera.bad_pose``, ``camera.bad_size``.
    """
    # straight up or down has no upward direction in the picture
    pitch = float(np.clip(pitch, -np.pi / 2 + 1e-3, np.pi / 2 - 1e-3))
    way = [np.sin(yaw) * np.cos(pitch), np.cos(yaw) * np.cos(pitch), np.sin(pitch)]
    c2w = look_at(distance * np.array(way), np.zeros(3), np.array([0.0, 0.0, 1.0]))
    focal = size / 2 / np.tan(fov / 2)
    return Camera(c2w, focal, focal, size / 2, size / 2, size, size)


def radical_inverse(i: int, base: int = 2) -> float:
    """Return the digits of ``i`` mirrored at the point: 0, 1/2, 1/4, 3/4, ... for base 2."""
    value, weight = 0.0, 1.0 / base
    while i > 0:
        i, digit = divmod(i, base)
        value += digit * weight
        weight /= base
    return value
