"""Pictures of functional maps: the final one, and the present one while a match runs.

Notation: fmap_12 (k2, k1) carries functions of the source to the target: column i says how
eigenfunction i of the source is written in eigenfunctions of the target.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from jaxtyping import Float
from torch import Tensor

from geo3d.files import atomic_path
from shape_matching.corrector.improve import OnMap

SHOWN = 60
"""Rows and columns of a map that are drawn; the rest are the finest details."""
LIVE_S = 0.5
"""Seconds between two live pictures at least."""
LIVE_SHARE = 0.1
"""Part of the time that live pictures may take at most."""


def plot_fmap(path: Path, fmap_12: Float[np.ndarray, "k2 k1"], title: str) -> None:
    """Write the first `SHOWN` rows and columns of a functional map as a PNG, atomically."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = fmap_12[:SHOWN, :SHOWN]
    figure = Figure(figsize=(5.0, 4.4), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    # An orthogonal map has no entry beyond 1; zero is the middle of the diverging colours.
    image = axes.imshow(shown, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
    axes.set_xlabel("functions of source")
    axes.set_ylabel("functions of target")
    axes.set_title(title)
    figure.colorbar(image, ax=axes, shrink=0.85)
    with atomic_path(path) as temporary:
        # Without the version that made it, the same map gives the same file.
        figure.savefig(temporary, format="png", metadata={"Software": None})


def live_picture(path: Path) -> OnMap:
    """Return an ``on_map`` for `shape_matching.match.match` that keeps ``path`` up to date.

    Maps that come too fast are left out (`LIVE_S`, `LIVE_SHARE`).
    """
    due = 0.0

    def draw(stage: str, fmap_12: Tensor) -> None:
        nonlocal due
        begun = time.monotonic()
        if begun < due:
            return
        plot_fmap(path, fmap_12.detach().double().cpu().numpy(), f"functional map: {stage}")
        ended = time.monotonic()
        due = ended + max(LIVE_S, (ended - begun) / LIVE_SHARE)

    return draw
