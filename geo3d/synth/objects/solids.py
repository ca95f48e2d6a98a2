"""Closed surfaces from which objects are put together: lofts, boxes, turned profiles, tubes.

Notation: z is up; v vertices, f faces, k rings of m points each; lengths in any unit, the finished
object is scaled (`geo3d.synth.objects.generate`).  Every solid is watertight (each edge belongs
to exactly two faces, run through in opposite directions) and its faces look outward.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, UInt8

Triple = Sequence[float] | np.ndarray
Rgb = Sequence[int] | np.ndarray


@dataclass(frozen=True, eq=False)
class Solid:
    """One closed surface."""

    vertices: Float[np.ndarray, "v 3"]
    faces: Int[np.ndarray, "f 3"]

    def moved(self, x: float = 0.0, y: float = 0.0, z: float = 0.0) -> Solid:
        """Return the solid shifted."""
        return Solid(self.vertices + np.array([x, y, z], np.float64), self.faces)

    def turned(self, axis: str, angle: float) -> Solid:
        """Return the solid turned about the x, y or z axis through the origin."""
        return Solid(self.vertices @ rotation(axis, angle).T, self.faces)

    def scaled(self, x: float, y: float, z: float) -> Solid:
        """Return the solid stretched by positive factors."""
        return Solid(self.vertices * np.array([x, y, z], np.float64), self.faces)

    def volume(self) -> float:
        """Return the enclosed volume, positive for outward faces."""
        a, b, c = np.moveaxis(self.vertices[self.faces], 1, 0)
        return float(np.einsum("fi,fi->f", a, np.cross(b, c)).sum() / 6.0)


@dataclass(frozen=True, eq=False)
class Part:
    """A named solid with its colour."""

    name: str
    solid: Solid
    colors: UInt8[np.ndarray, "v 3"]


def part(name: str, solid: Solid, color: Rgb) -> Part:
    """Return a part of one colour (three numbers), or with a colour for each vertex (v, 3)."""
    colors = np.broadcast_to(np.asarray(color, np.uint8), solid.vertices.shape)
    return Part(name, solid, np.array(colors))


def rotation(axis: str, angle: float) -> Float[np.ndarray, "3 3"]:
    """Return the matrix that turns column vectors about an axis, counter-clockwise seen from it."""
    i = "xyz".index(axis)
    j, k = (i + 1) % 3, (i + 2) % 3
    matrix = np.eye(3)
    matrix[[j, k], [j, k]] = np.cos(angle)
    matrix[k, j], matrix[j, k] = np.sin(angle), -np.sin(angle)
    return matrix


def loft(
    rings: Float[np.ndarray, "k m 3"],
    first: Triple | None = None,
    last: Triple | None = None,
    *,
    closed: bool = False,
) -> Solid:
    """Join rings of points one after the other and close both ends with fans.

    Args:
        rings: at least two rings with corresponding points.
        first, last: the middle of each fan; by default the mean of the end ring.
        closed: join the last ring to the first instead (a torus).
    """
    k, m = rings.shape[:2]
    index = np.arange(k * m).reshape(k, m)
    lower = index if closed else index[:-1]
    upper = np.roll(index, -1, axis=0) if closed else index[1:]
    a, b = lower, np.roll(lower, -1, axis=1)
    d, c = upper, np.roll(upper, -1, axis=1)
    faces = [np.stack([a, b, c], -1).reshape(-1, 3), np.stack([a, c, d], -1).reshape(-1, 3)]
    points = [np.asarray(rings, np.float64).reshape(-1, 3)]
    if not closed:
        ends = [rings[0].mean(0) if first is None else first]
        ends.append(rings[-1].mean(0) if last is None else last)
        points.append(np.array(ends, np.float64))
        low, high = index[0], index[-1]
        faces.append(np.stack([np.roll(low, -1), low, np.full(m, k * m)], -1))
        faces.append(np.stack([high, np.roll(high, -1), np.full(m, k * m + 1)], -1))
    solid = Solid(np.concatenate(points), np.concatenate(faces))
    return solid if solid.volume() >= 0 else Solid(solid.vertices, solid.faces[:, ::-1].copy())


def box(low: Triple, high: Triple, taper: tuple[float, float] = (1.0, 1.0)) -> Solid:
    """Return the block between two corners; ``taper`` scales its top in x and y."""
    (x0, y0, z0), (x1, y1, z1) = low, high
    corners = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], np.float64)
    middle = corners.mean(0)
    rings = np.empty((2, 4, 3))
    rings[0, :, :2], rings[0, :, 2] = corners, z0
    rings[1, :, :2], rings[1, :, 2] = middle + (corners - middle) * np.array(taper), z1
    return loft(rings)


def centered_box(center: Triple, size: Triple, taper: tuple[float, float] = (1.0, 1.0)) -> Solid:
    """Return the block with this middle and these edge lengths."""
    center, half = np.asarray(center, np.float64), np.asarray(size, np.float64) / 2
    return box(center - half, center + half, taper)


def lathe(profile: Sequence[tuple[float, float]] | np.ndarray, sides: int = 24) -> Solid:
    """Turn (radius, z) points about the z axis.

    The profile starts and ends on the axis (radius 0) and does not cross itself; it may come back
    inside, as that of a cup does.
    """
    points = np.asarray(profile, np.float64)
    angle = 2 * np.pi * np.arange(sides) / sides
    around = np.stack([np.cos(angle), np.sin(angle)], -1)
    inner = points[1:-1]
    rings = np.empty((len(inner), sides, 3))
    rings[..., :2] = inner[:, :1, None] * around
    rings[..., 2] = inner[:, 1:]
    return loft(rings, (0, 0, points[0, 1]), (0, 0, points[-1, 1]))


def cylinder(radius: float, height: float, top: float | None = None, sides: int = 20) -> Solid:
    """Return a cylinder on z = 0, or a truncated cone with another ``top`` radius."""
    top = radius if top is None else top
    return lathe([(0, 0), (radius, 0), (top, height), (0, height)], sides)


def ellipsoid(radii: Triple, sides: int = 16) -> Solid:
    """Return an ellipsoid about the origin."""
    angle = np.linspace(-np.pi / 2, np.pi / 2, sides // 2 + 1)
    profile = np.stack([np.cos(angle), np.sin(angle)], -1)
    return lathe(profile, sides).scaled(*radii)


def torus(radius: float, tube: float, sides: int = 24, tube_sides: int = 10) -> Solid:
    """Return a ring about the z axis."""
    u = 2 * np.pi * np.arange(sides)[:, None] / sides
    w = 2 * np.pi * np.arange(tube_sides)[None] / tube_sides
    out = radius + tube * np.cos(w)
    rings = np.stack([out * np.cos(u), out * np.sin(u), tube * np.sin(w) + 0 * u], -1)
    return loft(rings, closed=True)


def tube(
    path: Sequence[Triple] | np.ndarray, radius: float | Sequence[float], sides: int = 10
) -> Solid:
    """Return a round rod along a path without sharp turns; one radius, or one per point."""
    points = np.asarray(path, np.float64)
    radii = np.broadcast_to(np.asarray(radius, np.float64), len(points))
    along = np.gradient(points, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    # start from an axis that no part of the path follows, then carry it along
    across = np.eye(3)[int(np.argmin(np.abs(along).max(0)))]
    angle = 2 * np.pi * np.arange(sides) / sides
    rings = np.empty((len(points), sides, 3))
    for i, way in enumerate(along):
        across = across - (across @ way) * way
        across /= np.linalg.norm(across)
        other = np.cross(way, across)
        circle = np.cos(angle)[:, None] * across + np.sin(angle)[:, None] * other
        rings[i] = points[i] + radii[i] * circle
    return loft(rings)


def section(
    width: float, height: float, power: float = 4.0, points: int = 20
) -> Float[np.ndarray, "m 2"]:
    """Return a superellipse about the origin: power 2 is an ellipse, large powers a rectangle."""
    angle = 2 * np.pi * (np.arange(points) + 0.5) / points
    c, s = np.cos(angle), np.sin(angle)
    x = np.sign(c) * np.abs(c) ** (2 / power) * width / 2
    return np.stack([x, np.sign(s) * np.abs(s) ** (2 / power) * height / 2], -1)


def hull_along(
    axis: str,
    stations: Sequence[tuple[float, float, float, float, float]],
    power: float = 4.0,
    points: int = 20,
) -> Solid:
    """Loft superellipses along x or y: bodies of cars, boats, planes, wings.

    Args:
        stations: (position, sideways middle, height middle, width, height) of each section, in
            order of position.
    """
    i = "xy".index(axis)
    rings = np.empty((len(stations), points, 3))
    for ring, (at, aside, up, width, height) in zip(rings, stations, strict=True):
        outline = section(width, height, power, points)
        ring[:, i] = at
        ring[:, 1 - i] = aside + outline[:, 0]
        ring[:, 2] = up + outline[:, 1]
    return loft(rings)


def prism(outline: Sequence[tuple[float, float]] | np.ndarray, low: float, high: float) -> Solid:
    """Raise a polygon (x, y), seen whole from its mean, from z = low to z = high."""
    flat = np.asarray(outline, np.float64)
    rings = np.empty((2, len(flat), 3))
    rings[:, :, :2] = flat
    rings[0, :, 2], rings[1, :, 2] = low, high
    return loft(rings)


def side_prism(
    outline: Sequence[tuple[float, float]] | np.ndarray, low: float, high: float
) -> Solid:
    """Raise a side view (y, z) from x = low to x = high."""
    solid = prism(outline, low, high)
    return Solid(solid.vertices[:, [2, 0, 1]], solid.faces)


def front_prism(
    outline: Sequence[tuple[float, float]] | np.ndarray, low: float, high: float
) -> Solid:
    """Raise a front view (x, z) from y = low to y = high."""
    solid = prism(outline, low, high)
    # exchanging two axes mirrors, so the faces are turned round
    return Solid(solid.vertices[:, [0, 2, 1]], solid.faces[:, ::-1].copy())


def mirrored(solid: Solid, axis: str) -> Solid:
    """Return the mirror image in x = 0, y = 0 or z = 0."""
    factors = np.ones(3)
    factors["xyz".index(axis)] = -1.0
    return Solid(solid.vertices * factors, solid.faces[:, ::-1].copy())
