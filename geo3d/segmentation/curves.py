"""The picture of a training: loss, and errors on validation pictures, by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from geo3d.files import atomic_path


def plot_training(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Write the curves of a training as a PNG.

    Args:
        path: where to write.
        lines: the metrics of the run; of several lines of one step (a resumed run), the last.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    by_step = {line["step"]: line for line in lines}
    steps = sorted(by_step)
    figure = Figure(figsize=(12.0, 3.6), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 3)
    wanted = (("loss",), ("dice",), ("betti0_error", "betti1_error"))
    for axes, names in zip(panels, wanted, strict=True):
        for name in names:
            known = [step for step in steps if name in by_step[step]]
            axes.plot(known, [by_step[step][name] for step in known], label=name, marker=".")
        axes.set_title(", ".join(names).replace("_", " "))
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
    panels[2].set_yscale("symlog")
    panels[2].legend()
    with atomic_path(path) as temporary:
        figure.savefig(temporary)
