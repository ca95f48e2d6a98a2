"""Rows of arrays: which are finite, which are in range, which are equal (deterministically)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int


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
