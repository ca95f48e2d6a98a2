"""Figures of an evaluation: the PCK curve and a gallery of the worst pairs.

Figures of functional maps: the final one, and the present one while a match runs.

Notation: fmap_12 (k2, k1) carries functions of the source to the target: column i says how
eigenfunction i of the source is written in eigenfunctions of the target.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from PIL import Image
from scipy.spatial import KDTree
from torch import Tensor

from geo3d.mesh.mesh import Mesh
from geo3d.render.previews import contact_sheet, match_image
from geo3d.work.curves import new_figure, save_figure
from shape_matching.corrector.improve import OnMap
from shape_matching.evaluate.datasets import TOSCA_FAMILIES, Dataset
from shape_matching.evaluate.pairs import PairRecord, PairStore
from shape_matching.evaluate.truth import pair_truth

ERROR_SCALE = 0.25
"""Normalised error shown as the darkest colour."""
PANEL = 320
"""Height and width of each image in the gallery, in pixels."""


def plot_curve(path: Path, summary: Mapping[str, Any], method: str) -> None:
    """Write the fraction of correspondences below each geodesic error as a PNG."""
    figure = new_figure(6.4, 4.4)
    axes = figure.add_subplot()
    curve = summary["pck"]
    label = f"{method}: {summary['error']:.2f} x100, AUC {summary['auc_0.25']:.3f}"
    axes.plot(curve["thresholds"], 100 * np.array(curve["fractions"]), label=label, linewidth=2)
    axes.set_xlabel("geodesic error / sqrt(source area)")
    axes.set_ylabel("correspondences (%)")
    axes.set_xlim(0, curve["thresholds"][-1])
    axes.set_ylim(0, 100)
    axes.grid(alpha=0.3)
    axes.set_title(f"{summary['dataset']}, {summary['protocol']}, {summary['scored']} pairs")
    axes.legend(loc="lower right")
    save_figure(figure, path)


def plot_worst(
    path: Path, dataset: Dataset, store: PairStore, records: Sequence[PairRecord]
) -> None:
    """Write a gallery PNG: per row source, target in matched colours, error on the target."""
    rows, labels = [], []
    for record in records:
        source = dataset.file(record.pair[0]).load()
        target = dataset.file(record.pair[1]).load()
        p2p_21, errors = store.arrays(record.index)
        truth = pair_truth(dataset, source, target)
        on_target = spread_errors(target.mesh, truth.target, errors.astype(np.float64))
        up = "z" if source.family in TOSCA_FAMILIES else "y"
        rows.append(
            match_image(
                source.mesh,
                target.mesh,
                p2p_21.astype(np.int64),
                errors=on_target,
                max_error=ERROR_SCALE,
                up=up,
                size=PANEL,
            )
        )
        error = (record.score or {})["error"]
        labels.append(f"{record.pair[0]} <- {record.pair[1]}: mean error x100 = {error:.2f}")
    Image.fromarray(contact_sheet(rows, labels, columns=1)).save(path, format="PNG")


def spread_errors(
    target: Mesh, at: Int[np.ndarray, " i"], errors: Float[np.ndarray, " i"]
) -> Float[np.ndarray, " v"]:
    """Return an error per target vertex: the mean of its entries, else that of the nearest vertex.

    Ground truth does not name every vertex; the gaps would hide the surface.
    """
    counts = np.bincount(at, minlength=target.n_vertices)
    sums = np.bincount(at, errors, target.n_vertices)
    known = np.flatnonzero(counts)
    nearest = KDTree(target.vertices[known]).query(target.vertices)[1]
    return (sums[known] / counts[known])[nearest]


SHOWN = 60
"""Rows and columns of a map that are drawn; the rest are the finest details."""
LIVE_S = 0.5
"""Seconds between two live previews at least."""
LIVE_SHARE = 0.1
"""Part of the time that live previews may take at most."""


def plot_fmap(path: Path, fmap_12: Float[np.ndarray, "k2 k1"], title: str) -> None:
    """Write the first `SHOWN` rows and columns of a functional map as a PNG, atomically."""
    shown = fmap_12[:SHOWN, :SHOWN]
    figure = new_figure(5.0, 4.4, dpi=110)
    axes = figure.add_subplot()
    # An orthogonal map has no entry beyond 1; zero is the middle of the diverging colours.
    image = axes.imshow(shown, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
    axes.set_xlabel("functions of source")
    axes.set_ylabel("functions of target")
    axes.set_title(title)
    figure.colorbar(image, ax=axes, shrink=0.85)
    save_figure(figure, path)


def live_preview(path: Path) -> OnMap:
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
