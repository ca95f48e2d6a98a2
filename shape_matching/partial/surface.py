"""A surface that may be a piece of a larger one, as partial matching sees it.

Notation: v vertices, p samples (farthest points along the surface), r radii, t times of heat
flow.  Lengths are in units in which the larger of the two surfaces has area 1.

What a cut leaves intact: the distance of two points is unchanged unless the shortest path on the
whole crosses the cut, and such a path is at least as long as the distances of both points to the
border together.  So the true distance lies between ``min(d, b + b')`` and d.  In the same way a
descriptor of the disc of radius r around a point is that of the whole if the border is farther
away than r.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg as spla
from jaxtyping import Bool, Float, Int
from scipy.sparse.csgraph import dijkstra

from geo3d.errors import MeshError, NumericalError
from geo3d.mesh.geodesic import HeatSolver, edge_graph, graph_distances
from geo3d.mesh.mesh import Mesh
from geo3d.mesh.operators import laplacian
from geo3d.mesh.ops import vertex_areas, vertex_normals
from shape_matching.search.prepare import CURVATURE_LIMIT, CURVATURE_TIMES

RADII = np.array([0.05, 0.08, 0.12, 0.17, 0.24, 0.33])
"""Of the discs that are described."""
RIM = 0.03
"""Width over which a disc fades out, about an edge of a mesh of 1,500 vertices."""
BORDER_SLACK = 0.3
"""Part of a radius by which a disc may reach over the border and still be described."""
FAR = 1e3
"""Stands for the distance of points that no path joins."""


@dataclass(frozen=True, eq=False)
class Surface:
    """One of the two surfaces."""

    mesh: Mesh
    mass: Float[np.ndarray, " v"]
    normals: Float[np.ndarray, "v 3"]
    border: Float[np.ndarray, " v"]
    """Distance to the nearest border, along edges; inf on a closed surface."""
    curvature: Float[np.ndarray, "v t"]
    """Mean curvature after heat flow, less and less detail; the border counts nothing."""
    samples: Int[np.ndarray, " p"]
    rows: Float[np.ndarray, "p v"]
    """Geodesic distances from the samples."""
    discs: Float[np.ndarray, "p r 4"]
    """Area, flatness, height and spread of the discs around the samples."""
    described: Bool[np.ndarray, "p r"]
    """Which of these discs lie inside the surface."""
    distances_from: Distances

    @property
    def between(self) -> Float[np.ndarray, "p p"]:
        """Distances among the samples."""
        table = self.rows[:, self.samples]
        return (table + table.T) / 2

    def at_least(
        self, distances: Float[np.ndarray, "s _"], ids: Int[np.ndarray, " s"]
    ) -> Float[np.ndarray, "s _"]:
        """Return the least that distances from vertices ``ids`` to all can be on the whole."""
        return np.minimum(distances, self.border[ids][:, None] + self.border[None])


class Distances:
    """Geodesic distances by the heat method, along edges where that refuses the mesh."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        try:
            self._solver = HeatSolver(mesh)
        except MeshError:
            self._solver = None

    def __call__(self, ids: Int[np.ndarray, " s"]) -> Float[np.ndarray, "s v"]:
        """Return the distances of all vertices from each of ``ids``."""
        if self._solver is not None:
            try:
                return self._bounded(self._solver.distances(ids))
            except NumericalError:
                self._solver = None
        return self._bounded(graph_distances(self._mesh, ids))

    @staticmethod
    def _bounded(distances: Float[np.ndarray, "s v"]) -> Float[np.ndarray, "s v"]:
        return np.where(np.isfinite(distances), distances, FAR)


