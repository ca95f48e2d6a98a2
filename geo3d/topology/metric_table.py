"""Every metric of masks in one table: what it gives, and what tables of results call it.

Tables of runs (`geo3d.segmentation.measures`) and MONAI metrics (`geo3d.topology.monai_metrics`)
are both made from it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass, field, fields
from typing import Any

import numpy as np
from jaxtyping import Shaped

from geo3d.topology.metrics import (
    betti_errors,
    betti_matching_errors,
    centreline_parts,
    cl_dice,
    dice,
    euler_error,
    hausdorff_95,
    local_betti_errors,
    surface_dice,
)
from geo3d.topology.partitions import PartitionMetrics, partition_metrics
from geo3d.topology.roads import average_path_length_similarity

_DIMENSIONS = {2: ("components", "holes"), 3: ("components", "tunnels", "cavities")}


@dataclass(frozen=True)
class Metric:
    """One metric of two masks, which gives one number or several."""

    function: Callable[..., Any]
    """Of a predicted and a true mask; what it takes besides is in its docstring."""
    parts: tuple[str, ...] = ()
    """What each number is; empty where it is one for each dimension of features."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Short name of each number and its column in files of results; of features of one dimension
    after the other.  Empty: not in tables of runs."""
    higher_is_better: bool = False
    has_compat: bool = False
    """Whether the published code's numbers for empty masks can be had."""

    def names(self, n_dims: int) -> tuple[str, ...]:
        """Return what each number is, for images (2) or volumes (3)."""
        return self.parts or _DIMENSIONS[n_dims]

    def numbers(
        self,
        predicted: Shaped[np.ndarray, "*space"],
        true: Shaped[np.ndarray, "*space"],
        **settings: Any,
    ) -> tuple[float, ...]:
        """Return the numbers of two masks, of booleans or of 0 and 1."""
        found = self.function(predicted, true, **settings)
        found = astuple(found) if isinstance(found, PartitionMetrics) else found
        return tuple(float(n) for n in (found if isinstance(found, tuple) else (found,)))


METRICS: dict[str, Metric] = {
    "local_betti_errors": Metric(
        local_betti_errors,
        columns={"Betti0Local": "Betti0ErrorLocal", "Betti1Local": "Betti1ErrorLocal"},
        has_compat=True,
    ),
    "betti_errors": Metric(
        betti_errors,
        columns={"Betti0": "Betti0Error", "Betti1": "Betti1Error", "Betti2": "Betti2Error"},
        has_compat=True,
    ),
    "dice": Metric(dice, ("dice",), {"Dice": "Dice"}, higher_is_better=True),
    "hausdorff_95": Metric(hausdorff_95, ("hausdorff_95",), {"HD95": "HD95"}, has_compat=True),
    "cl_dice": Metric(
        cl_dice, ("cl_dice",), {"clDice": "clDice"}, higher_is_better=True, has_compat=True
    ),
    "betti_matching_errors": Metric(
        betti_matching_errors,
        columns={f"BettiMatching{k}": f"BettiMatching{k}Error" for k in range(3)},
    ),
    "euler_error": Metric(euler_error, ("euler_error",), {"Euler": "EulerError"}),
    "centreline_parts": Metric(
        centreline_parts,
        ("precision", "sensitivity"),
        {"clPrecision": "clPrecision", "clSensitivity": "clSensitivity"},
        higher_is_better=True,
    ),
    "surface_dice": Metric(
        surface_dice, ("surface_dice",), {"SurfaceDice": "SurfaceDice"}, higher_is_better=True
    ),
    "partition_metrics": Metric(
        partition_metrics, tuple(part.name for part in fields(PartitionMetrics))
    ),
    "average_path_length_similarity": Metric(
        average_path_length_similarity,
        ("average_path_length_similarity",),
        higher_is_better=True,
    ),
}
"""Metrics by name."""
