"""Pinhole cameras: OpenCV axes, looking at points, going round a shape.

Notation: camera axes are x right, y down, z forward (OpenCV); ``c2w`` (4, 4) takes camera to world
coordinates; pixel (column i, row j) has its centre at (i + 0.5, j + 0.5); angles in radians.
World "up" is the y axis by default, or z.  Azimuth 0 looks at the front: from +z where y is up,
from -y where z is up; growing azimuth moves the camera towards +x.

Cameras all round the unit cube, as TRELLIS renders its training objects.

Notation: the object lies in [-0.5, 0.5]^3, z up; n views; angles in radians.  View directions
follow a Hammersley sequence on the sphere with a random shift, so that few views already cover it.
The distance is tied to the opening angle: the sphere round the cube just fills the image, seen
from near with a wide lens or from far with a long one.
Source: Xiang et al. 2025 (TRELLIS), 24 conditioning views with openings of 10 to 70 degrees.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from geo3d.errors import InputError
from geo3d.mesh.mesh import Mesh
from geo3d.mesh.ops import face_cross

# columns: direction to the right of the front view, up, towards the viewer
WORLD_FRAMES: dict[str, np.ndarray] = {
    "y": np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]]),
    "z": np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]]),
}
DEFAULT_ELEVATION = 0.2
DEFAULT_FOV = 0.6
MARGIN = 0.06
"""Part of the image that `orbit` keeps free on each side."""
_FLIP_YZ = np.diag([1.0, -1.0, -1.0, 1.0])


@dataclass(frozen=True)
class Camera:
    """A pinhole camera.

    Raises:
        InputError: ``camera.bad_pose`` for a c2w that is not a rotation and a translation,
            ``camera.bad_size`` for an empty image or focal length.
    """

    c2w: Float[np.ndarray, "4 4"]
    fx: float
    fy: float
    cx: float
    cy: float
    width: int
    height: int

    def __post_init__(self) -> None:
        rotation = np.asarray(self.c2w)[:3, :3]
        rigid = np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-5)
        if not rigid or np.linalg.det(rotation) < 0 or not np.isfinite(self.c2w).all():
            raise InputError(
                "camera.bad_pose",
                "The camera's c2w is not a rotation with a translation.",
                "Columns are x right, y down, z forward, of unit length.",
            )
        if min(self.width, self.height) < 1 or not min(self.fx, self.fy) > 0:
            raise InputError(
                "camera.bad_size", "Image size and focal lengths must be positive.", ""
            )

    @property
    def position(self) -> Float[np.ndarray, " 3"]:
        """The centre of projection in world coordinates."""
        return self.c2w[:3, 3]

    def finer(self, factor: int) -> Camera:
        """Return the camera with ``factor`` times as many pixels along each side."""
        names = ("fx", "fy", "cx", "cy", "width", "height")
        return replace(self, **{name: getattr(self, name) * factor for name in names})

    def rays(
        self, rows: slice = slice(None)
    ) -> tuple[Float[np.ndarray, "p 3"], Float[np.ndarray, "p 3"]]:
        """Return origins and unit directions of the rays through the pixel centres, row by row."""
        x = (np.arange(self.width) + 0.5 - self.cx) / self.fx
        y = ((np.arange(self.height) + 0.5 - self.cy) / self.fy)[rows, None]
        right, down, forward = self.c2w[:3, :3].T
        directions = (x[:, None] * right + forward)[None] + (y * down)[:, None]
        directions /= np.sqrt(x**2 + y**2 + 1.0)[..., None]
        directions = directions.reshape(-1, 3)
        return np.broadcast_to(self.position, directions.shape), directions

    def project(
        self, points: Float[np.ndarray, "n 3"]
    ) -> tuple[Float[np.ndarray, "n 2"], Float[np.ndarray, " n"]]:
        """Return pixel coordinates (column, row) and depth along z; only depth > 0 is in front."""
        local = (points - self.position) @ self.c2w[:3, :3]
        depth = local[:, 2]
        with np.errstate(divide="ignore", invalid="ignore"):
            flat = local[:, :2] / depth[:, None]
        return flat * [self.fx, self.fy] + [self.cx, self.cy], depth


def opencv_to_opengl(c2w: Float[np.ndarray, "4 4"]) -> Float[np.ndarray, "4 4"]:
    """Turn a pose with y down, z forward into one with y up, z backward."""
    return c2w @ _FLIP_YZ


def opengl_to_opencv(c2w: Float[np.ndarray, "4 4"]) -> Float[np.ndarray, "4 4"]:
    """Turn a pose with y up, z backward into one with y down, z forward."""
    return c2w @ _FLIP_YZ


def look_at(
    eye: Float[np.ndarray, " 3"],
    target: Float[np.ndarray, " 3"],
    up: Float[np.ndarray, " 3"],
) -> Float[np.ndarray, "4 4"]:
    """Return the OpenCV ``c2w`` at ``eye`` looking at ``target`` with ``up`` upward in the image.

    Raises:
        InputError: ``camera.bad_pose`` where the directions do not span a frame.
    """
    forward = np.asarray(target, np.float64) - eye
    right = np.cross(forward, up)
    if not np.linalg.norm(right) > 1e-12 * np.linalg.norm(forward) * np.linalg.norm(up):
        raise InputError(
            "camera.bad_pose",
            "The camera looks along its up direction, or at its own position.",
            "Move the eye or choose another up.",
        )
    forward = forward / np.linalg.norm(forward)
    right = right / np.linalg.norm(right)
    c2w = np.eye(4)
    c2w[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
    c2w[:3, 3] = eye
    return c2w


def orbit(
    mesh: Mesh,
    azimuth: float = 0.0,
    elevation: float = DEFAULT_ELEVATION,
    *,
    up: str = "y",
    size: int = 512,
) -> Camera:
    """Return a square camera that frames the whole mesh from the given direction.

    Args:
        azimuth: angle round the up axis; 0 is the front, pi/2 looks from +x.
        elevation: angle above the horizon, inside (-pi/2, pi/2).
        up: "y" or "z".
        size: width and height in pixels.

    Raises:
        InputError: ``camera.bad_up``, ``camera.bad_pose``, ``camera.bad_size``.
    """
    frame = world_frame(up)
    points = mesh.vertices.astype(np.float64)
    centre = (points.min(axis=0) + points.max(axis=0)) / 2
    backward = frame @ _view_direction(azimuth, elevation)
    c2w = look_at(backward, np.zeros(3), frame[:, 1])
    local = (points - centre) @ c2w[:3, :3]
    # every vertex inside the cone: |x - middle| <= opening * (distance + z)
    opening = np.tan(DEFAULT_FOV / 2) * (1 - 2 * MARGIN)
    least = (local[:, :2] / opening - local[:, 2:]).max(axis=0)
    most = (-local[:, :2] / opening - local[:, 2:]).max(axis=0)
    middle = opening * (least - most) / 2
    nearest = float(-local[:, 2].min())
    not_zero = max(1e-6 * float(np.abs(points).max()), 1e-12)
    distance = max(float((least + most).max()) / 2, 1.05 * nearest, not_zero)
    c2w[:3, 3] = centre + c2w[:3, :2] @ middle + distance * backward
    focal = size / 2 / np.tan(DEFAULT_FOV / 2)
    return Camera(c2w, focal, focal, size / 2, size / 2, size, size)


def principal_azimuth(
    mesh: Mesh, *, up: str = "y", elevation: float = DEFAULT_ELEVATION, steps: int = 36
) -> float:
    """Return the azimuth in (-pi/2, pi/2] from which the surface shows the largest area.

    Projected area is taken as the sum over faces, front and back, so opposite views count the same
    and the one nearer the front is returned.  A point cloud uses the spread of its points.

    Raises:
        InputError: ``camera.bad_up``.
    """
    frame = world_frame(up)
    # from the front outwards, so that equal areas prefer the front
    angles = np.arange(steps) * (np.pi / steps)
    angles = np.where(angles > np.pi / 2, angles - np.pi, angles)
    angles = angles[np.argsort(np.abs(angles), kind="stable")]
    views = np.array([frame @ _view_direction(a, elevation) for a in angles])
    if mesh.is_point_cloud:
        spread = np.cov(mesh.vertices.astype(np.float64).T, bias=True).reshape(3, 3)
        seen = np.trace(spread) - np.einsum("ni,ij,nj->n", views, spread, views)
    else:
        seen = np.abs(face_cross(mesh) @ views.T).sum(axis=0)
    best = seen.max()
    return float(angles[int(np.argmax(seen >= best * (1 - 1e-6)))])


def world_frame(up: str) -> Float[np.ndarray, "3 3"]:
    """Return the columns right, up, towards the viewer of the front view.

    Raises:
        InputError: ``camera.bad_up``.
    """
    if up not in WORLD_FRAMES:
        raise InputError(
            "camera.bad_up", f"There is no up axis {up!r}.", f"Choose {' or '.join(WORLD_FRAMES)}."
        )
    return WORLD_FRAMES[up]


def _view_direction(azimuth: float, elevation: float) -> np.ndarray:
    return np.array(
        [
            np.sin(azimuth) * np.cos(elevation),
            np.sin(elevation),
            np.cos(azimuth) * np.cos(elevation),
        ]
    )


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
    # straight up or down has no upward direction in the image
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
