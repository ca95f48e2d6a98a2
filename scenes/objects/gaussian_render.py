"""Pictures of Gaussians on the CPU: each is drawn as the ellipse it projects to, front to back.

    C = sum_i T_i a_i c_i,   T_i = prod_{j<i} (1 - a_j),   a_i = o_i exp(-d^T S_i^-1 d / 2)

with S the projected covariance plus `SMOOTHING` square pixels, o scaled by sqrt(det S_before /
det S) so that small Gaussians do not grow brighter.  For previews; nothing is differentiable.

Notation: g Gaussians, h x w pixels; z up.

Source: Kerbl et al., "3D Gaussian Splatting" (2023); Yu et al., "Mip-Splatting" (2024).
"""

from __future__ import annotations

from typing import no_type_check

import numpy as np
from jaxtyping import Float, UInt8
from numba import njit

from geo3d.mesh.mesh import Mesh
from geo3d.render.cameras import Camera, orbit
from scenes.objects.gaussians import Gaussians

SMOOTHING = 0.1
"""Added to the variances in the picture, in square pixels."""
NEAR = 1e-3
"""Gaussians nearer to the camera are left out."""
_CORNERS = np.array([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)])


def cube_camera(azimuth: float, elevation: float = 0.3, size: int = 256) -> Camera:
    """Return a camera that frames the cube of objects, z up; azimuth 0 sees the front, from -y."""
    cube = Mesh(_CORNERS, np.zeros((0, 3), np.int64), name="cube")
    return orbit(cube, azimuth, elevation, up="z", size=size)


def render_gaussians(
    gaussians: Gaussians, camera: Camera, background: tuple[float, float, float] = (1.0, 1.0, 1.0)
) -> UInt8[np.ndarray, "h w 3"]:
    """Return the Gaussians of an object as ``camera`` sees them, in its cube, z up."""
    xyz = gaussians.xyz.detach().double().cpu().numpy()
    pixels, depth = camera.project(xyz)
    seen = depth > NEAR
    near_first = np.flatnonzero(seen)[np.argsort(depth[seen], kind="stable")]
    entries = gaussians.covariance().detach().double().cpu().numpy()[near_first]
    before = _projected(entries, xyz[near_first], camera)
    spread = before + SMOOTHING * np.array([1.0, 0.0, 1.0])
    areas = [part[:, 0] * part[:, 2] - part[:, 1] ** 2 for part in (before, spread)]
    share = np.sqrt(np.clip(areas[0] / areas[1], 0.0, 1.0))
    opacity = gaussians.opacity.detach().double().cpu().numpy()[near_first, 0] * share
    colors = gaussians.colors.detach().double().cpu().numpy()[near_first].clip(0.0, 1.0)
    picture = _paint(
        pixels[near_first], spread, opacity, colors, np.array(background), camera.height,
        camera.width,
    )  # fmt: skip
    return np.rint(255 * picture.clip(0.0, 1.0)).astype(np.uint8)


def _projected(
    entries: Float[np.ndarray, "g 6"], xyz: Float[np.ndarray, "g 3"], camera: Camera
) -> Float[np.ndarray, "g 3"]:
    """Return xx, xy, yy of the covariances in the picture, to first order in the distance."""
    full = entries[:, [0, 1, 2, 1, 3, 4, 2, 4, 5]].reshape(-1, 3, 3)
    rotation = np.asarray(camera.c2w)[:3, :3]
    x, y, z = ((xyz - camera.position) @ rotation).T
    slopes = np.zeros((len(xyz), 2, 3))
    slopes[:, 0, 0], slopes[:, 0, 2] = camera.fx / z, -camera.fx * x / z**2
    slopes[:, 1, 1], slopes[:, 1, 2] = camera.fy / z, -camera.fy * y / z**2
    axes = slopes @ rotation.T
    flat = axes @ full @ axes.transpose(0, 2, 1)
    return np.stack([flat[:, 0, 0], flat[:, 0, 1], flat[:, 1, 1]], axis=1)


@njit(cache=True)
@no_type_check
def _paint(
    pixels: np.ndarray,
    spread: np.ndarray,
    opacity: np.ndarray,
    colors: np.ndarray,
    background: np.ndarray,
    height: int,
    width: int,
) -> np.ndarray:
    picture = np.zeros((height, width, 3))
    left = np.ones((height, width))
    for i in range(len(pixels)):
        xx, xy, yy = spread[i]
        area = xx * yy - xy * xy
        if area <= 0.0 or opacity[i] < 1.0 / 255.0:
            continue
        # Beyond this many deviations less than 1/255 is left.
        reach = np.sqrt(2.0 * np.log(255.0 * opacity[i]))
        u, v = pixels[i]
        top = max(0, int(np.ceil(v - reach * np.sqrt(yy) - 0.5)))
        bottom = min(height - 1, int(np.floor(v + reach * np.sqrt(yy) - 0.5)))
        first = max(0, int(np.ceil(u - reach * np.sqrt(xx) - 0.5)))
        last = min(width - 1, int(np.floor(u + reach * np.sqrt(xx) - 0.5)))
        for row in range(top, bottom + 1):
            for column in range(first, last + 1):
                dx, dy = column + 0.5 - u, row + 0.5 - v
                power = (yy * dx * dx - 2.0 * xy * dx * dy + xx * dy * dy) / (2.0 * area)
                alpha = min(0.999, opacity[i] * np.exp(-power))
                if alpha < 1.0 / 255.0 or left[row, column] < 1e-4:
                    continue
                weight = left[row, column] * alpha
                for channel in range(3):
                    picture[row, column, channel] += weight * colors[i, channel]
                left[row, column] -= weight
    for channel in range(3):
        picture[:, :, channel] += left * background[channel]
    return picture
