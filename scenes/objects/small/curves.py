"""The losses of all stages of the small pipeline's training, as one figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from geo3d.errors import InputError
from geo3d.runs import read_metrics
from geo3d.work.curves import plot_losses


def draw_curves(work: str | Path, stages: Sequence[str], path: str | Path) -> Path:
    """Draw the loss of every stage in the folder ``work`` that has been trained.

    Raises:
        InputError: ``train_objects.no_curves``.
    """
    found = {stage: read_metrics(Path(work) / stage) for stage in stages}
    found = {stage: lines for stage, lines in found.items() if lines}
    if not found:
        raise InputError(
            "train_objects.no_curves",
            f"No stage in {work} has been trained.",
            "Name the folder of the stages with --work.",
        )
    return plot_losses(path, found)
