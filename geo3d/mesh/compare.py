"""How alike two shapes are, from points on their surfaces and from the cells they touch.

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
from jaxtyping import Bool, Float
from scipy import ndimage
from scipy.spatial import KDTree

from geo3d.errors import InputError


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
