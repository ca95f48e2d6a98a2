"""Differential operators of a mesh or point cloud: Laplacian, mass, tangent frames, gradient.

Notation: L is the positive semi-definite stiffness matrix with off-diagonal weights
-(cot a + cot b)/2; mass is the lumped area per vertex, so that L u = lambda diag(mass) u.
Tangent frames hold rows (X axis, Y axis, normal) per vertex.  Gradients are expressed in these
frames as two sparse real matrices.

Source: cotangent weights, Pinkall and Polthier 1993; robust (intrinsic Delaunay, tufted cover)
Laplacian, Sharp and Crane 2020; least-squares gradients as in DiffusionNet, Sharp et al. 2022.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Int64

from geo3d.errors import ConfigError, MeshError, NumericalError
from geo3d.mesh.connectivity import edge_sides
from geo3d.mesh.mesh import Mesh
from geo3d.mesh.ops import face_areas, face_cross, scatter_faces, vertex_areas

AREA_FLOOR = 1e-9
"""Fraction of the mean triangle area below which a triangle's area is not allowed to count, so that
degenerate triangles give large but finite cotangents."""
LaplacianKind = Literal["auto", "cotan", "robust"]

MASS_FLOOR = 1e-8
"""Fraction of the mean mass added everywhere, so that slivers do not give a zero mass."""


def laplacian(
    mesh: Mesh, kind: LaplacianKind = "auto"
) -> tuple[sp.csr_matrix, Float[np.ndarray, " v"]]:
    """Return the stiffness matrix L (v, v) and the lumped mass (v,) in squared mesh units.

    ``cotan`` uses the triangles as they are; ``robust`` the intrinsic Delaunay triangulation of the
    tufted cover, which also takes non-manifold meshes; ``auto`` is ``cotan`` for a mesh whose edges
    have at most two sides and whose faces have three corners, else ``robust``.  A point cloud
    always gets the robust point-cloud Laplacian.

    Raises:
        MeshError: ``mesh.unreferenced_vertices``, ``mesh.coincident_vertices``,
            ``mesh.too_few_points``.
        NumericalError: ``operators.non_finite`` when the operator has NaN or infinite entries,
            ``operators.robust_failed`` when the robust Laplacian cannot be built.
        ConfigError: ``operators.unknown_laplacian``.
    """
    if kind not in ("auto", "cotan", "robust"):
        raise ConfigError(
            "operators.unknown_laplacian", f"Unknown Laplacian '{kind}'.", "Use cotan or robust."
        )
    # overflow and 0/0 are looked for below
    with np.errstate(all="ignore"):
        matrix, mass = _laplacian(mesh, kind)
    if not (np.isfinite(matrix.data).all() and np.isfinite(mass).all() and mass.min() > 0):
        raise NumericalError(
            "operators.non_finite",
            f"{mesh.name}: the {kind} Laplacian has NaN, infinite or zero-mass entries.",
            "Merge duplicate vertices and drop degenerate faces (`geo3d check FILE --repair ...`).",
        )
    return matrix, mass


def _laplacian(mesh: Mesh, kind: LaplacianKind) -> tuple[sp.csr_matrix, np.ndarray]:
    if mesh.is_point_cloud:
        return _point_cloud_laplacian(mesh)
    _require_referenced(mesh)
    if kind == "robust" or (kind == "auto" and not _is_edge_manifold(mesh)):
        return _robust_laplacian(mesh)
    return _cotan_laplacian(mesh)


def fem_mass(mesh: Mesh) -> sp.csr_matrix:
    """Return the consistent (finite element) mass matrix: area/6 diagonal, area/12 per edge."""
    i, j, k = mesh.faces.T
    areas = face_areas(mesh)
    rows = np.concatenate([i, j, k, j, k, i])
    cols = np.concatenate([j, k, i, i, j, k])
    n = mesh.n_vertices
    off_diagonal = sp.coo_matrix((np.tile(areas / 12.0, 6), (rows, cols)), shape=(n, n))
    return sp.csr_matrix(off_diagonal + sp.diags(vertex_areas(mesh) / 2.0))


def tangent_frames(mesh: Mesh) -> Float[np.ndarray, "v 3 3"]:
    """Return rows (X, Y, normal) per vertex; X is the projected x axis (y axis if nearly normal).

    The normal follows the unweighted sum of unit face normals.  Lengths are regularised with the
    additive constants of the published DiffusionNet data preparation, so that operators agree with
    it to 1e-5; rows are therefore shorter than 1 by up to 3e-4.
    """
    return frames_about(
        _shrunk_rows(scatter_faces(mesh, _shrunk_rows(face_cross(mesh), 1e-6)), 1e-3)
    )


def frames_about(normal: Float[np.ndarray, "v 3"]) -> Float[np.ndarray, "v 3 3"]:
    """Return the rows of `tangent_frames` for given normals."""
    reference = np.where(np.abs(normal[:, :1]) < 0.9, [[1.0, 0.0, 0.0]], [[0.0, 1.0, 0.0]])
    x_axis = reference - (reference * normal).sum(axis=1, keepdims=True) * normal
    x_axis = _shrunk_rows(x_axis, 1e-6)
    return np.stack([x_axis, np.cross(normal, x_axis), normal], axis=1)


def gradient_operators(
    mesh: Mesh, frames: Float[np.ndarray, "v 3 3"], ridge: float = 1e-5
) -> tuple[sp.csr_matrix, sp.csr_matrix]:
    """Return sparse matrices (grad_x, grad_y), each (v, v), of the tangential gradient.

    Per vertex the gradient g is the least-squares fit of differences along the mesh edges:
    g = (E^T E + ridge I)^-1 E^T (f_j - f_i), E the edge vectors in the tangent frame.
    """
    n = mesh.n_vertices
    tails = mesh.faces[:, [0, 1, 1, 2, 2, 0]].ravel()
    tips = mesh.faces[:, [1, 0, 2, 1, 0, 2]].ravel()
    tails, tips = np.divmod(np.unique(tails * n + tips), n)
    return gradients_along(mesh.vertices.astype(np.float64), tails, tips, frames, ridge)


def gradients_along(
    points: Float[np.ndarray, "v 3"],
    tails: Int64[np.ndarray, " e"],
    tips: Int64[np.ndarray, " e"],
    frames: Float[np.ndarray, "v 3 3"],
    ridge: float = 1e-5,
) -> tuple[sp.csr_matrix, sp.csr_matrix]:
    """Return what `gradient_operators` does, with given edges from ``tails`` to ``tips``."""
    n = len(points)
    edge = points[tips] - points[tails]
    tangent = np.einsum("ead,ed->ea", frames[tails, :2], edge)
    normal_matrix = np.zeros((n, 2, 2))
    np.add.at(normal_matrix, tails, tangent[:, :, None] * tangent[:, None, :])
    normal_matrix += ridge * np.eye(2)
    weights = np.linalg.solve(normal_matrix[tails], tangent[:, :, None])[:, :, 0]
    return _difference_matrix(tails, tips, weights[:, 0], n), _difference_matrix(
        tails, tips, weights[:, 1], n
    )


def _shrunk_rows(vectors: np.ndarray, constant: float) -> np.ndarray:
    return vectors / (np.linalg.norm(vectors, axis=1, keepdims=True) + constant)


def _difference_matrix(
    tails: np.ndarray, tips: np.ndarray, weights: np.ndarray, n: int
) -> sp.csr_matrix:
    matrix = sp.csr_matrix((weights, (tails, tips)), shape=(n, n))
    return (matrix - sp.diags(np.asarray(matrix.sum(axis=1)).ravel())).tocsr()


def _cotan_laplacian(mesh: Mesh) -> tuple[sp.csr_matrix, np.ndarray]:
    n, (i, j, k) = mesh.n_vertices, mesh.faces.T
    a, b, c = np.moveaxis(mesh.vertices.astype(np.float64)[mesh.faces], 1, 0)
    double_area = np.linalg.norm(face_cross(mesh), axis=1)
    double_area = np.maximum(double_area, AREA_FLOOR * double_area.mean())
    half_cotangents = np.concatenate(
        [
            ((q - p) * (r - p)).sum(axis=1) / (2 * double_area)
            for p, q, r in ((a, b, c), (b, c, a), (c, a, b))
        ]
    )
    opposite = np.concatenate([j, k, i]), np.concatenate([k, i, j])
    weights = sp.coo_matrix((half_cotangents, opposite), shape=(n, n))
    weights = (weights + weights.T).tocsr()
    matrix = sp.diags(np.asarray(weights.sum(axis=1)).ravel()) - weights
    mass = vertex_areas(mesh)
    return sp.csr_matrix(matrix), mass + MASS_FLOOR * mass.mean()


def _robust_laplacian(mesh: Mesh) -> tuple[sp.csr_matrix, np.ndarray]:
    import robust_laplacian

    vertices, faces = np.ascontiguousarray(mesh.vertices, np.float64), mesh.faces
    try:
        matrix, mass = robust_laplacian.mesh_laplacian(vertices, np.ascontiguousarray(faces))
    except RuntimeError as error:
        raise _robust_failed(mesh, error) from error
    diagonal = mass.diagonal()
    return sp.csr_matrix(matrix), diagonal + MASS_FLOOR * diagonal.mean()


MIN_CLOUD_POINTS = 31
"""The point-cloud Laplacian looks at 30 neighbours per point."""


def _point_cloud_laplacian(mesh: Mesh) -> tuple[sp.csr_matrix, np.ndarray]:
    import robust_laplacian

    points = np.ascontiguousarray(mesh.vertices, np.float64)
    if len(points) < MIN_CLOUD_POINTS:
        raise MeshError(
            "mesh.too_few_points",
            f"{mesh.name}: a point cloud of {len(points)} points is too small.",
            f"Give at least {MIN_CLOUD_POINTS} points.",
        )
    if len(np.unique(points, axis=0)) < len(points):
        raise MeshError(
            "mesh.coincident_vertices",
            f"{mesh.name}: the point cloud has coincident points.",
            "Use `--repair merge_duplicate_vertices`.",
        )
    try:
        matrix, mass = robust_laplacian.point_cloud_laplacian(points)
    except RuntimeError as error:
        raise _robust_failed(mesh, error) from error
    diagonal = mass.diagonal()
    return sp.csr_matrix(matrix), diagonal + MASS_FLOOR * diagonal.mean()


def _robust_failed(mesh: Mesh, error: RuntimeError) -> NumericalError:
    reason = str(error).splitlines()[0]
    return NumericalError(
        "operators.robust_failed",
        f"{mesh.name}: the robust Laplacian cannot be built ({reason}).",
        "Points must spread over a surface, not lie on a line; look with `geo3d check FILE`.",
    )


def _is_edge_manifold(mesh: Mesh) -> bool:
    faces = mesh.faces
    if (faces == np.roll(faces, 1, axis=1)).any():
        return False
    return int(edge_sides(faces, mesh.n_vertices).count.max()) <= 2


def _require_referenced(mesh: Mesh) -> None:
    unused = mesh.n_vertices - len(np.unique(mesh.faces))
    if unused:
        raise MeshError(
            "mesh.unreferenced_vertices",
            f"{mesh.name}: {unused} vertices belong to no face.",
            "Use `geo3d check FILE --repair drop_unreferenced --out FIXED`.",
        )
