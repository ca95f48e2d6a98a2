"""Pieces of a mesh, as cuts and scanners leave them, with the vertices they came from.

Notation: v vertices of the whole, m of the piece.  A piece keeps the faces all of whose corners are
kept, and of those the largest connected part; shares are of the surface area.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.spatial.transform import Rotation

from geo3d.errors import InputError, MeshError
from geo3d.mesh.connectivity import vertex_components
from geo3d.mesh.geodesic import graph_distances
from geo3d.mesh.mesh import Mesh
from geo3d.mesh.ops import vertex_areas, vertex_normals
from geo3d.render.raycast import RayCaster

LIFT = 1e-3
"""How far above the surface a ray to the camera starts, in parts of the extent."""


@dataclass(frozen=True, eq=False)
class Piece:
    """A part of a mesh."""

    mesh: Mesh
    vertex_ids: Int[np.ndarray, " m"]
    """The whole's vertex of every vertex of the piece."""


def piece_of(mesh: Mesh, keep: Bool[np.ndarray, " v"]) -> Piece:
    """Return the largest connected part of the faces whose corners are all kept.

    Raises:
        MeshError: ``pieces.nothing_left`` where no face is kept.
    """
    faces = mesh.faces[keep[mesh.faces].all(axis=1)]
    if not len(faces):
        raise MeshError("pieces.nothing_left", f"No face of {mesh.name} is kept.", "Keep more.")
    _, part = vertex_components(faces, mesh.n_vertices)
    areas = np.bincount(part[faces].ravel(), np.repeat(_face_areas(mesh, faces), 3))
    faces = faces[part[faces[:, 0]] == areas.argmax()]
    vertex_ids, local = np.unique(faces, return_inverse=True)
    piece = Mesh(mesh.vertices[vertex_ids], local.reshape(-1, 3), name=f"{mesh.name}_piece")
    return Piece(piece, vertex_ids)


def cut_by_plane(mesh: Mesh, share: float, rng: np.random.Generator) -> Piece:
    """Return what lies on one side of a plane of random direction.

    Raises:
        InputError: ``pieces.bad_share`` unless 0 < share < 1.
    """
    direction = rng.standard_normal(3)
    return _lowest(mesh, mesh.vertices @ direction, share)


def cut_by_ball(mesh: Mesh, share: float, rng: np.random.Generator) -> Piece:
    """Return the surface around a random vertex, measured along edges.

    Raises:
        InputError: ``pieces.bad_share`` unless 0 < share < 1.
    """
    centre = int(rng.integers(mesh.n_vertices))
    return _lowest(mesh, graph_distances(mesh, [centre])[0], share)


def scanned(mesh: Mesh, rng: np.random.Generator) -> Piece:
    """Return what a far camera in a random direction sees of the mesh.

    Raises:
        MeshError: ``pieces.nothing_left``.
    """
    direction = rng.standard_normal(3)
    direction /= np.linalg.norm(direction)
    normals = vertex_normals(mesh)
    extent = float(np.ptp(mesh.vertices, axis=0).max())
    lifted = mesh.vertices + LIFT * extent * normals
    hidden = RayCaster(mesh).is_hit(lifted, np.broadcast_to(direction, lifted.shape))
    return piece_of(mesh, ~hidden & (normals @ direction > 0))


def turned(mesh: Mesh, rng: np.random.Generator) -> Mesh:
    """Return the mesh under a random rotation."""
    rotation = Rotation.random(rng=rng).as_matrix()
    return Mesh(mesh.vertices @ rotation.T, mesh.faces, name=mesh.name)


def _lowest(mesh: Mesh, values: Float[np.ndarray, " v"], share: float) -> Piece:
    """Keep the vertices of the lowest values that have the wanted share of the area."""
    if not 0 < share < 1:
        raise InputError("pieces.bad_share", f"Share {share} is outside 0..1.", "Try 0.5.")
    order = np.argsort(values, kind="stable")
    total = np.cumsum(vertex_areas(mesh)[order])
    keep = np.zeros(mesh.n_vertices, bool)
    keep[order[total <= share * total[-1]]] = True
    return piece_of(mesh, keep)


def _face_areas(mesh: Mesh, faces: Int[np.ndarray, "f 3"]) -> Float[np.ndarray, " f"]:
    a, b, c = np.moveaxis(mesh.vertices.astype(np.float64)[faces], 1, 0)
    return 0.5 * np.linalg.norm(np.cross(b - a, c - a), axis=1)
