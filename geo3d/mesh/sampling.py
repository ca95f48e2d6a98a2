"""Choosing points on a mesh: farthest-point vertices and area-uniform surface points.

Notation: v vertices, f faces, s samples.  Farthest-point sampling uses straight-line (Euclidean)
distances and is deterministic; uniform sampling takes a numpy generator, on the CPU, so that a seed
gives the same points everywhere.  Point clouds are sampled by their points.

How alike two shapes are, from points on their surfaces and from the cells they touch.

Notation: p and q points; distances are in the units of the points.

Chamfer is the mean of both mean nearest distances, not squared.  Precision is the share of made
points within a threshold of the true ones, recall the share of true points within it of the made
ones, the F-score their harmonic mean.

Source: Knapitsch et al., "Tanks and Temples" (2017), for the F-score; Tatarchenko et al. (2019) for
why it tells more than overlap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import ndimage
from scipy.spatial import KDTree

from geo3d.errors import InputError, MeshError
from geo3d.mesh.mesh import Mesh
from geo3d.mesh.ops import face_areas


@dataclass(frozen=True)
class SurfaceSamples:
    """Points on a surface; for a cloud ``face_ids`` holds point ids and barycentric (1, 0, 0)."""

    points: Float[np.ndarray, "s 3"]
    face_ids: Int[np.ndarray, " s"]
    barycentric: Float[np.ndarray, "s 3"]


def farthest_point_samples(mesh: Mesh, n: int, start: int | None = None) -> Int[np.ndarray, " s"]:
    """Return ``n`` vertex ids, each the farthest from those before it (ties: the lowest id).

    Args:
        n: how many, 1 to the number of vertices.
        start: the first vertex; by default the one farthest from the mean of the vertices.

    Raises:
        InputError: ``sampling.bad_count``, ``sampling.bad_start``.
    """
    _check_count(n, mesh.n_vertices)
    points = mesh.vertices.astype(np.float64)
    if start is None:
        start = int(np.argmax(((points - points.mean(axis=0)) ** 2).sum(axis=1)))
    if not 0 <= start < mesh.n_vertices:
        raise InputError(
            "sampling.bad_start",
            f"Start vertex {start} is outside 0..{mesh.n_vertices - 1}.",
            "Indices are 0-based.",
        )
    columns = np.ascontiguousarray(points.T)
    chosen = np.empty(n, np.int64)
    nearest = np.full(mesh.n_vertices, np.inf)
    current = start
    for i in range(n):
        chosen[i] = current
        gap = columns - columns[:, current : current + 1]
        np.minimum(nearest, np.einsum("dv,dv->v", gap, gap), out=nearest)
        nearest[current] = -1.0  # never again, even where vertices coincide
        current = int(np.argmax(nearest))
    return chosen


def uniform_samples(mesh: Mesh, n: int, generator: np.random.Generator) -> SurfaceSamples:
    """Return ``n`` independent points, uniform by area (by point for a cloud, with repeats).

    Raises:
        InputError: ``sampling.bad_count``.
        MeshError: ``sampling.no_area`` where all faces are degenerate.
    """
    _check_count(n, None)
    points = mesh.vertices.astype(np.float64)
    if mesh.is_point_cloud:
        ids = generator.integers(0, mesh.n_vertices, n)
        return SurfaceSamples(points[ids], ids, np.tile([1.0, 0.0, 0.0], (n, 1)))
    cumulative = np.cumsum(face_areas(mesh))
    if cumulative[-1] <= 0:
        raise MeshError(
            "sampling.no_area", f"{mesh.name} has no area to sample.", "All faces are degenerate."
        )
    ids = np.searchsorted(cumulative, generator.random(n) * cumulative[-1], side="right")
    ids = np.minimum(ids, mesh.n_faces - 1)
    # the square root makes the density uniform over the triangle instead of thick at one corner
    r, t = np.sqrt(generator.random(n)), generator.random(n)
    barycentric = np.stack([1 - r, r * (1 - t), r * t], axis=1)
    return SurfaceSamples(
        np.einsum("sc,scd->sd", barycentric, points[mesh.faces[ids]]), ids, barycentric
    )


def _check_count(n: int, most: int | None) -> None:
    if n < 1 or (most is not None and n > most):
        raise InputError(
            "sampling.bad_count",
            f"Cannot take {n} samples" + (f" of {most} vertices." if most is not None else "."),
            f"Ask for 1 to {most}." if most is not None else "Ask for at least 1.",
        )


@dataclass(frozen=True)
class PointComparison:
    """How near the points of two surfaces lie to each other."""

    chamfer: float
    precision: float
    recall: float

    @property
    def f_score(self) -> float:
        """Harmonic mean of precision and recall; 0 where both are."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total else 0.0


def compare_points(
    made: Float[np.ndarray, "p 3"], true: Float[np.ndarray, "q 3"], threshold: float
) -> PointComparison:
    """Compare points on a made surface with points on the true one.

    Args:
        made, true: points, uniform by area where all parts are to count alike.
        threshold: distance that still counts as met.

    Raises:
        InputError: ``compare.no_points``.
    """
    if not len(made) or not len(true):
        raise InputError(
            "compare.no_points", "One of the two shapes has no points.", "Leave it out, or name it."
        )
    there, back = KDTree(true).query(made)[0], KDTree(made).query(true)[0]
    return PointComparison(
        chamfer=float(there.mean() + back.mean()) / 2,
        precision=float((there <= threshold).mean()),
        recall=float((back <= threshold).mean()),
    )


def cell_overlap(a: Bool[np.ndarray, "r r r"], b: Bool[np.ndarray, "r r r"]) -> float:
    """Return intersection over union of two sets of cells; 1 where both are empty."""
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else 1.0


def largest_piece(cells: Bool[np.ndarray, "r r r"]) -> float:
    """Return the share of the cells in the largest piece; cells that share a corner are joined.

    0 where there is no cell.
    """
    labels = np.empty(cells.shape, np.int32)
    ndimage.label(cells, np.ones((3, 3, 3), bool), output=labels)
    sizes = np.bincount(labels.ravel())[1:]
    return float(sizes.max() / sizes.sum()) if len(sizes) else 0.0


def spread(clouds: Sequence[Float[np.ndarray, "p 3"]]) -> float:
    """Return the mean Chamfer distance between every two of several shapes, 0 for one.

    Raises:
        InputError: ``compare.no_points``.
    """
    pairs = list(combinations(clouds, 2))
    found = [compare_points(a, b, 0.0).chamfer for a, b in pairs]
    return float(np.mean(found)) if found else 0.0
