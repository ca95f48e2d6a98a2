"""The result of a matching job, read from its run folder, and its colours.

Notation: p2p_21 (n2,) gives each target vertex its source vertex.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from apps.job_files import Job
from apps.viewer import fragments
from apps.viewer.job_parts import result_of
from apps.viewer.shapes import GREY, save_view
from geo3d.mesh.io import load_mesh
from geo3d.mesh.mesh import Mesh
from geo3d.render.shading import (
    ERROR_STOPS,
    UNKNOWN_COLOR,
    error_colors,
    position_colors,
    ramp_colors,
    transfer_colors,
)

SIDES = ("source", "target")
MATCHED, ALTERNATIVE, CONFIDENCE, ERROR = (
    "Matched colours",
    "Alternative",
    "Confidence",
    "Error",
)
CONFIDENCE_STOPS = np.array(
    [[178, 64, 60], [226, 136, 84], [236, 214, 154], [128, 186, 172], [38, 118, 130]], np.float64
)
"""Uncertain is warm, certain is cool; lightness peaks in the middle, so both ends stand out."""


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

    @property
    def colorings(self) -> list[str]:
        """The ways this result can be coloured."""
        other = [ALTERNATIVE] if self.alternative_21 is not None else []
        return [MATCHED, *other, CONFIDENCE, *([ERROR] if self.errors is not None else [])]


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


def write_views(result: MatchResult, coloring: str, folder: Path) -> tuple[Path, Path]:
    """Write both shapes as GLB in one of the colourings; return source and target."""
    paths = folder / f"source-{_slug(coloring)}.glb", folder / f"target-{_slug(coloring)}.glb"
    if not all(path.is_file() for path in paths):
        folder.mkdir(parents=True, exist_ok=True)
        meshes = (result.source, result.target)
        for mesh, colors, path in zip(meshes, _colors(result, coloring), paths, strict=True):
            save_view(mesh, colors, path)
    return paths


def legend(result: MatchResult, coloring: str) -> str:
    """Return what the colours mean, as HTML."""
    if coloring == CONFIDENCE:
        return fragments.scale(
            CONFIDENCE_STOPS.tolist(),
            "0",
            "1",
            "Probability that a target vertex's match is within 5 % of √area",
        )
    if coloring == ERROR:
        top = f"{100 * error_top(result):.3g} and more"
        label = "Geodesic error of each target vertex, in % of √area"
        return fragments.scale(ERROR_STOPS.tolist(), "0", top, label)
    text = "A target vertex has the colour of the source vertex it is matched to."
    if coloring == ALTERNATIVE:
        text = (
            "The best map that differs in a part, unrefined; --choose 2, or choose=2 in the "
            "settings, refines it."
        )
    if result.covered is not None:
        text += " What has no counterpart is grey."
    return fragments.note(text)


def error_top(result: MatchResult) -> float:
    """Return the end of the error scale: the 95th percentile, at least 0.02."""
    assert result.errors is not None
    known = result.errors[np.isfinite(result.errors)]
    return max(float(np.percentile(known, 95)) if len(known) else 0.0, 0.02)


def _colors(result: MatchResult, coloring: str) -> tuple[np.ndarray, np.ndarray]:
    grey = np.tile(GREY, (result.source.n_vertices, 1))
    if coloring == CONFIDENCE:
        return grey, ramp_colors(CONFIDENCE_STOPS, result.confidence)
    if coloring == ERROR and result.errors is not None:
        return grey, error_colors(result.errors, error_top(result))
    colors = position_colors(result.source)
    if result.covered is not None:
        colors[~result.covered] = UNKNOWN_COLOR
    if coloring == ALTERNATIVE and result.alternative_21 is not None:
        return colors, transfer_colors(colors, result.alternative_21)
    return colors, transfer_colors(colors, result.p2p_21)


def _read_errors(path: Path, n_2: int) -> np.ndarray | None:
    """Return errors per target vertex; the mean where ground truth names a vertex twice."""
    if not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as arrays:
        at, errors = arrays["target"], arrays["errors"]
    counts = np.bincount(at, minlength=n_2)
    sums = np.bincount(at, errors, minlength=n_2)
    return np.divide(sums, counts, out=np.full(n_2, np.nan), where=counts > 0)


def _slug(coloring: str) -> str:
    return coloring.split()[0].lower()
