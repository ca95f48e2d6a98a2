"""Can one drive the same way?  Average path length similarity (APLS) of two masks of lines.

Notation: S_T and S_P the skeletons as graphs, whose pixels are joined to their 8 neighbours (26 in
3D) and whose edges are as long as the step; a, b control points of the graph that the paths start
from, a', b' the nearest pixels of the other graph, if nearer than the snap distance; L and L' the
lengths of the shortest paths.

    one way = 1 - mean over pairs (a, b) joined in the one graph of min(1, |L - L'| / L)

where a path that the other graph lacks counts 1.  From the truth it punishes gaps and detours, from
the prediction false lines and short cuts; APLS is the harmonic mean of both ways.  Control points
are ends, crossings, and pixels on the lines in between.
Source: van Etten, Lindenbaum & Bacastow, SpaceNet: A remote sensing dataset and challenge series
(2018), section 4.3.  There graphs are vector data in metres; here they are the masks' skeletons.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int64
from scipy import ndimage, sparse
from scipy.sparse.csgraph import dijkstra
from scipy.spatial import KDTree

from geo3d.errors import ConfigError, ShapeError
from geo3d.topology.grids import as_mask, check_spacing, label_components, neighbourhood
from geo3d.topology.metrics import harmonic_mean
from geo3d.topology.skeleton import hard_skeleton


@dataclass(frozen=True)
class RoadGraph:
    """The skeleton of a mask as a graph."""

    at: Float[np.ndarray, "n d"]
    """Where its pixels are, in the unit of the spacing."""
    edges: sparse.csr_array
    """(n, n) lengths of steps between neighbours, both ways."""
    controls: Int64[np.ndarray, " m"]
    """Pixels that paths start and end at."""


def average_path_length_similarity(
    predicted: np.ndarray,
    true: np.ndarray,
    snap: float = 4.0,
    step: float = 50.0,
    spacing: Sequence[float] | None = None,
) -> float:
    """Return APLS in [0, 1].

    Two masks without lines agree (1), a mask with and one without do not (0).

    Args:
        predicted: mask of roads or other lines.
        true: mask.
        snap: how far a control point's partner may be, in the unit of ``spacing``.
        step: between control points along a line, likewise.
        spacing: size of a pixel along each axis; 1 by default.

    Raises:
        ShapeError: "topology.bad_dimensions", "topology.not_a_mask", "topology.unequal_shapes".
        ConfigError: "topology.bad_tolerance", "topology.bad_spacing".
    """
    one, two = as_mask(predicted), as_mask(true)
    if one.shape != two.shape:
        raise ShapeError(
            "topology.unequal_shapes",
            f"The masks have different shapes, {one.shape} and {two.shape}.",
            "Compare masks of one image at one size.",
        )
    if not (snap >= 0 and step > 0):
        raise ConfigError(
            "topology.bad_tolerance",
            f"A snap distance of {snap} and a step of {step}.",
            "The first is 0 or more, the second more than 0.",
        )
    check_spacing(spacing, one.ndim)
    graphs = [road_graph(mask, step, spacing) for mask in (one, two)]
    if not all(len(graph.at) for graph in graphs):
        return float(len(graphs[0].at) == len(graphs[1].at))
    ways = _one_way(graphs[1], graphs[0], snap), _one_way(graphs[0], graphs[1], snap)
    return harmonic_mean(ways)


def road_graph(
    mask: Bool[np.ndarray, "*space"], step: float, spacing: Sequence[float] | None = None
) -> RoadGraph:
    """Return the skeleton of a mask as a graph with control points every ``step``."""
    skeleton = hard_skeleton(mask)
    size = np.ones(mask.ndim) if spacing is None else np.asarray(spacing, dtype=np.float64)
    places = np.argwhere(skeleton)
    number = np.full(tuple(n + 2 for n in mask.shape), -1, dtype=np.int64)
    number[tuple((places + 1).T)] = np.arange(len(places))
    rows, columns, lengths = [], [], []
    for offset in neighbourhood(mask.ndim, "cells"):
        other = number[tuple((places + 1 + offset).T)]
        there = np.flatnonzero(other >= 0)
        rows.append(there)
        columns.append(other[there])
        lengths.append(np.full(len(there), math.sqrt(((offset * size) ** 2).sum())))
    parts = (np.concatenate(part) for part in (lengths, rows, columns))
    values, row, column = parts
    edges = sparse.csr_array((values, (row, column)), shape=(len(places), len(places)))
    at = places * size
    return RoadGraph(at, edges, _controls(skeleton, places, at, step))


def _controls(
    skeleton: np.ndarray, places: np.ndarray, at: np.ndarray, step: float
) -> Int64[np.ndarray, " m"]:
    """Return ends and crossings, one pixel each, and pixels that are a step from all others."""
    around = np.ones((3,) * skeleton.ndim)
    degree = ndimage.convolve(skeleton.astype(np.int64), around, mode="constant") - 1
    crossing, _ = label_components(skeleton & (degree > 2), corners=True)
    of_place, degrees = crossing[tuple(places.T)], degree[tuple(places.T)]
    ends = np.flatnonzero(degrees <= 1)
    _, first = np.unique(of_place, return_index=True)
    chosen = np.union1d(ends, first[of_place[first] > 0])
    free = np.ones(len(at), dtype=bool)
    tree = KDTree(at) if len(at) else None
    result = list(chosen)
    if tree is None:
        return np.array(result, dtype=np.int64)
    for near in tree.query_ball_point(at[chosen], step):
        free[near] = False
    for pixel in range(len(at)):
        if free[pixel]:
            result.append(pixel)
            free[tree.query_ball_point(at[pixel], step)] = False
    return np.array(sorted(result), dtype=np.int64)


def _one_way(start: RoadGraph, other: RoadGraph, snap: float) -> float:
    """Return one minus the mean loss of the paths of one graph in another."""
    distance, partner = KDTree(other.at).query(start.at[start.controls])
    lengths = dijkstra(start.edges, indices=start.controls)[:, start.controls]
    found = dijkstra(other.edges, indices=partner)[:, partner]
    found[distance > snap] = np.inf
    found[:, distance > snap] = np.inf
    asked = np.isfinite(lengths) & (lengths > 0)
    if not asked.any():
        # Lines that are single pixels: no path, only places.
        return float(np.mean(distance <= snap))
    loss = np.abs(lengths[asked] - np.where(np.isfinite(found), found, np.inf)[asked])
    return float(1 - np.minimum(1, loss / lengths[asked]).mean())
