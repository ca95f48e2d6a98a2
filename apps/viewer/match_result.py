"""The result of a matching job, read from its run folder, and its colours.

Notation: p2p_21 (n2,) gives each target vertex its source vertex.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from apps.job_files import Job
from apps.report.shapes import (
    CONFIDENCE,
    MATCHED,
    Group,
    Scalars,
    confidence_scalars,
    model_of,
    page_sized,
)
from apps.viewer.job_parts import result_of
from apps.viewer.shapes import save_view
from geo3d.mesh.io import load_mesh
from geo3d.mesh.mesh import Mesh
from geo3d.render.shading import UNKNOWN_COLOR, position_colors, transfer_colors

SIDES = ("source", "target")
ALTERNATIVE, ERROR = "Alternative", "Error"


@dataclass(frozen=True, eq=False)
class MatchResult:
    """A finished match."""

    source: Mesh
    target: Mesh
    p2p_21: Int[np.ndarray, " n2"]
    alternative_21: Int[np.ndarray, " n2"] | None
    """The best map that differs in a part; None where there is none."""
    confidence: Float[np.ndarray, " n2"]
    """0..1 per target vertex."""
    covered: Bool[np.ndarray, " n1"] | None
    """Which source vertices have a counterpart; None where all have."""
    errors: Float[np.ndarray, " n2"] | None
    """Geodesic error per target vertex, in parts of sqrt(area); NaN where unknown."""
    metrics: Mapping[str, Any]
    """The run's metrics.json."""


def read_result(job: Job) -> MatchResult:
    """Read what the job's verb has written.

    Raises:
        InputError: ``job.no_result``.
    """
    run, metrics = result_of(job)
    source, target = read_shapes(job)
    p2p_21, confidence = read_map(run)
    return MatchResult(
        source,
        target,
        p2p_21,
        read_optional(run, "p2p_21_alternative"),
        confidence,
        read_optional(run, "overlap_1"),
        _read_errors(job.folder / "errors.npz", target.n_vertices),
        metrics,
    )


def read_shapes(job: Job) -> tuple[Mesh, Mesh]:
    """Return the job's source and target, as they were handed in."""
    source, target = (load_mesh(job.folder / "inputs" / job.settings[side]) for side in SIDES)
    return source, target


def read_map(run: Path) -> tuple[Int[np.ndarray, " n2"], Float[np.ndarray, " n2"]]:
    """Return p2p_21 and the confidence from a run folder of ``geo3d match``."""
    with np.load(run / "outputs" / "map.npz", allow_pickle=False) as arrays:
        return arrays["p2p_21"].astype(np.int64), arrays["confidence"].astype(np.float64)


def read_optional(run: Path, name: str) -> np.ndarray | None:
    """Return what only some maps have: ``overlap_1``, which source vertices have a counterpart, or
    ``p2p_21_alternative``; None where it is not there."""
    with np.load(run / "outputs" / "map.npz", allow_pickle=False) as arrays:
        return arrays[name] if name in arrays else None


def write_views(result: MatchResult, folder: Path) -> tuple[Path, Path]:
    """Write both shapes as GLB in matched colours; return source and target."""
    paths = folder / "source.glb", folder / "target.glb"
    if not all(path.is_file() for path in paths):
        folder.mkdir(parents=True, exist_ok=True)
        colors = _source_colors(result)
        shades = colors, transfer_colors(colors, result.p2p_21)
        for mesh, shade, path in zip((result.source, result.target), shades, paths, strict=True):
            save_view(mesh, shade, path)
    return paths


def shapes_group(result: MatchResult) -> Group:
    """Return both shapes in all their colours, with the numbers of the target's vertices."""
    colors = _source_colors(result)
    source = {MATCHED: colors}
    target = {MATCHED: transfer_colors(colors, result.p2p_21)}
    text = "A target vertex has the colour of the source vertex it is matched to."
    if result.covered is not None:
        text += " What has no counterpart is grey."
    about = {MATCHED: text}
    if result.alternative_21 is not None:
        source[ALTERNATIVE] = colors
        target[ALTERNATIVE] = transfer_colors(colors, result.alternative_21)
        about[ALTERNATIVE] = (
            "The best map that differs in a part, unrefined; --choose 2, or choose=2 in the "
            "settings, refines it."
        )
    scalars = {CONFIDENCE: confidence_scalars(result.confidence)}
    if result.errors is not None:
        told = "Geodesic error of each target vertex, in % of the root of the area."
        errors = 100 * result.errors
        top = 100 * error_top(result)
        scalars[ERROR] = Scalars(errors, 0.0, top, "heat", "%", told)
    first = model_of(result.source, "Source")
    second = model_of(result.target, "Target")
    models = [
        replace(first, colors=source),
        replace(second, colors=target, scalars=scalars, matches=result.p2p_21),
    ]
    slim = [page_sized(model) for model in models]
    if any(one is not other for one, other in zip(slim, models, strict=True)):
        # vertices have other numbers now, so that none can be asked for its match
        slim = [replace(model, matches=None) for model in slim]
    return Group(slim, False, about=about)


def error_top(result: MatchResult) -> float:
    """Return the end of the error scale: the 95th percentile, at least 0.02."""
    assert result.errors is not None
    known = result.errors[np.isfinite(result.errors)]
    return max(float(np.percentile(known, 95)) if len(known) else 0.0, 0.02)


def _source_colors(result: MatchResult) -> np.ndarray:
    colors = position_colors(result.source)
    if result.covered is not None:
        colors[~result.covered] = UNKNOWN_COLOR
    return colors


def _read_errors(path: Path, n_2: int) -> np.ndarray | None:
    """Return errors per target vertex; the mean where ground truth names a vertex twice."""
    if not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as arrays:
        at, errors = arrays["target"], arrays["errors"]
    counts = np.bincount(at, minlength=n_2)
    sums = np.bincount(at, errors, minlength=n_2)
    return np.divide(sums, counts, out=np.full(n_2, np.nan), where=counts > 0)
