"""Surface voxels of a mesh: which cells of a cubic grid it touches, and what it looks like there.

Notation: r cells per side; cell (i, j, k) is the cube of side 1/r from (i, j, k)/r - 0.5; n active
cells in the order of `np.argwhere` (x, y, z), as TRELLIS keeps them.  Every triangle is cut into
its pieces in each cell, exactly; a cell is active when the pieces in it have an area.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import no_type_check

import numpy as np
from jaxtyping import Bool, Float, Int, Int8, UInt8
from numba import njit
from scipy import ndimage

from geo3d.errors import MeshError
from geo3d.mesh.mesh import Mesh

RESOLUTION = 64
_MOST_CORNERS = 12


@dataclass(frozen=True)
class SurfaceVoxels:
    """Active cells with the mean of the surface inside each."""

    resolution: int
    coords: Int[np.ndarray, "n 3"]
    """Cell indices (x, y, z), int16, lexicographic."""
    colors: UInt8[np.ndarray, "n 3"]
    """Mean sRGB colour, weighted by area."""
    normals: Int8[np.ndarray, "n 3"]
    """Mean outward unit normal times 127, weighted by area; short where normals cancel."""
    offsets: Int8[np.ndarray, "n 3"]
    """Centroid of the surface in the cell, from the cell's middle, in 1/254 of its side."""

    def occupancy(self) -> Bool[np.ndarray, "r r r"]:
        """Return the cells as a dense grid."""
        grid = np.zeros((self.resolution,) * 3, bool)
        grid[tuple(self.coords.T)] = True
        return grid

    def kept(self, mask: Bool[np.ndarray, " n"]) -> SurfaceVoxels:
        """Return only some of the cells."""
        parts = (self.coords, self.colors, self.normals, self.offsets)
        return SurfaceVoxels(self.resolution, *(part[mask] for part in parts))

    def points(self) -> Float[np.ndarray, "n 3"]:
        """Return the surface's centroid in each cell, in the coordinates of the mesh."""
        cells = self.coords + 0.5 + self.offsets / 254.0
        return cells / self.resolution - 0.5


def voxelize(mesh: Mesh, resolution: int = RESOLUTION) -> SurfaceVoxels:
    """Return the cells that the surface touches.

    Args:
        mesh: inside [-0.5, 0.5]^3; colours by vertex, white where it has none.
        resolution: cells per side, 2 to 1024.

    Raises:
        MeshError: ``voxels.outside`` for a mesh that leaves the cube, ``voxels.no_faces``.
    """
    if mesh.is_point_cloud:
        raise MeshError("voxels.no_faces", f"{mesh.name} is a point cloud.", "Give it faces.")
    reach = float(np.abs(mesh.vertices).max())
    if reach > 0.5:
        raise MeshError(
            "voxels.outside",
            f"{mesh.name} reaches {reach:.3g} from the middle; the cube ends at 0.5.",
            "Centre it and scale its longest side to 1.",
        )
    corners = (mesh.vertices.astype(np.float64)[mesh.faces] + 0.5) * resolution
    colors = mesh.vertex_colors
    if colors is None:
        colors = np.full((mesh.n_vertices, 3), 255, np.uint8)
    sums = np.zeros((resolution**3, 10))
    cut_triangles(corners, colors[mesh.faces].astype(np.float64), resolution, sums)
    active = np.flatnonzero(sums[:, 0] > 0)
    area, color, normal, place = np.split(sums[active], [1, 4, 7], axis=1)
    coords = np.stack(np.unravel_index(active, (resolution,) * 3), -1)
    offset = np.clip(place / area - coords - 0.5, -0.5, 0.5)
    return SurfaceVoxels(
        resolution,
        coords.astype(np.int16),
        np.rint(np.clip(color / area, 0, 255)).astype(np.uint8),
        np.rint(np.clip(normal / area, -1, 1) * 127).astype(np.int8),
        np.rint(offset * 254).astype(np.int8),
    )


def coarser(occupancy: Bool[np.ndarray, "r r r"], factor: int = 2) -> Bool[np.ndarray, "q q q"]:
    """Return the grid of ``factor`` times larger cells; the same as voxelising on that grid."""
    side = occupancy.shape[0] // factor
    blocks = occupancy.reshape(side, factor, side, factor, side, factor)
    return np.asarray(blocks.any(axis=(1, 3, 5)))


def visible_shell(voxels: SurfaceVoxels) -> SurfaceVoxels:
    """Return the cells next to empty space that is joined to the outside.

    What parts hide in one another, and the walls of sealed hollows, are left out; a gap narrower
    than a cell counts as sealed.
    """
    occupied = np.pad(voxels.occupancy(), 1)
    labels = np.empty(occupied.shape, np.int32)
    ndimage.label(~occupied, output=labels)
    # the corner of the padding is outside whatever the object
    open_air = labels == labels[0, 0, 0]
    near = ndimage.binary_dilation(open_air, np.ones((3, 3, 3), bool))[1:-1, 1:-1, 1:-1]
    return voxels.kept(near[tuple(voxels.coords.T)])


