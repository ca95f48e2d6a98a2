"""Are the same pixels together?  Metrics of two partitions: Rand indices and information.

A mask parts its array into regions: the connected components of the background (cells between
membranes, bricks between mortar, blocks between roads) or those of the foreground.  Two masks are
compared by which pixels they put into one region.

Notation: n_ij pixels of region i of the truth and region j of the prediction, a_i and b_j their
sums over j and i, n their total.  Only pixels that the truth puts into a region count, as in the
SNEMI3D and CREMI challenges: how thick a boundary was drawn is no error.  Those of them that the
prediction calls boundary are one more of its regions.

* Adjusted Rand index (Hubert & Arabie 1985): the share of pixel pairs on which both agree, 0 for
  chance, 1 for equal partitions.
* Adapted Rand error (Arganda-Carreras et al. 2015): 1 - F score of the pairs put together;
  precision falls with merged regions, recall with split ones.
* Variation of information (Meila 2007) in bits: H(P | T), what was split, plus H(T | P), what was
  merged.  Both are 0 for equal partitions.

scikit-image counts the n_ij; its own functions of the same names take what they ignore in two ways.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Shaped
from skimage.metrics import contingency_table

from geo3d.errors import ConfigError, ShapeError
from geo3d.topology.grids import Pixels, as_mask, check_pixels, label_components

Side = Literal["background", "foreground"]


@dataclass(frozen=True)
class PartitionMetrics:
    """How well two partitions agree, see the module."""

    adjusted_rand_index: float
    """At most 1, the best."""
    adapted_rand_error: float
    """In [0, 1]; 0 is the best."""
    split: float
    """Bits; 0 is the best."""
    merged: float
    """Bits; 0 is the best."""

    @property
    def variation_of_information(self) -> float:
        """Bits; 0 is the best."""
        return self.split + self.merged


def partition_metrics(
    predicted: np.ndarray,
    true: np.ndarray,
    regions: Side = "background",
    pixels: Pixels = "cells",
) -> PartitionMetrics:
    """Compare the regions of two masks, 2D or 3D.

    Args:
        predicted: mask.
        true: mask.
        regions: which side's connected components are the regions.
        pixels: how pixels touch, see `geo3d.topology.grids`.

    Raises:
        ShapeError: "topology.bad_dimensions", "topology.not_a_mask", "topology.unequal_shapes".
        ConfigError: "topology.unknown_pixels", "topology.unknown_side".
    """
    check_pixels(pixels)
    check_side(regions)
    corners = (pixels == "cells") == (regions == "foreground")
    labels = [
        label_components(as_mask(mask) == (regions == "foreground"), corners=corners)[0]
        for mask in (predicted, true)
    ]
    return labels_metrics(labels[0], labels[1])


def check_side(regions: str) -> None:
    """Refuse regions of an unknown side (code "topology.unknown_side")."""
    if regions not in ("background", "foreground"):
        raise ConfigError(
            "topology.unknown_side",
            f"There are no regions of {regions!r}.",
            "Known: background, foreground.",
        )


def labels_metrics(
    predicted: Shaped[np.ndarray, "*space"], true: Shaped[np.ndarray, "*other"]
) -> PartitionMetrics:
    """Compare two arrays of region numbers, 0 for none.

    Where the truth has no region, all is right.

    Raises:
        ShapeError: "topology.unequal_shapes".
    """
    if predicted.shape != true.shape:
        raise ShapeError(
            "topology.unequal_shapes",
            f"The regions have different shapes, {predicted.shape} and {true.shape}.",
            "Compare regions of one image at one size.",
        )
    known = true != 0
    if not known.any():
        return PartitionMetrics(1.0, 0.0, 0.0, 0.0)
    table = contingency_table(true[known].astype(np.int64), predicted[known].astype(np.int64))
    n_ij = np.asarray(table.data, dtype=np.float64)
    n_ij = n_ij[n_ij > 0]
    a, b = (np.asarray(table.sum(axis=axis), dtype=np.float64).ravel() for axis in (1, 0))
    a, b = a[a > 0], b[b > 0]
    joint, of_true, of_predicted = (_entropy(x / n_ij.sum()) for x in (n_ij, a, b))
    return PartitionMetrics(
        adjusted_rand_index=_adjusted_rand_index(n_ij, a, b),
        adapted_rand_error=_adapted_rand_error(n_ij, a, b),
        split=max(0.0, joint - of_true),
        merged=max(0.0, joint - of_predicted),
    )


def _pairs(sizes: np.ndarray) -> float:
    """Return how many pairs of pixels are together in regions of these sizes."""
    return float((sizes * (sizes - 1) / 2).sum())


def _adapted_rand_error(n_ij: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
    total = _pairs(a) + _pairs(b)
    # Without a pair in either, all regions are single pixels: they are equal.
    return 1 - 2 * _pairs(n_ij) / total if total else 0.0


def _adjusted_rand_index(n_ij: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
    both, in_true, in_predicted = (_pairs(x) for x in (n_ij, a, b))
    pairs = n_ij.sum() * (n_ij.sum() - 1) / 2
    by_chance = in_true * in_predicted / pairs if pairs else 0.0
    most = (in_true + in_predicted) / 2
    # Both partitions are one region, or both are single pixels: they are equal.
    return 1.0 if most == by_chance else (both - by_chance) / (most - by_chance)


def _entropy(p: np.ndarray) -> float:
    return float(-(p * np.log2(p)).sum())
