"""How good a map is: errors against ground truth, and qualities that need none.

Notation: shape 1 is the source, shape 2 the target; T = p2p_21 (n2,) sends target vertices to
source vertices; D are geodesic distances on the source; A1 its surface area.  Entry i of the ground
truth pairs target vertex b_i with source vertex a_i.

* error_i = D[T[b_i], a_i] / sqrt(A1); the score of a pair is the mean over i, reported x100.  The
  heat method is not symmetric: rows are distances *from* the image, as in the literature.
* PCK(t) is the fraction of entries with error <= t, AUC the area below it over the axis scaled to 1
  (ULRSSM: 40 thresholds up to 0.10; older curves run to 0.25).
* qualities: coverage, smoothness, bijectivity, orientation (see each function).

Sources: Kim, Lipman, Funkhouser 2011 (error and curve); Ren et al. 2018 (minimum of direct and
symmetric error, coverage).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import sparse

from geo3d.errors import InputError
from geo3d.mesh.mesh import Mesh
from geo3d.mesh.ops import unit_rows

THRESHOLDS = np.linspace(0.0, 0.25, 51)
"""Axis of the PCK curve that is plotted."""
THRESHOLDS_ULRSSM = np.linspace(0.0, 0.10, 40)
"""Axis of the AUC that the ULRSSM family reports."""
FLAG = 0.6
"""Probability below which a map is flagged; set on generated pairs that the model of confidence was
not trained on (docs/RESULTS.md, "How sure a map is")."""
BINS = 10
RIGHT = 0.05
"""Error below which a map, or a vertex, counts as right where confidence is judged."""


def pck(
    errors: Float[np.ndarray, " i"], thresholds: Float[np.ndarray, " t"]
) -> Float[np.ndarray, " t"]:
    """Return the fraction of errors at or below each threshold.

    >>> pck(np.array([0.0, 0.1, 0.3]), np.array([0.0, 0.1, 0.2])).round(2).tolist()
    [0.33, 0.67, 0.67]
    """
    return np.searchsorted(np.sort(errors), thresholds, side="right") / max(len(errors), 1)


def auc(curve: Float[np.ndarray, " t"], thresholds: Float[np.ndarray, " t"]) -> float:
    """Return the trapezoid area below a curve divided by the length of its axis (0..1)."""
    widths = np.diff(thresholds)
    area = float((widths * (curve[1:] + curve[:-1])).sum() / 2.0)
    return area / float(thresholds[-1] - thresholds[0])


def minimum_error(
    direct: Float[np.ndarray, " i"], mirrored: Float[np.ndarray, " i"]
) -> tuple[float, float]:
    """Return mean errors that forgive a left/right flip: per body point, and of the whole map.

    The first takes the smaller error at each body point (the convention of BCICP, which also
    forgives maps that mix both sides); the second the smaller of the two means.  Diagnosis only:
    neither is comparable with the direct error.
    """
    whole = min(float(direct.mean()), float(mirrored.mean()))
    return float(np.minimum(direct, mirrored).mean()), whole


def coverage(p2p_21: Int[np.ndarray, " n2"], areas: Float[np.ndarray, " n1"]) -> float:
    """Return the area fraction of source vertices that some target vertex is sent to (0..1)."""
    hit = np.zeros(len(areas), bool)
    hit[p2p_21] = True
    return float(areas[hit].sum() / areas.sum())


def smoothness(
    source: Mesh,
    p2p_21: Int[np.ndarray, " n2"],
    stiffness_1: sparse.csr_matrix,
    stiffness_2: sparse.csr_matrix,
) -> float:
    """Return the Dirichlet energy of the map relative to that of the identity on the source.

    The energy of coordinates X under a stiffness matrix L is trace(X^T L X); the source coordinates
    are pulled back to the target by T.  1 is an isometry, larger is rougher; a constant map has 0.
    """
    points = source.vertices.astype(np.float64) - source.vertices.mean(axis=0, dtype=np.float64)
    images = points[p2p_21]
    own = float((points * (stiffness_1 @ points)).sum())
    return float((images * (stiffness_2 @ images)).sum()) / own


def orientation(
    source_normals: Float[np.ndarray, "n1 3"],
    source: Mesh,
    target: Mesh,
    p2p_21: Int[np.ndarray, " n2"],
) -> float:
    """Return how well the map keeps the sides of the surface apart, from -1 (inside out) to 1.

    Each target triangle is sent to the source; the area-weighted mean of the cosine between its
    normal there and the mean vertex normal at its corners.  Left/right flips of a symmetric shape
    turn triangles over and score near -1.  0 when every triangle collapses.
    """
    corners = p2p_21[target.faces]
    a, b, c = np.moveaxis(source.vertices.astype(np.float64)[corners], 1, 0)
    cross = np.cross(b - a, c - a)
    outward = unit_rows(source_normals[corners].sum(axis=1))
    total = np.linalg.norm(cross, axis=1).sum()
    return float((cross * outward).sum() / total) if total > 0 else 0.0


def area_under_roc(scores: Float[np.ndarray, " n"], right: Bool[np.ndarray, " n"]) -> float:
    """Return the chance that a right one scores above a wrong one; nan where one kind is missing.

    >>> area_under_roc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True]))
    0.75
    """
    n_right, n_wrong = int(right.sum()), int((~right).sum())
    if not n_right or not n_wrong:
        return float("nan")
    ordered = np.sort(scores)
    # Equal scores share the mean of their ranks.
    first, after = (np.searchsorted(ordered, scores, side) for side in ("left", "right"))
    ranks = (first + after + 1) / 2
    return float((ranks[right].sum() - n_right * (n_right + 1) / 2) / (n_right * n_wrong))


def calibration_bins(
    probabilities: Float[np.ndarray, " n"], right: Bool[np.ndarray, " n"]
) -> Float[np.ndarray, "3 b"]:
    """Return counts, sums of probabilities and numbers of right ones in ten bins of equal width;
    bins of several maps add up."""
    place = np.minimum((probabilities * BINS).astype(int), BINS - 1)
    weights = (np.ones(len(place)), probabilities, right)
    return np.stack([np.bincount(place, w, minlength=BINS) for w in weights])


def calibration_error(bins: Float[np.ndarray, "3 b"]) -> float:
    """Return the expected calibration error: the mean distance between probability and frequency
    over bins, weighed by count (Guo et al. 2017); nan for none.

    >>> said, right = np.array([0.9, 0.9, 0.1, 0.1]), np.array([True, True, False, True])
    >>> calibration_error(calibration_bins(said, right))
    0.25
    """
    counts, said, was = bins
    return float(np.abs(said - was).sum() / counts.sum()) if counts.sum() else float("nan")


def check_map(p2p: Int[np.ndarray, " n"], n_from: int, n_to: int, what: str) -> None:
    """Refuse a map that is not one vertex of the other shape per vertex.

    Raises:
        InputError: ``map.wrong_length``, ``map.index_out_of_range``.
    """
    if p2p.ndim != 1 or len(p2p) != n_from:
        raise InputError(
            "map.wrong_length",
            f"{what} has {p2p.size} entries for {n_from} vertices.",
            "p2p_21 has one entry per target vertex and holds source vertices.",
        )
    if len(p2p) and (p2p.min() < 0 or p2p.max() >= n_to):
        raise InputError(
            "map.index_out_of_range",
            f"{what} names vertices {p2p.min()}..{p2p.max()} of {n_to}.",
            "Indices are 0-based; is the direction right?",
        )
