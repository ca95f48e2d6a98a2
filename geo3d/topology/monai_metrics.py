"""Every metric of masks as a MONAI `Metric`: called with batches, reduced at the end.

    metric = TopologyMetric("betti_matching_errors", include_background=False)
    metric(y_pred=one_hot_predictions, y=one_hot_labels)      # (b, c, *space) zeros and ones
    metric.aggregate()                                        # one number per part of the metric
    metric.reset()

A metric with several parts (Betti errors: components, holes) gives them along a last axis, in the
order of `TopologyMetric.parts`.  An item whose class is empty in both masks counts as right, as the
metrics themselves say; nothing becomes NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped
from monai.metrics.metric import CumulativeIterationMetric
from monai.metrics.utils import do_metric_reduction
from torch import Tensor

from geo3d.errors import ConfigError, InputError
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

METRICS: dict[str, Callable[..., Any]] = {
    "dice": dice,
    "hausdorff_95": hausdorff_95,
    "betti_errors": betti_errors,
    "local_betti_errors": local_betti_errors,
    "betti_matching_errors": betti_matching_errors,
    "cl_dice": cl_dice,
    "centreline_parts": centreline_parts,
    "euler_error": euler_error,
    "surface_dice": surface_dice,
    "partition_metrics": partition_metrics,
    "average_path_length_similarity": average_path_length_similarity,
}
"""Metrics by name; what each takes besides the two masks is in its docstring."""


class TopologyMetric(CumulativeIterationMetric):
    """One metric of `METRICS`, for items and channels of batches.

    Args:
        name: key of `METRICS`.
        include_background: whether channel 0 is judged.
        reduction: MONAI's: "mean", "mean_batch", "none", ...
        settings: of the metric.

    Raises:
        ConfigError: "metric.unknown_name".
    """

    def __init__(
        self,
        name: str,
        *,
        include_background: bool = False,
        reduction: str = "mean",
        **settings: Any,
    ) -> None:
        super().__init__()
        if name not in METRICS:
            raise ConfigError(
                "metric.unknown_name",
                f"There is no metric {name!r}.",
                f"Known: {', '.join(METRICS)}.",
            )
        self.measure = partial(METRICS[name], **settings)
        self.name, self.include_background, self.reduction = name, include_background, reduction

    def parts(self, n_dims: int) -> tuple[str, ...]:
        """Return what the numbers along the last axis are, for images or volumes."""
        if self.name == "partition_metrics":
            return tuple(field.name for field in fields(PartitionMetrics))
        if self.name == "centreline_parts":
            return ("precision", "sensitivity")
        if self.name.endswith("errors"):
            return ("components", "holes") if n_dims == 2 else ("components", "tunnels", "cavities")
        return (self.name,)

    def aggregate(self, reduction: str | None = None) -> Float[Tensor, "*any"]:
        """Return the numbers of all items since the last reset, reduced."""
        data = self.get_buffer()
        if not isinstance(data, Tensor):
            raise InputError("metric.no_items", "The metric has seen no item.", "Call it first.")
        # MONAI reduces (b, c): the parts go through one by one.
        kind = reduction or self.reduction
        found = [torch.as_tensor(do_metric_reduction(part, kind)[0]) for part in data.unbind(-1)]
        found = [number.reshape(()) if number.numel() == 1 else number for number in found]
        return found[0] if len(found) == 1 else torch.stack(found, dim=-1)

    def _compute_tensor(
        self, y_pred: Shaped[Tensor, "b c *space"], y: Shaped[Tensor, "b c *space"], **_: Any
    ) -> Float[Tensor, "b n parts"]:
        if y_pred.shape != y.shape or y_pred.ndim not in (4, 5):
            raise InputError(
                "metric.wrong_shape",
                f"Predictions {tuple(y_pred.shape)} and labels {tuple(y.shape)} do not fit.",
                "Give both as (b, c, *space) of zeros and ones, for example after AsDiscrete.",
            )
        first = 0 if self.include_background or y.shape[1] == 1 else 1
        predicted, true = (each[:, first:].cpu().numpy() for each in (y_pred, y))
        shape = predicted.shape[:2]
        rows = [self._numbers(predicted[at], true[at]) for at in np.ndindex(shape)]
        return torch.tensor(rows, dtype=torch.float32).reshape(*shape, -1)

    def _numbers(self, predicted: np.ndarray, true: np.ndarray) -> list[float]:
        found = self.measure(predicted, true)
        if isinstance(found, PartitionMetrics):
            return [float(getattr(found, field.name)) for field in fields(found)]
        return [float(n) for n in (found if isinstance(found, tuple) else (found,))]
