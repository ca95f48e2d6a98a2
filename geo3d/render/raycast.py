"""First hits of rays on a triangle mesh, on the CPU (Embree).

Notation: p rays, h w image, f faces; ``barycentric`` weighs the three vertices of the hit face;
``depth`` is the distance along the camera's z axis, inf where nothing is hit.

Embree computes in float32, so the mesh is moved into a unit box first and distances and barycentric
coordinates are recomputed in float64 on the hit triangle.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene
from jaxtyping import Float, Int

from geo3d.errors import MeshError
from geo3d.mesh.mesh import Mesh
from geo3d.render.cameras import Camera

RAYS_AT_ONCE = 262_144
"""Rays per tile: about 60 MB of temporaries."""


@dataclass(frozen=True)
class RayHits:
    """What each ray meets first: face -1 and distance inf where nothing."""

    distance: Float[np.ndarray, " p"]
    face_ids: Int[np.ndarray, " p"]
    barycentric: Float[np.ndarray, "p 3"]


@dataclass(frozen=True)
class ImageHits:
    """What each pixel sees."""

    depth: Float[np.ndarray, "h w"]
    face_ids: Int[np.ndarray, "h w"]
    barycentric: Float[np.ndarray, "h w 3"]


class RayCaster:
    """A mesh made ready for ray queries.

    Raises:
        MeshError: ``raycast.no_faces`` for a point cloud.
    """

    def __init__(self, mesh: Mesh) -> None:
        if mesh.is_point_cloud:
            raise MeshError(
                "raycast.no_faces", f"{mesh.name} is a point cloud.", "Draw its points."
            )
        self._corners = mesh.vertices.astype(np.float64)[mesh.faces]
        low, high = self._corners.min(axis=(0, 1)), self._corners.max(axis=(0, 1))
        self._centre = (low + high) / 2
        self._scale = 1.0 / max(float((high - low).max()), np.finfo(np.float64).tiny)
        self._scene = EmbreeScene()
        boxed = ((self._corners - self._centre) * self._scale).astype(np.float32)
        # the geometry belongs to the scene, but only lives as long as this reference
        self._geometry = TriangleMesh(self._scene, boxed)

    def cast(
        self, origins: Float[np.ndarray, "p 3"], directions: Float[np.ndarray, "p 3"]
    ) -> RayHits:
        """Return the first hits of rays with unit directions."""
        parts = [
            self._cast_tile(origins[i : i + RAYS_AT_ONCE], directions[i : i + RAYS_AT_ONCE])
            for i in range(0, max(len(origins), 1), RAYS_AT_ONCE)
        ]
        return RayHits(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def is_hit(
        self, origins: Float[np.ndarray, "p 3"], directions: Float[np.ndarray, "p 3"]
    ) -> np.ndarray:
        """Return whether each ray meets anything (p,); cheaper than `cast`."""
        return self._first_faces(origins, directions) >= 0

    def _first_faces(self, origins: np.ndarray, directions: np.ndarray) -> np.ndarray:
        boxed = ((origins - self._centre) * self._scale).astype(np.float32)
        return self._scene.run(boxed, np.ascontiguousarray(directions, np.float32))

    def _cast_tile(
        self, origins: np.ndarray, directions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        faces = self._first_faces(origins, directions).astype(np.int64)
        distance = np.full(len(faces), np.inf)
        barycentric = np.zeros((len(faces), 3))
        hit = np.flatnonzero(faces >= 0)
        if len(hit):
            corners = self._corners[faces[hit]]
            distance[hit], barycentric[hit] = _meet(corners, origins[hit], directions[hit])
        return distance, faces, barycentric


def raycast(mesh: Mesh | RayCaster, camera: Camera) -> ImageHits:
    """Return depth, face and barycentric coordinates seen through every pixel centre.

    Raises:
        MeshError: ``raycast.no_faces``.
    """
    caster = mesh if isinstance(mesh, RayCaster) else RayCaster(mesh)
    shape = (camera.height, camera.width)
    depth, faces = np.full(shape, np.inf), np.full(shape, -1, np.int64)
    barycentric = np.zeros((*shape, 3))
    rows = max(1, RAYS_AT_ONCE // camera.width)
    forward = camera.c2w[:3, 2]
    for top in range(0, camera.height, rows):
        band = slice(top, top + rows)
        origins, directions = camera.rays(band)
        hits = caster.cast(origins, directions)
        depth[band] = (hits.distance * (directions @ forward)).reshape(-1, camera.width)
        faces[band] = hits.face_ids.reshape(-1, camera.width)
        barycentric[band] = hits.barycentric.reshape(-1, camera.width, 3)
    return ImageHits(depth, faces, barycentric)


def _meet(
    corners: Float[np.ndarray, "p 3 3"],
    origins: Float[np.ndarray, "p 3"],
    directions: Float[np.ndarray, "p 3"],
) -> tuple[np.ndarray, np.ndarray]:
    """Intersect each ray with its triangle (Moeller and Trumbore 1997), clamped to the triangle."""
    # coordinates first: whole-row arithmetic is several times faster than (p, 3) operations
    a, b, c = corners.transpose(1, 2, 0)
    way = directions.T
    first, second, to_origin = b - a, c - a, origins.T - a
    p = _cross(way, second)
    q = _cross(to_origin, first)
    determinant = _dot(first, p)
    # an exactly edge-on face cannot be solved for; its first corner is as good as any
    safe = np.where(determinant == 0, np.inf, determinant)
    u = np.clip(_dot(to_origin, p) / safe, 0.0, 1.0)
    v = np.clip(_dot(way, q) / safe, 0.0, 1.0 - u)
    distance = _dot(u * first + v * second - to_origin, way)
    return distance, np.stack([1.0 - u - v, u, v], axis=1)


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.stack(
        [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]
    )
