"""What the rays of an image hit: place, normal, primitive, and where that is on the street.

Rays meet the bodies inside the primitives (`geo3d.synth.streets.bodies`).

Notation: p rays, n primitives; world metres, y down.  Rays are cast once per camera; any number of
images in different light are then drawn from the same `Surfels`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.spatial import KDTree

from geo3d.layout.layout import Layout
from geo3d.mesh.mesh import Mesh
from geo3d.render.cameras import Camera
from geo3d.render.raycast import RayCaster
from geo3d.synth.streets.bodies import body_of, joined

_PATH_STEP = 0.5
_LIFT = 0.02
"""Metres by which shadow rays start above the surface."""


@dataclass(frozen=True, eq=False)
class Surfels:
    """Rays that hit something, ``rows`` of all rays of a camera."""

    directions: Float[np.ndarray, "q 3"]
    """Unit directions of all rays of the camera."""
    rows: Int[np.ndarray, " p"]
    """Which of them hit."""
    points: Float[np.ndarray, "p 3"]
    normals: Float[np.ndarray, "p 3"]
    """Unit, towards the camera."""
    instance: Int[np.ndarray, " p"]
    """Index of the primitive."""
    label: Int[np.ndarray, " p"]
    """Class id."""
    part: Int[np.ndarray, " p"]
    """Of the body (`geo3d.synth.streets.bodies.Part`)."""
    distance: Float[np.ndarray, " p"]
    """Along the ray."""
    footprint: Float[np.ndarray, " p"]
    """Metres covered by a pixel there, slant included."""
    pixel: Float[np.ndarray, " p"]
    """Metres covered by a pixel across the line of sight."""
    lateral: Float[np.ndarray, " p"]
    """Metres to the right of the nearest place on the driven path."""
    along: Float[np.ndarray, " p"]
    """Metres driven up to that place."""


class StreetRays:
    """A layout with at least one primitive, made ready for rays."""

    def __init__(self, layout: Layout) -> None:
        made = [body_of(primitive) for primitive in layout.primitives]
        bodies = [body for body, _ in made]
        self.frames = tuple(frame for _, frame in made)
        """Of every primitive."""
        whole = joined(*bodies)
        self._owner = np.repeat(np.arange(len(bodies)), [len(body.faces) for body in bodies])
        self._classes = np.array([p.class_id for p in layout.primitives])[self._owner]
        self._parts = whole.parts
        self._caster = RayCaster(Mesh(whole.vertices, whole.faces, name=layout.name))
        corners = whole.vertices[whole.faces]
        normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        length = np.linalg.norm(normals, axis=1, keepdims=True)
        self._normals = normals / np.maximum(length, 1e-12)
        self._path, self._right, self._driven = _dense_path(layout.trajectory)
        self._tree = KDTree(self._path)

    def surfels(self, camera: Camera) -> Surfels:
        """Cast the rays of ``camera``."""
        origins, directions = camera.rays()
        hits = self._caster.cast(origins, directions)
        rows = np.flatnonzero(hits.face_ids >= 0)
        faces, distance, seen = hits.face_ids[rows], hits.distance[rows], directions[rows]
        points = camera.position + distance[:, None] * seen
        normals = self._normals[faces]
        facing = -np.einsum("pi,pi->p", normals, seen)
        normals = normals * np.where(facing < 0, -1.0, 1.0)[:, None]
        plan = points[:, [0, 2]]
        _, nearest = self._tree.query(plan)
        beside, right = plan - self._path[nearest], self._right[nearest]
        lateral = np.einsum("pi,pi->p", beside, right)
        forward = np.einsum("pi,pi->p", beside, np.stack([-right[:, 1], right[:, 0]], axis=1))
        return Surfels(
            directions=directions,
            rows=rows,
            points=points,
            normals=normals,
            instance=self._owner[faces],
            label=self._classes[faces],
            part=self._parts[faces],
            distance=distance,
            footprint=distance / camera.fx / np.maximum(np.abs(facing), 0.15),
            pixel=distance / camera.fx,
            lateral=lateral,
            along=self._driven[nearest] + np.clip(forward, -_PATH_STEP, _PATH_STEP),
        )

    def lit(self, surfels: Surfels, sun: Float[np.ndarray, " 3"]) -> Bool[np.ndarray, " p"]:
        """Return which surfels see the sun, a unit direction towards it."""
        is_lit = surfels.normals @ sun > 0
        facing = np.flatnonzero(is_lit)
        start = surfels.points[facing] + _LIFT * surfels.normals[facing]
        towards = np.broadcast_to(sun, start.shape)
        is_lit[facing] = ~self._caster.is_hit(start, towards)
        return is_lit


def _dense_path(
    trajectory: Float[np.ndarray, "n 4 4"],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return places (k, 2) of the plan, the direction to the right there, and metres driven."""
    places = trajectory[:, [0, 2], 3]
    if len(places) == 1:
        places = np.stack([places[0], places[0] + trajectory[0, [0, 2], 2]])
    steps = np.linalg.norm(np.diff(places, axis=0), axis=1)
    driven = np.concatenate([[0.0], np.cumsum(steps)])
    dense = np.arange(0.0, driven[-1] + 1e-9, _PATH_STEP)
    path = np.stack([np.interp(dense, driven, places[:, i]) for i in range(2)], axis=1)
    if len(path) < 2:
        forward = np.array([[0.0, 1.0]])
    else:
        forward = np.gradient(path, axis=0)
    forward = forward / np.maximum(np.linalg.norm(forward, axis=1, keepdims=True), 1e-9)
    return path, np.stack([forward[:, 1], -forward[:, 0]], axis=1), dense
