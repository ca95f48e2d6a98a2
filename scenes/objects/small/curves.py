"""The curves of all stages of the small pipeline's training, as one picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from geo3d.errors import InputError
from geo3d.files import atomic_path
from geo3d.runs import read_metrics

_COLUMNS = 3


def draw_curves(work: str | Path, stages: Sequence[str], path: str | Path) -> Path:
    """Draw the loss over the steps of every stage that has been trained, and its running mean.

    Args:
        work: folder of the stages of `geo3d train-objects`.
        stages: their names, in the order of drawing.
        path: of the PNG.

    Raises:
        InputError: ``train_objects.no_curves``.
    """
    from matplotlib.figure import Figure

    found = {stage: read_metrics(Path(work) / stage) for stage in stages}
    found = {stage: lines for stage, lines in found.items() if lines}
    if not found:
        raise InputError(
            "train_objects.no_curves",
            f"No stage in {work} has been trained.",
            "Name the folder of the stages with --work.",
        )
    rows = -(-len(found) // _COLUMNS)
    figure = Figure(figsize=(9, 2.2 * rows), dpi=100, layout="constrained")
    places = figure.subplots(rows, _COLUMNS, squeeze=False).ravel()
    for axes, (stage, lines) in zip(places, found.items(), strict=False):
        # steps that were done again after an interruption count once
        by_step = {line["step"]: line["loss"] for line in lines}
        steps, losses = np.array(sorted(by_step.items()), float).T
        width = max(1, min(15, len(losses) // 4))
        axes.plot(steps, losses, color="0.8", linewidth=0.8)
        middles = steps[(width - 1) // 2 :][: len(steps) - width + 1]
        axes.plot(middles, np.convolve(losses, np.ones(width) / width, "valid"))
        axes.set_title(f"{stage}: {losses[-width:].mean():.3g}", fontsize=9)
        axes.set_yscale("log")
        axes.tick_params(labelsize=7, which="both")
    for axes in places[len(found) :]:
        axes.set_axis_off()
    with atomic_path(path) as temporary:
        # without the version that made it, the same numbers give the same file
        figure.savefig(temporary, format="png", metadata={"Software": None})
    return Path(path)
