"""Figures as PNG, and the curves of trainings: one plotter for all of them.

Of several lines of one step (a resumed training), the last counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from geo3d.files import atomic_path

Lines = Sequence[Mapping[str, Any]]
COLUMNS = 3
UNMEASURED = ("step", "time", "learning_rate", "grad_norm", "log_scale")
"""What is not drawn."""
LONGEST_MEAN = 25
"""Lines, at most, that the running mean of the loss is taken over."""


def new_figure(width: float, height: float, dpi: int = 120) -> Any:
    """Return a figure of this size in inches that no window ever shows."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=dpi, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Any, path: str | PathLike[str]) -> Path:
    """Write a figure as PNG, atomically, and return the path."""
    with atomic_path(path) as temporary:
        # without the version that made it, the same numbers give the same file
        figure.savefig(temporary, format="png", metadata={"Software": None})
    return Path(path)


def plot_training(path: str | PathLike[str], lines: Lines) -> Path:
    """Draw the loss and, each kind in a panel of its own, all that was measured while training.

    Names that begin alike up to a digit or "_" are of one kind: ``error_0.1`` and ``error_1``.
    """
    panels: dict[str, dict[str, Lines]] = {"loss": {"loss": lines}}
    for name in dict.fromkeys(name for line in lines for name in line):
        if name not in UNMEASURED and not name.startswith("loss"):
            panels.setdefault(name.split("_")[0].rstrip("0123456789"), {})[name] = lines
    return _plot(path, panels)


def plot_losses(path: str | PathLike[str], trainings: Mapping[str, Lines]) -> Path:
    """Draw the losses of several trainings, each in a panel under its name."""
    return _plot(path, {name: {"loss": lines} for name, lines in trainings.items()})


def _plot(path: str | PathLike[str], panels: Mapping[str, Mapping[str, Lines]]) -> Path:
    rows = -(-len(panels) // COLUMNS)
    figure = new_figure(4 * COLUMNS, 3.2 * rows, dpi=100)
    places = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    for axes, (title, curves) in zip(places, panels.items(), strict=False):
        for name, lines in curves.items():
            known = {line["step"]: line[name] for line in lines if name in line}
            steps, values = np.array(sorted(known.items()), float).reshape(-1, 2).T
            if name == "loss" and len(values):
                _draw_loss(axes, steps, values)
            else:
                axes.plot(steps, values, label=name.replace("_", " "), marker=".")
        _finish(axes, title, len(curves) > 1)
    for axes in places[len(panels) :]:
        axes.set_axis_off()
    return save_figure(figure, path)


def _draw_loss(axes: Any, steps: np.ndarray, losses: np.ndarray) -> None:
    width = max(1, min(LONGEST_MEAN, len(losses) // 4))
    axes.plot(steps, losses, color="0.8", linewidth=0.8)
    middles = steps[(width - 1) // 2 :][: len(steps) - width + 1]
    axes.plot(middles, np.convolve(losses, np.ones(width) / width, "valid"))


def _finish(axes: Any, title: str, has_legend: bool) -> None:
    drawn = np.concatenate([np.zeros(0), *(line.get_ydata() for line in axes.lines)])
    # shares such as Dice are read off an even scale; a decade or more needs the other
    wide = len(drawn) > 0 and 0 < 10 * drawn.min() <= drawn.max()
    axes.set_yscale("log" if wide else "linear")
    axes.set(title=title, xlabel="step")
    axes.grid(alpha=0.3)
    axes.tick_params(labelsize=8, which="both")
    if has_legend:
        axes.legend()
