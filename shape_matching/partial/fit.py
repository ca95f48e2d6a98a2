"""A map of all vertices, how well it fits, and which vertices have a counterpart.

Notation as in `geo3d.spectral.fmap`; ``p2p_21`` (v2,) and ``p2p_12`` (v1,) name a vertex for every
vertex, whether it has a counterpart or not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from geo3d.mesh.ops import edges
from shape_matching.partial.deform import Start, strain
from shape_matching.partial.isometry import violation
from shape_matching.partial.surface import Surface

ANCHORS = 40
"""Samples of 2 to which distances are measured."""
TIGHT = 1.0
"""Mean violation of distances beyond which a vertex has no counterpart."""
RETURN, RETURN_EDGES = 0.03, 1.5
"""A vertex that comes back within this distance, or this many mean edges, has a counterpart."""
RADIUS = 0.12
"""Of the balls that should move rigidly: small, so that a bent joint is in few of them."""
CURVATURE_WEIGHT = 0.5
UNCOVERED = 0.8
"""What a vertex without counterpart counts as."""


@dataclass(frozen=True, eq=False)
class Fit:
    """A map both ways and its measures, all means over the vertices of 2 with counterpart."""

    p2p_21: Int[np.ndarray, " v2"]
    p2p_12: Int[np.ndarray, " v1"]
    overlap_1: Bool[np.ndarray, " v1"]
    overlap_2: Bool[np.ndarray, " v2"]
    misfit: float
    """Violation of distances, 0 to 4."""
    strain: float
    """How far small balls are from moving rigidly, 0 to 1."""
    curvature: float
    """Correlation of curvature, -1 to 1."""

    @property
    def rank(self) -> float:
        """Lower is better."""
        fit = self.misfit + self.strain + CURVATURE_WEIGHT * (1 - self.curvature)
        covered = float(self.overlap_2.mean())
        return covered * fit + (1 - covered) * UNCOVERED


def fit_of(
    one: Surface,
    two: Surface,
    p2p_21: Int[np.ndarray, " v2"],
    p2p_12: Int[np.ndarray, " v1"],
    contained: bool,
) -> Fit:
    """Measure a map.

    Args:
        contained: whether all of 2 is known to have a counterpart.
    """
    broken = _misfit(one, two, p2p_21)
    overlap_1 = _gap(one, p2p_21[p2p_12]) < _tolerance(one)
    overlap_2 = np.ones(two.mesh.n_vertices, bool)
    if not contained:
        overlap_2 = (_gap(two, p2p_12[p2p_21]) < _tolerance(two)) & (broken < TIGHT)
        overlap_1 &= overlap_2[p2p_12]
    weights = two.mass * overlap_2 + 1e-12
    everything = Start(np.arange(len(p2p_21)), p2p_21, weights)
    bent = strain(one, two, everything, RADIUS)
    bend = _correlation(one.curvature[p2p_21, 0], two.curvature[:, 0], weights)
    at = two.samples
    return Fit(
        p2p_21,
        p2p_12,
        overlap_1,
        overlap_2,
        float(np.average(broken, weights=weights)),
        float(np.average(bent, weights=overlap_2[at] + 1e-12)),
        bend,
    )


def _misfit(one: Surface, two: Surface, p2p_21: Int[np.ndarray, " v2"]) -> Float[np.ndarray, " v2"]:
    """Return for every vertex of 2 how much the map violates its distances to the anchors: the
    median, as anchors may have no counterpart themselves."""
    anchors = two.samples[:ANCHORS]
    rows_2, images = two.rows[:ANCHORS], p2p_21[anchors]
    rows_1 = one.distances_from(images)
    d2, l2 = rows_2, two.at_least(rows_2, anchors)
    d1, l1 = rows_1[:, p2p_21], one.at_least(rows_1, images)[:, p2p_21]
    tables = (torch.from_numpy(t.astype(np.float32)) for t in (d2, l2, d1, l1))
    return violation(*tables).mean(dim=0).numpy()


def _gap(shape: Surface, images: Int[np.ndarray, " v"]) -> Float[np.ndarray, " v"]:
    return np.linalg.norm(shape.mesh.vertices[images] - shape.mesh.vertices, axis=1)


def _tolerance(shape: Surface) -> float:
    sides = edges(shape.mesh)
    a, b = shape.mesh.vertices[sides[:, 0]], shape.mesh.vertices[sides[:, 1]]
    return max(RETURN, RETURN_EDGES * float(np.linalg.norm(a - b, axis=1).mean()))


def _correlation(
    a: Float[np.ndarray, " n"], b: Float[np.ndarray, " n"], weights: Float[np.ndarray, " n"]
) -> float:
    a, b = a - np.average(a, weights=weights), b - np.average(b, weights=weights)
    scale = np.sqrt((weights * a * a).sum() * (weights * b * b).sum())
    return float((weights * a * b).sum() / max(scale, 1e-12))