@njit(cache=True)
@no_type_check
def cut_triangles(
    corners: np.ndarray, colors: np.ndarray, resolution: int, sums: np.ndarray
) -> None:
    """Add area, area x (colour, normal, centroid) of every piece to the row of its cell.

    Args:
        corners: (f, 3, 3) in units of cells, from the grid's corner.
        colors: (f, 3, 3) of the corners.
        sums: (resolution^3, 10), changed in place.
    """
    here = np.empty((_MOST_CORNERS, 3))
    spare = np.empty((_MOST_CORNERS, 3))
    place = np.empty((1, 3))
    low, high = np.empty(3, np.int64), np.empty(3, np.int64)
    for f in range(corners.shape[0]):
        a, b, c = corners[f, 0], corners[f, 1], corners[f, 2]
        normal = np.cross(b - a, c - a)
        length = np.sqrt((normal * normal).sum())
        if length == 0.0:
            continue
        unit = normal / length
        level = (unit * a).sum()
        reach = 0.5 * np.abs(unit).sum()
        for i in range(3):
            low[i] = max(0, int(np.floor(min(a[i], b[i], c[i]))))
            high[i] = min(resolution - 1, int(np.floor(max(a[i], b[i], c[i]))))
        for x in range(low[0], high[0] + 1):
            for y in range(low[1], high[1] + 1):
                for z in range(low[2], high[2] + 1):
                    away = unit[0] * (x + 0.5) + unit[1] * (y + 0.5) + unit[2] * (z + 0.5) - level
                    # the triangle's plane does not meet the cell
                    if abs(away) > reach + 1e-9:
                        continue
                    for i in range(3):
                        for k in range(3):
                            here[i, k] = corners[f, i, k]
                    count = _clip(here, spare, 3, x, y, z)
                    if count >= 3:
                        row = (x * resolution + y) * resolution + z
                        _add(here, count, corners[f], colors[f], unit, place, sums[row])


@njit(cache=True)
@no_type_check
def _clip(here: np.ndarray, spare: np.ndarray, count: int, x: int, y: int, z: int) -> int:
    """Cut the polygon in ``here`` down to a cell (Sutherland and Hodgman 1974)."""
    # no arrays are made on the way: that would take most of the time
    for axis in range(3):
        start = x if axis == 0 else (y if axis == 1 else z)
        for side in range(2):
            bound = start + side
            sign = 1.0 if side == 0 else -1.0
            beyond = False
            for i in range(count):
                if sign * (here[i, axis] - bound) < 0:
                    beyond = True
            if not beyond:
                continue
            kept = 0
            for i in range(count):
                j = (i + 1) % count
                dp, dq = sign * (here[i, axis] - bound), sign * (here[j, axis] - bound)
                if dp >= 0:
                    for k in range(3):
                        spare[kept, k] = here[i, k]
                    kept += 1
                if (dp > 0 and dq < 0) or (dp < 0 and dq > 0):
                    share = dp / (dp - dq)
                    for k in range(3):
                        spare[kept, k] = here[i, k] + (here[j, k] - here[i, k]) * share
                    kept += 1
            count = kept
            for i in range(count):
                for k in range(3):
                    here[i, k] = spare[i, k]
            if count < 3:
                return 0
    return count


@njit(cache=True, inline="always")
@no_type_check
def _area(
    p: np.ndarray, i: int, q: np.ndarray, j: int, r: np.ndarray, k: int, unit: np.ndarray
) -> float:
    """Return twice the area of the triangle p[i], q[j], r[k], seen against ``unit``."""
    ax, ay, az = q[j, 0] - p[i, 0], q[j, 1] - p[i, 1], q[j, 2] - p[i, 2]
    bx, by, bz = r[k, 0] - p[i, 0], r[k, 1] - p[i, 1], r[k, 2] - p[i, 2]
    return (
        (ay * bz - az * by) * unit[0]
        + (az * bx - ax * bz) * unit[1]
        + (ax * by - ay * bx) * unit[2]
    )


@njit(cache=True)
@no_type_check
def _add(
    polygon: np.ndarray,
    count: int,
    corners: np.ndarray,
    colors: np.ndarray,
    unit: np.ndarray,
    place: np.ndarray,
    row: np.ndarray,
) -> None:
    """Add one piece of a triangle to its cell's sums; ``place`` (1, 3) is room to work in."""
    area = 0.0
    place[0] = 0.0
    for i in range(1, count - 1):
        piece = 0.5 * _area(polygon, 0, polygon, i, polygon, i + 1, unit)
        area += piece
        for k in range(3):
            place[0, k] += piece * (polygon[0, k] + polygon[i, k] + polygon[i + 1, k]) / 3.0
    if area <= 0.0:
        return
    for k in range(3):
        row[7 + k] += place[0, k]
        place[0, k] /= area
    # barycentric coordinates of the piece's centroid in the whole triangle
    whole = _area(corners, 0, corners, 1, corners, 2, unit)
    u = _area(corners, 1, corners, 2, place, 0, unit) / whole
    v = _area(corners, 2, corners, 0, place, 0, unit) / whole
    row[0] += area
    for k in range(3):
        row[1 + k] += area * (u * colors[0, k] + v * colors[1, k] + (1 - u - v) * colors[2, k])
        row[4 + k] += area * unit[k]
