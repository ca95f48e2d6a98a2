"""A mesh with at most so many faces, whatever the mesh; a closed surface stays closed.

Edges are collapsed by their quadric errors.  Where that ends too early (surfaces that touch, many
small parts, noise) vertices are first merged in the cells of a grid, as fine as will do.  Both only
merge vertices, so a closed surface stays one once the faces that came to lie on each other are
taken out (`geo3d.mesh.manifold`).

Notation: v vertices, f faces.

Source: Garland and Heckbert 1997 (through fast_simplification); Rossignac and Borrel 1993 (cells).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import numpy as np
from jaxtyping import Float

from geo3d.errors import InputError
from geo3d.mesh.closest import closest_points
from geo3d.mesh.manifold import cancelled, separated
from geo3d.mesh.mesh import Mesh
from geo3d.mesh.ops import face_areas, face_cross

FEWEST_FACES = 4
_AGGRESSIVENESS = (7.0, 4.0, 10.0)
"""How fast the permitted error grows: gentle settings keep more shape where eager ones fold it."""
MOST_TURNED = 0.02
"""Share of the area that may come out turned over: thin sheets have their other side in reach."""
_ENOUGH = 0.6
"""Of the faces asked for, when a way that keeps more is left to try."""
_FINEST = 1024
"""Cells along the longest side."""
_FIRST_MERGED = (8.0, 3.0, 1.5)
"""Faces left by merging before edges are collapsed, over those asked for."""

_Arrays = tuple[np.ndarray, np.ndarray]
"""Vertices and faces."""


def with_faces(mesh: Mesh, faces: int) -> Mesh:
    """Return ``mesh`` with at most ``faces`` faces, without colours; itself if it has no more.

    As many faces are kept as can be.  The orientation is kept, and a mesh without open edges
    comes out without.

    Raises:
        InputError: ``decimate.bad_count`` for fewer than 4 faces.
    """
    if faces < FEWEST_FACES:
        raise InputError(
            "decimate.bad_count", f"Cannot simplify to {faces} faces.", "Ask for 4 or more."
        )
    if mesh.n_faces <= faces:
        return mesh
    low = mesh.vertices.min(axis=0).astype(np.float64)
    scale = max(float(np.ptp(mesh.vertices, axis=0).max()), np.finfo(np.float64).tiny)
    # a unit box: the permitted error is absolute
    whole = ((mesh.vertices.astype(np.float64) - low) / scale, cancelled(mesh.faces))
    best, best_turned = None, np.inf
    for vertices, kept in _attempts(whole, faces):
        if not 0 < len(kept) <= faces:
            continue
        made = Mesh(vertices * scale + low, kept, name=mesh.name)
        turned = turned_share(mesh, made)
        if len(kept) > _ENOUGH * faces and turned <= MOST_TURNED:
            return made
        # few faces are as bad as turned ones
        turned += max(0.0, _ENOUGH - len(kept) / faces)
        if turned < best_turned:
            best, best_turned = made, turned
    return best if best is not None else _largest_faces(mesh, faces)


def _attempts(whole: _Arrays, faces: int) -> Iterator[_Arrays]:
    """Yield meshes of about so many faces, the best first."""
    for aggressiveness in _AGGRESSIVENESS:
        yield _collapsed(whole, faces, aggressiveness)
    for share in _FIRST_MERGED:
        if share * faces < len(whole[1]):
            merged = _merged(whole, int(share * faces))
            yield _collapsed(merged, faces, _AGGRESSIVENESS[0])
    yield _merged(whole, faces)
    yield _hull(whole[0], faces)


def _collapsed(arrays: _Arrays, faces: int, aggressiveness: float) -> _Arrays:
    """Collapse edges until ``faces`` are left or no edge can be collapsed."""
    import fast_simplification

    vertices, kept = arrays
    # what is taken out and apart leaves edges to collapse that were locked, and adds a few faces
    aim = faces
    for _ in range(4):
        if len(kept) <= faces:
            break
        before = len(kept)
        # in single precision, as the library computes
        found = cast(Any, fast_simplification.simplify)(
            vertices.astype(np.float32),
            kept.astype(np.int32),
            target_count=aim,
            agg=aggressiveness,
        )
        points, triangles = np.asarray(found[0], np.float64), cancelled(found[1].astype(np.int64))
        if len(triangles) == 0:
            return points, triangles
        vertices, kept, _ = separated(points, triangles)
        if len(kept) >= before:
            break
        aim = max(FEWEST_FACES, aim - max(0, len(kept) - faces))
    return vertices, kept


def _merged(arrays: _Arrays, faces: int) -> _Arrays:
    """Merge the vertices in each cell of the finest grid that leaves at most ``faces``."""
    low, high, best = 1, _FINEST, None
    while low <= high:
        cells = (low + high) // 2
        found = _in_cells(arrays, cells)
        if len(found[1]) > faces:
            high = cells - 1
        else:
            low = cells + 1
            if best is None or len(found[1]) >= len(best[1]):
                best = found
    vertices, kept = best if best is not None else _in_cells(arrays, 1)
    if len(kept) == 0:
        return vertices, kept
    return separated(vertices, kept)[:2]


def _in_cells(arrays: _Arrays, cells: int) -> _Arrays:
    vertices, faces = arrays
    used = np.unique(faces)
    places = np.minimum((vertices[used] * cells).astype(np.int64), cells - 1)
    _, cell = np.unique(places, axis=0, return_inverse=True)
    cell = cell.reshape(-1)
    number = np.bincount(cell)
    sums = [np.bincount(cell, column) / number for column in vertices[used].T]
    map_to = np.zeros(len(vertices), np.int64)
    map_to[used] = cell
    return np.stack(sums, axis=1), cancelled(map_to[faces])


def _hull(points: Float[np.ndarray, "v 3"], faces: int) -> _Arrays:
    """Return the convex hull of points far from each other, or nothing if they lie in a plane."""
    from scipy.spatial import ConvexHull, QhullError

    # a closed surface without holes has twice its vertices less 4 faces
    count = faces // 2 + 2
    chosen = [int(np.linalg.norm(points - points.mean(axis=0), axis=1).argmax())]
    distance = np.linalg.norm(points - points[chosen[0]], axis=1)
    while len(chosen) < min(count, 64):
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(points - points[chosen[-1]], axis=1))
    try:
        hull = ConvexHull(points[chosen])
    except (QhullError, ValueError):
        return points, np.zeros((0, 3), np.int64)
    triangles = hull.simplices.astype(np.int64)
    corners = hull.points[triangles]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    inward = (normal * hull.equations[:, :3]).sum(axis=1) < 0
    triangles[inward] = triangles[inward][:, [0, 2, 1]]
    return separated(hull.points, triangles)[:2]


def _largest_faces(mesh: Mesh, faces: int) -> Mesh:
    chosen = np.sort(np.argsort(-face_areas(mesh), kind="stable")[:faces])
    used, kept = np.unique(mesh.faces[chosen], return_inverse=True)
    return Mesh(mesh.vertices[used], kept.reshape(-1, 3), name=mesh.name)


def turned_share(mesh: Mesh, coarse: Mesh) -> float:
    """Return the share of the area whose normal is against the surface's at the nearest point."""
    normals = face_cross(coarse)
    centroids = coarse.vertices.astype(np.float64)[coarse.faces].mean(axis=1)
    there = face_cross(mesh)[closest_points(mesh, centroids).face_ids]
    areas = np.linalg.norm(normals, axis=1)
    turned = np.einsum("fi,fi->f", normals, there) < 0
    return float(areas[turned].sum() / max(float(areas.sum()), np.finfo(np.float64).tiny))
