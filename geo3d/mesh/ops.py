"""Elementary measures of a triangle mesh.

Notation: v vertices, f faces, e edges; areas and lengths in mesh units; normals are unit vectors
that point outward for counter-clockwise faces.

Rows of arrays: which are finite, which are in range, which are equal (deterministically).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.spatial import KDTree

from geo3d.errors import MeshError
from geo3d.mesh.connectivity import components
from geo3d.mesh.mesh import Mesh


def face_cross(mesh: Mesh) -> Float[np.ndarray, "f 3"]:
    """Return the cross product of two edges per face: twice the area along the normal."""
    a, b, c = np.moveaxis(mesh.vertices.astype(np.float64)[mesh.faces], 1, 0)
    return np.cross(b - a, c - a)


def face_areas(mesh: Mesh) -> Float[np.ndarray, " f"]:
    """Return triangle areas in squared mesh units."""
    return 0.5 * np.linalg.norm(face_cross(mesh), axis=1)


def total_area(mesh: Mesh) -> float:
    """Return the surface area in squared mesh units (0 for a point cloud)."""
    return float(face_areas(mesh).sum())


def face_normals(mesh: Mesh) -> Float[np.ndarray, "f 3"]:
    """Return unit face normals; zero for faces without area."""
    return unit_rows(face_cross(mesh))


def vertex_normals(mesh: Mesh) -> Float[np.ndarray, "v 3"]:
    """Return area-weighted unit vertex normals; zero where no face has area."""
    return unit_rows(scatter_faces(mesh, face_cross(mesh)))


def creased_normals(mesh: Mesh, crease: float) -> Float[np.ndarray, "f 3 3"]:
    """Return a unit normal for each corner of each face, sharp across creases.

    A corner takes the area-weighted mean over those faces at its vertex whose normals are within
    ``crease`` radians of its own face's; zero for faces without area.
    """
    cross = face_cross(mesh)
    unit = unit_rows(cross)
    order = np.argsort(mesh.faces, axis=None, kind="stable")
    valence = np.bincount(mesh.faces.ravel(), minlength=mesh.n_vertices)
    start = np.cumsum(valence) - valence
    # every corner meets every corner at the same vertex, itself included
    count = valence[mesh.faces.ravel()]
    corner = np.repeat(np.arange(count.size), count)
    rank = np.arange(corner.size) - np.repeat(np.cumsum(count) - count, count)
    other = order[start[mesh.faces.ravel()[corner]] + rank] // 3
    near = np.einsum("pi,pi->p", unit[corner // 3], unit[other]) >= np.cos(crease)
    corner, other = corner[near], other[near]
    sums = [np.bincount(corner, column[other], count.size) for column in cross.T]
    return unit_rows(np.stack(sums, axis=1)).reshape(-1, 3, 3)


def vertex_areas(mesh: Mesh) -> Float[np.ndarray, " v"]:
    """Return a third of the incident triangle areas per vertex (lumped mass)."""
    return scatter_faces(mesh, face_areas(mesh)[:, None])[:, 0] / 3.0


def scatter_faces(mesh: Mesh, values: Float[np.ndarray, "f c"]) -> Float[np.ndarray, "v c"]:
    """Sum per-face values onto each face's three vertices."""
    index = mesh.faces.ravel()
    return np.stack(
        [np.bincount(index, np.repeat(column, 3), mesh.n_vertices) for column in values.T], axis=1
    )


def faces_per_edge(faces: Int[np.ndarray, "f 3"]) -> Int[np.ndarray, " e"]:
    """Return how many faces each undirected edge belongs to."""
    low, high = np.sort(faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1).T
    return np.unique(low * (faces.max(initial=0) + 1) + high, return_counts=True)[1]


