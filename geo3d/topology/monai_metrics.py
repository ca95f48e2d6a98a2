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

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped
from monai.metrics.metric import CumulativeIterationMetric
from monai.metrics.utils import do_metric_reduction
from torch import Tensor

from geo3d.errors import ConfigError, InputError
from geo3d.topology.metric_table import METRICS


class TopologyMetric(CumulativeIterationMetric):
    """One metric of `geo3d.topology.metric_table.METRICS`, for items and channels of batches.

    Args:
        name: key of that table.
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
        self.metric, self.settings = METRICS[name], settings
        self.include_background, self.reduction = include_background, reduction

    def parts(self, n_dims: int) -> tuple[str, ...]:
        """Return what the numbers along the last axis are, for images or volumes."""
        return self.metric.names(n_dims)

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
        rows = [
            self.metric.numbers(predicted[at], true[at], **self.settings)
            for at in np.ndindex(shape)
        ]
        return torch.tensor(rows, dtype=torch.float32).reshape(*shape, -1)
