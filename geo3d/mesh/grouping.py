"""Grouping equal rows of an integer or float array, deterministically."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int, Shaped


def group_equal_rows(
    rows: Shaped[np.ndarray, "n c"],
) -> tuple[Int[np.ndarray, " g"], Int[np.ndarray, " n"]]:
    """Group rows with the same bits; groups are numbered in order of first occurrence.

    Returns:
        The index of the first row of each group (increasing), and the group of each row.
    """
    if len(rows) == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    keys = np.ascontiguousarray(rows)
    keys = keys.view(f"i{keys.dtype.itemsize}") if keys.dtype.kind == "f" else keys
    # lexsort is stable, so the first row of each run is the first occurrence in the input.
    order = np.lexsort(keys.T)
    ordered = keys[order]
    is_new = np.r_[True, (ordered[1:] != ordered[:-1]).any(axis=1)]
    first = order[is_new]
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    group = np.empty(len(rows), np.int64)
    group[order] = rank[np.cumsum(is_new) - 1]
    return np.sort(first), group