def surface_of(mesh: Mesh, unit: float, n_samples: int) -> Surface:
    """Describe ``mesh``, whose lengths are divided by ``unit``.

    Raises:
        MeshError: what the Laplacian raises.
    """
    scaled = Mesh(mesh.vertices.astype(np.float64) / unit, mesh.faces, name=mesh.name)
    normals, distances = vertex_normals(scaled), Distances(scaled)
    samples, rows = _spread(scaled, distances, min(n_samples, scaled.n_vertices))
    border = border_distance(scaled)
    described = RADII <= border[samples][:, None] + BORDER_SLACK * RADII
    return Surface(
        scaled,
        vertex_areas(scaled),
        normals,
        border,
        _curvatures(scaled, normals, border),
        samples,
        rows,
        _discs(scaled, normals, samples, rows),
        described,
        distances,
    )


def border_edges(mesh: Mesh) -> Int[np.ndarray, "e 2"]:
    """Return the edges that belong to one face only."""
    sides = np.sort(mesh.faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
    pairs, count = np.unique(sides, axis=0, return_counts=True)
    return pairs[count == 1]


def border_distance(mesh: Mesh) -> Float[np.ndarray, " v"]:
    """Return the distance of every vertex to the nearest border, along edges."""
    border = np.unique(border_edges(mesh))
    if not len(border):
        return np.full(mesh.n_vertices, np.inf)
    graph = edge_graph(mesh)
    return np.asarray(dijkstra(graph, directed=False, indices=border, min_only=True))


def _spread(
    mesh: Mesh, distances: Distances, n: int
) -> tuple[Int[np.ndarray, " p"], Float[np.ndarray, "p v"]]:
    """Return farthest-point samples along the surface, and their distances to all vertices."""
    points = mesh.vertices - mesh.vertices.mean(axis=0)
    chosen = [int(np.square(points).sum(axis=1).argmax())]
    rows = [distances(np.array(chosen))[0]]
    near = rows[0].copy()
    while len(chosen) < n:
        chosen.append(int(near.argmax()))
        rows.append(distances(np.array(chosen[-1:]))[0])
        near = np.minimum(near, rows[-1])
    return np.array(chosen), np.array(rows)


def _discs(
    mesh: Mesh,
    normals: Float[np.ndarray, "v 3"],
    samples: Int[np.ndarray, " p"],
    rows: Float[np.ndarray, "p v"],
) -> Float[np.ndarray, "p r 4"]:
    """Describe the discs: log of area over that of a flat disc; mean cosine of the normals with
    that at the centre; mean height over the tangent plane; root mean square of straight distances;
    the last two over the radius, weighted so that all four vary alike."""
    points, areas = mesh.vertices, vertex_areas(mesh)
    found = []
    for centre, distance in zip(samples, rows, strict=True):
        weights = np.clip((RADII[:, None] - distance) / RIM + 0.5, 0.0, 1.0) * areas
        total = weights.sum(axis=1).clip(min=1e-12)
        offset = points - points[centre]
        flatness = weights @ (normals @ normals[centre]) / total
        height = weights @ (offset @ normals[centre]) / total / RADII
        spread = np.sqrt(weights @ np.square(offset).sum(axis=1) / total) / RADII
        area = np.log(total / (np.pi * RADII**2))
        found.append(np.stack([area, flatness, 3 * height, 2 * spread], axis=1))
    return np.array(found)


def _curvatures(
    mesh: Mesh, normals: Float[np.ndarray, "v 3"], border: Float[np.ndarray, " v"]
) -> Float[np.ndarray, "v t"]:
    """Return mean curvature smoothed by heat flow that starts from inner vertices only."""
    stiffness, mass = laplacian(mesh)
    bend = ((stiffness @ mesh.vertices) * normals).sum(axis=1) / (2 * mass)
    inner = np.where(border > 0, mass, 0.0)
    found = []
    for time in CURVATURE_TIMES:
        solve = spla.splu((sp.diags(mass) + time * stiffness).tocsc()).solve
        flow = solve(inner * bend.clip(-CURVATURE_LIMIT, CURVATURE_LIMIT))
        found.append(flow / np.maximum(solve(inner), 1e-9))
    return np.stack(found, axis=1)
