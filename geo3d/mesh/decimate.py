"""A coarse version of a mesh that remembers where each original vertex lies on it.

Notation: v original vertices, f faces of the coarse mesh; ``face_ids`` (v,) and ``barycentric``
(v, 3) give each original vertex's closest point on the coarse mesh, so that functions, maps and
texture can be carried both ways.

Source: quadric edge collapse, Garland and Heckbert 1997 (through fast_simplification).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from geo3d.errors import InputError, MeshError, NumericalError
from geo3d.mesh.closest import closest_points
from geo3d.mesh.mesh import Mesh
from geo3d.mesh.ops import faces_per_edge
from geo3d.mesh.simplify import MOST_TURNED, turned_share

FEWEST_VERTICES = 4
TOLERANCE = 0.05
"""Accepted deviation from the asked number of vertices, as a share of it."""
# how fast the permitted error grows: gentle settings keep more shape where eager ones fold it
_AGGRESSIVENESS = (7.0, 5.0, 3.0, 9.0)


@dataclass(frozen=True)
class Decimated:
    """A coarse mesh and each original vertex's closest point on it."""

    mesh: Mesh
    face_ids: Int[np.ndarray, " v"]
    barycentric: Float[np.ndarray, "v 3"]

    def nearest_coarse(self) -> Int[np.ndarray, " v"]:
        """Return, for each original vertex, the coarse vertex with the largest weight."""
        corners = self.mesh.faces[self.face_ids]
        return corners[np.arange(len(corners)), self.barycentric.argmax(axis=1)]


def decimate(mesh: Mesh, n_vertices: int) -> Decimated:
    """Return ``mesh`` with about ``n_vertices`` vertices (the mesh itself if it has no more).

    The result keeps the orientation and adds no non-manifold edges; unreferenced vertices go.

    Raises:
        InputError: ``decimate.bad_count`` for fewer than 4 vertices.
        MeshError: ``decimate.no_faces`` for a point cloud.
        NumericalError: ``decimate.failed`` where no setting gives a sound mesh.
    """
    if n_vertices < FEWEST_VERTICES:
        raise InputError(
            "decimate.bad_count", f"Cannot decimate to {n_vertices} vertices.", "Ask for 4 or more."
        )
    if mesh.is_point_cloud:
        raise MeshError(
            "decimate.no_faces",
            f"{mesh.name} is a point cloud.",
            "Thin it with farthest_point_samples.",
        )
    coarse = mesh if n_vertices >= mesh.n_vertices else _coarsened(mesh, n_vertices)
    found = closest_points(coarse, mesh.vertices.astype(np.float64))
    return Decimated(coarse, found.face_ids, found.barycentric)


def _coarsened(mesh: Mesh, n_vertices: int) -> Mesh:
    problem = ""
    allowed = int((faces_per_edge(mesh.faces) > 2).sum())
    for aggressiveness in _AGGRESSIVENESS:
        coarse = _simplified(mesh, n_vertices, aggressiveness)
        problem = _problem(mesh, coarse, n_vertices, allowed)
        if not problem:
            return coarse
    raise NumericalError(
        "decimate.failed",
        f"{mesh.name}: no sound mesh with {n_vertices} vertices was found ({problem}).",
        "Ask for more vertices, or repair the mesh first (`geo3d check FILE`).",
    )


def _simplified(mesh: Mesh, n_vertices: int, aggressiveness: float) -> Mesh:
    """Collapse edges; the number of faces asked for is corrected once to meet the vertices."""
    import fast_simplification

    points = mesh.vertices.astype(np.float64)
    low = points.min(axis=0)
    scale = max(float(np.ptp(points, axis=0).max()), np.finfo(np.float64).tiny)
    a, b, c = mesh.faces.T
    faces = mesh.faces[(a != b) & (b != c) & (c != a)]
    target = len(faces) * n_vertices / max(len(np.unique(faces)), 1)
    coarse = mesh
    for _ in range(2):
        # unit box: the collapse threshold is absolute
        vertices, kept, *_ = fast_simplification.simplify(
            ((points - low) / scale).astype(np.float32),
            faces.astype(np.int32),
            target_count=max(4, min(round(target), len(faces))),
            agg=aggressiveness,
        )
        used, kept = np.unique(kept, return_inverse=True)
        if len(used) == 0:
            return Mesh(mesh.vertices[:1], np.zeros((0, 3), np.int64), name=mesh.name)
        vertices = vertices[used].astype(np.float64) * scale + low
        coarse = Mesh(vertices.astype(mesh.vertices.dtype), kept.reshape(-1, 3), name=mesh.name)
        if abs(coarse.n_vertices - n_vertices) <= 0.01 * n_vertices:
            break
        target *= n_vertices / coarse.n_vertices
    return coarse


def _problem(mesh: Mesh, coarse: Mesh, n_vertices: int, allowed: int) -> str:
    """Say what is wrong with ``coarse``, or return an empty string."""
    if abs(coarse.n_vertices - n_vertices) > max(2.0, TOLERANCE * n_vertices):
        return f"{coarse.n_vertices} vertices came out"
    if (faces_per_edge(coarse.faces) > 2).sum() > allowed:
        return "edges with three faces came out"
    if len(np.unique(np.sort(coarse.faces, axis=1), axis=0)) < coarse.n_faces:
        return "faces came out twice"
    if turned_share(mesh, coarse) >= MOST_TURNED:
        return "faces came out turned over"
    return ""
