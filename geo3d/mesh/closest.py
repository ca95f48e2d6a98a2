"""The closest point of a triangle mesh to each of many points, exact and bounded in memory.

Notation: p query points, f faces; ``barycentric`` weighs the three vertices of the closest face.

A k-d tree over face centroids proposes faces.  A face whose centroid is at distance c and whose
farthest corner is r from its centroid is at least c - r away, so once the next centroid is farther
than the best distance plus r nothing nearer can be left.  Faces are split into classes of similar
r, because one large face would otherwise spoil that bound for all.
Source: point-triangle distance by regions, Ericson, Real-Time Collision Detection, 2005, 5.1.5.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial import KDTree

from geo3d.errors import MeshError
from geo3d.mesh.mesh import Mesh

POINTS_AT_ONCE = 20_000
FIRST_CANDIDATES = 6
RADIUS_RATIO = 2.0
"""Faces of one class differ in r by at most this factor."""


@dataclass(frozen=True)
class ClosestPoints:
    """Where on the mesh each query point is nearest, and how far that is."""

    face_ids: Int[np.ndarray, " p"]
    barycentric: Float[np.ndarray, "p 3"]
    distance: Float[np.ndarray, " p"]

    def interpolate(
        self, mesh: Mesh, values: Float[np.ndarray, "v ..."]
    ) -> Float[np.ndarray, "p ..."]:
        """Return per-vertex ``values`` of ``mesh`` taken at the closest points."""
        corners = values[mesh.faces[self.face_ids]]
        return np.einsum("pi,pi...->p...", self.barycentric, corners)


def closest_points(mesh: Mesh, points: Float[np.ndarray, "p 3"]) -> ClosestPoints:
    """Return the closest point on the surface to each query point (ties: any of them).

    About 2 s for 100,000 points on 10,000 faces.

    Raises:
        MeshError: ``closest.no_faces`` for a point cloud.
    """
    if mesh.is_point_cloud:
        raise MeshError("closest.no_faces", f"{mesh.name} has no faces.", "Use a k-d tree.")
    classes = _face_classes(mesh.vertices.astype(np.float64)[mesh.faces])
    queries = points.astype(np.float64)
    result = ClosestPoints(
        np.zeros(len(queries), np.int64),
        np.zeros((len(queries), 3)),
        np.full(len(queries), np.inf),
    )
    for begin in range(0, len(queries), POINTS_AT_ONCE):
        rows = np.arange(begin, min(begin + POINTS_AT_ONCE, len(queries)))
        for group in classes:
            _improve(group, queries, rows, result)
    return result


@dataclass(frozen=True)
class _FaceClass:
    """Faces of similar size: their ids, corners, centroid tree and largest corner distance."""

    ids: np.ndarray
    corners: np.ndarray
    tree: KDTree
    radius: float


def _face_classes(corners: Float[np.ndarray, "f 3 3"]) -> list[_FaceClass]:
    """Split the faces by size, the most numerous class first so that it sets a good bound."""
    centroids = corners.mean(axis=1)
    radii = np.linalg.norm(corners - centroids[:, None], axis=2).max(axis=1)
    level = np.floor(np.log(np.maximum(radii, 1e-300)) / np.log(RADIUS_RATIO)).astype(np.int64)
    # faces far smaller than usual gain nothing from a class of their own
    level = np.maximum(level, np.floor(np.median(level)) - 1)
    found, counts = np.unique(level, return_counts=True)
    classes = []
    for value in found[np.argsort(-counts, kind="stable")]:
        ids = np.flatnonzero(level == value)
        classes.append(
            _FaceClass(ids, corners[ids], KDTree(centroids[ids]), float(radii[ids].max()))
        )
    return classes


def _improve(
    group: _FaceClass,
    queries: Float[np.ndarray, "p 3"],
    rows: Int[np.ndarray, " q"],
    result: ClosestPoints,
) -> None:
    """Look for nearer faces of one class, asking for more candidates until none can be left."""
    seen, ask = 0, FIRST_CANDIDATES
    while len(rows) and seen < len(group.ids):
        ask = min(ask, len(group.ids))
        reach = result.distance[rows].max() + group.radius
        gaps, near = group.tree.query(queries[rows], k=ask, distance_upper_bound=reach * 1.0001)
        gaps, near = gaps.reshape(-1, ask)[:, seen:], near.reshape(-1, ask)[:, seen:]
        row, column = np.nonzero(gaps <= result.distance[rows][:, None] + group.radius)
        _keep_nearer(group, queries, rows[row], near[row, column], result)
        # the farthest candidate was still within reach: there may be more behind it
        open_ = gaps[:, -1] <= result.distance[rows] + group.radius
        rows, seen, ask = rows[open_], ask, ask * 2


def _keep_nearer(
    group: _FaceClass,
    queries: np.ndarray,
    rows: np.ndarray,
    candidates: np.ndarray,
    result: ClosestPoints,
) -> None:
    if not len(rows):
        return
    barycentric, distance = point_triangle(queries[rows], group.corners[candidates])
    # rows are sorted, so each point's candidates are neighbours: find the best of each run
    starts = np.flatnonzero(np.r_[True, rows[1:] != rows[:-1]])
    least = np.minimum.reduceat(distance, starts)
    run = np.repeat(np.arange(len(starts)), np.diff(np.r_[starts, len(rows)]))
    hits = np.flatnonzero(distance == least[run])
    best = hits[np.unique(run[hits], return_index=True)[1]]
    best = best[distance[best] < result.distance[rows[best]]]
    result.face_ids[rows[best]] = group.ids[candidates[best]]
    result.barycentric[rows[best]] = barycentric[best]
    result.distance[rows[best]] = distance[best]


def point_triangle(
    points: Float[np.ndarray, "p 3"], corners: Float[np.ndarray, "p 3 3"]
) -> tuple[Float[np.ndarray, "p 3"], Float[np.ndarray, " p"]]:
    """Return barycentric coordinates of each triangle's point closest to its query and distance."""
    # coordinates first: whole-row arithmetic is several times faster than (p, 3) operations
    a, b, c = corners.transpose(1, 2, 0)
    ab, ac, ap = b - a, c - a, points.T - a
    bp, cp = ap - ab, ap - ac
    d1, d2 = _dot(ab, ap), _dot(ac, ap)
    d3, d4 = _dot(ab, bp), _dot(ac, bp)
    d5, d6 = _dot(ab, cp), _dot(ac, cp)
    va, vb, vc = d3 * d6 - d5 * d4, d5 * d2 - d1 * d6, d1 * d4 - d3 * d2
    total = va + vb + vc
    v, w = _ratio(vb, total), _ratio(vc, total)
    # the face first, then edges over it, then corners over those: later regions win
    on_bc = (va <= 0) & (d4 - d3 >= 0) & (d5 - d6 >= 0)
    along = _ratio(d4 - d3, (d4 - d3) + (d5 - d6))
    v, w = np.where(on_bc, 1 - along, v), np.where(on_bc, along, w)
    on_ac = (vb <= 0) & (d2 >= 0) & (d6 <= 0)
    v, w = np.where(on_ac, 0.0, v), np.where(on_ac, _ratio(d2, d2 - d6), w)
    on_ab = (vc <= 0) & (d1 >= 0) & (d3 <= 0)
    v, w = np.where(on_ab, _ratio(d1, d1 - d3), v), np.where(on_ab, 0.0, w)
    at_c = (d6 >= 0) & (d5 <= d6)
    v, w = np.where(at_c, 0.0, v), np.where(at_c, 1.0, w)
    at_b = (d3 >= 0) & (d4 <= d3)
    v, w = np.where(at_b, 1.0, v), np.where(at_b, 0.0, w)
    at_a = (d1 <= 0) & (d2 <= 0)
    v, w = np.where(at_a, 0.0, v), np.where(at_a, 0.0, w)
    gap = ap - v * ab - w * ac
    return np.stack([np.maximum(1 - v - w, 0.0), v, w], axis=1), np.sqrt(_dot(gap, gap))


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    return np.divide(top, bottom, out=np.zeros_like(top), where=bottom != 0)