def edges(mesh: Mesh) -> Int[np.ndarray, "e 2"]:
    """Return the undirected edges, each once, as sorted vertex pairs in lexicographic order."""
    pairs = np.sort(mesh.faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
    keys = np.unique(pairs[:, 0] * mesh.n_vertices + pairs[:, 1])
    return np.stack(np.divmod(keys, mesh.n_vertices), axis=1)


def normalized(mesh: Mesh) -> Mesh:
    """Return the mesh with its vertex mean at the origin and unit surface area (float64).

    A point cloud is scaled to unit root-mean-square radius instead.

    Raises:
        MeshError: ``mesh.zero_area`` when nothing has an extent.
    """
    vertices = mesh.vertices.astype(np.float64)
    vertices = vertices - vertices.mean(axis=0)
    if mesh.is_point_cloud:
        scale = float(np.sqrt((vertices**2).sum(axis=1).mean()))
    else:
        scale = float(np.sqrt(total_area(mesh)))
    if not scale > 0 or not np.isfinite(scale):
        raise MeshError(
            "mesh.zero_area", f"{mesh.name}: the surface has no area.", "Check the scale."
        )
    return replace(mesh, vertices=vertices / scale)


def unit_rows(vectors: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
    """Scale rows to unit length; zero rows stay zero."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)


def finite_rows(points: Float[np.ndarray, "v 3"]) -> Bool[np.ndarray, " v"]:
    """Return whether all coordinates of a point are finite."""
    return np.logical_and.reduce(np.isfinite(points), axis=1)


def rows_in_range(faces: Int[np.ndarray, "f 3"], n_vertices: int) -> Bool[np.ndarray, " f"]:
    """Return whether all indices of a face name one of ``n_vertices`` vertices."""
    return np.logical_and.reduce((faces >= 0) & (faces < n_vertices), axis=1)


def rows_with_repeats(faces: Int[np.ndarray, "f 3"]) -> Bool[np.ndarray, " f"]:
    """Return whether a face names a vertex twice."""
    return np.logical_or.reduce(faces == faces[:, [1, 2, 0]], axis=1)


def group_equal_points(
    points: Float[np.ndarray, "n 3"],
) -> tuple[Int[np.ndarray, " g"], Int[np.ndarray, " n"]]:
    """Group points with exactly equal coordinates, as `group_equal_rows`; -0.0 equals 0.0.

    NaN equals NaN of the same bits.
    """
    points = np.ascontiguousarray(points)
    bits = points.view(f"i{points.dtype.itemsize}")
    # On bits rather than by adding zero: arithmetic on the NaN of a damaged file raises flags.
    return group_equal_rows(np.where(bits == np.iinfo(bits.dtype).min, 0, bits))


def group_near_points(
    points: Float[np.ndarray, "n 3"], reach: float
) -> tuple[Int[np.ndarray, " g"], Int[np.ndarray, " n"]]:
    """Group points that steps of at most ``reach`` connect, as `group_equal_points`.

    Steps go to the seven nearest other places, so that crowds take little memory.
    """
    first, group = group_equal_points(points)
    places = points[first]
    if not len(places):
        return first, group
    near: np.ndarray
    gaps, near = map(np.asarray, KDTree(places).query(places, k=min(8, len(places))))
    gaps, near = gaps.reshape(len(places), -1), near.reshape(len(places), -1)
    row, column = np.nonzero(gaps <= reach)
    _, label = components(row, near[row, column], len(places))
    return group_equal_rows(label[group][:, None])


def group_equal_rows(
    rows: Int[np.ndarray, "n c"],
) -> tuple[Int[np.ndarray, " g"], Int[np.ndarray, " n"]]:
    """Group equal rows; groups are numbered in order of first occurrence.

    Returns:
        The index of the first row of each group (increasing), and the group of each row.
    """
    if len(rows) == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    # lexsort is stable, so the first row of each run is the first occurrence in the input.
    order = np.lexsort(rows.T)
    ordered = rows[order]
    is_new = np.r_[True, (ordered[1:] != ordered[:-1]).any(axis=1)]
    first = order[is_new]
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    group = np.empty(len(rows), np.int64)
    group[order] = rank[np.cumsum(is_new) - 1]
    return np.sort(first), group
