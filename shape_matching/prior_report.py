"""How good a prior is by itself: errors by noise level, samples, what it remembers.

Notation: n maps, k their size, s samples, sigma noise level.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def plot_training(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Write the curves of a training as a PNG: loss, and errors on held-out maps.

    Args:
        path: where to write.
        lines: the metrics of the run; of several lines of one step (a resumed run), the last.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    by_step = {line["step"]: line for line in lines}
    steps = sorted(by_step)
    figure = Figure(figsize=(9.6, 4.0), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    left.plot(steps, [by_step[s]["loss"] for s in steps], linewidth=1)
    left.set_ylabel("loss per entry")
    for name in sorted({n for line in by_step.values() for n in line if n.startswith("error_")}):
        known = [s for s in steps if name in by_step[s]]
        level = name.removeprefix("error_")
        right.plot(known, [1000 * by_step[s][name] for s in known], label=f"sigma {level}")
    right.set_ylabel("held-out denoising error x1000")
    right.legend()
    for axes in (left, right):
        axes.set_yscale("log")
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
    # Without the version that made it, the same numbers give the same file.
    figure.savefig(path, format="png", metadata={"Software": None})
