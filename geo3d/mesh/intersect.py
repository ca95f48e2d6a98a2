"""Faces of one mesh that pass through each other.

Broad phase: a binary tree of axis-aligned boxes over faces in Morton order, walked against itself
level by level.  Narrow phase: an edge of one triangle pierces the other (Moeller and Trumbore,
"Fast, minimum storage ray/triangle intersection", 1997), in both directions.  Pairs that share a
vertex position and overlaps within one plane are not looked at.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from geo3d.mesh.ops import group_equal_points

MAX_CANDIDATES = 20_000_000
MARGIN = 1e-9
"""Relative tolerance: an end point this near to a face touches it, a crossing this near to the
border of a face is inside, a direction this near to a face's plane is parallel to it."""
TINY = 1e-290


def self_intersecting_pairs(
    points: Float[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"]
) -> tuple[Int[np.ndarray, "n 2"], bool]:
    """Return pairs of face numbers that intersect, and whether the search was complete.

    The search gives up when over twenty million boxes overlap.  Coordinates must be finite.
    """
    corners = points.astype(np.float64)[faces]
    pairs = _overlapping_boxes(corners)
    if pairs is None:
        return np.zeros((0, 2), np.int64), False
    _, position = group_equal_points(points)
    a, b = position[faces[pairs[:, 0]]], position[faces[pairs[:, 1]]]
    apart = ~(a[:, :, None] == b[:, None, :]).any(axis=(1, 2))
    pairs = pairs[apart]
    hits = [
        _pierce(corners[block[:, 0]], corners[block[:, 1]])
        | _pierce(corners[block[:, 1]], corners[block[:, 0]])
        for block in np.array_split(pairs, len(pairs) // 500_000 + 1)
    ]
    pairs = np.sort(pairs[np.concatenate(hits)], axis=1)
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))], True


def _overlapping_boxes(corners: np.ndarray) -> np.ndarray | None:
    order = _morton_order(corners.mean(axis=1))
    depth = int(np.ceil(np.log2(max(len(corners), 1))))
    low = np.full((1 << depth, 3), np.inf)
    high = np.full((1 << depth, 3), -np.inf)
    low[: len(order)] = corners[order].min(axis=1)
    high[: len(order)] = corners[order].max(axis=1)
    levels = [(low, high)]
    for _ in range(depth):
        low, high = levels[-1]
        levels.append((low.reshape(-1, 2, 3).min(axis=1), high.reshape(-1, 2, 3).max(axis=1)))
    pairs = np.zeros((1, 2), np.int64)
    for low, high in levels[-2::-1]:
        if 4 * len(pairs) > MAX_CANDIDATES:
            return None
        a = (2 * pairs[:, :1] + [0, 0, 1, 1]).ravel()
        b = (2 * pairs[:, 1:] + [0, 1, 0, 1]).ravel()
        a, b = a[a <= b], b[a <= b]
        keep = ((low[a] <= high[b]) & (low[b] <= high[a])).all(axis=1)
        pairs = np.stack([a[keep], b[keep]], axis=1)
    return order[pairs[pairs[:, 0] < pairs[:, 1]]]


def _morton_order(centres: np.ndarray) -> np.ndarray:
    low = centres.min(axis=0)
    span = float((centres.max(axis=0) - low).max()) or 1.0
    cell = ((centres - low) / span * 1023).astype(np.int64)
    code = np.zeros(len(centres), np.int64)
    for bit in range(10):
        for axis in range(3):
            code |= ((cell[:, axis] >> bit) & 1) << (3 * bit + axis)
    return np.argsort(code, kind="stable")


def _pierce(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return whether an edge of ``a`` goes through the inside of ``b``, pair by pair."""
    hit = np.zeros(len(a), bool)
    e1, e2 = b[:, 1] - b[:, 0], b[:, 2] - b[:, 0]
    for i in range(3):
        origin, direction = a[:, i], a[:, (i + 1) % 3] - a[:, i]
        p = np.cross(direction, e2)
        determinant = (e1 * p).sum(axis=1)
        size = _length(direction) * _length(e1) * _length(e2)
        # Faces so tiny that the products underflow are beyond deciding.
        parallel = np.abs(determinant) <= np.maximum(MARGIN * size, TINY)
        inverse = 1.0 / np.where(parallel, 1.0, determinant)
        s = origin - b[:, 0]
        u = (s * p).sum(axis=1) * inverse
        q = np.cross(s, e1)
        v = (direction * q).sum(axis=1) * inverse
        t = (e2 * q).sum(axis=1) * inverse
        inside = (u > -MARGIN) & (v > -MARGIN) & (u + v < 1 + MARGIN)
        hit |= inside & (t > MARGIN) & (t < 1 - MARGIN) & ~parallel
    return hit


def _length(rows: np.ndarray) -> np.ndarray:
    return np.sqrt((rows * rows).sum(axis=1))
