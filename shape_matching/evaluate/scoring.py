"""Score one map against ground truth: geodesics on the source on demand, then every metric.

Notation: see `shape_matching.evaluate.metrics`.  Distances are kept as float32, whether they were
computed now, kept in memory or read back, so that a score does not depend on which; rows are filled
when a map first lands on their vertex.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float, Float32, Int

from geo3d.errors import NumericalError
from geo3d.mesh.geodesic import HeatSolver, exact_distances
from geo3d.mesh.mesh import Mesh
from geo3d.mesh.operators import laplacian
from geo3d.mesh.ops import vertex_areas, vertex_normals
from shape_matching.evaluate import metrics
from shape_matching.evaluate.truth import PairTruth

GeodesicKind = Literal["heat", "exact"]

MAX_TABLE_BYTES = 144 * 10**6
"""A larger distance table is not kept; its rows are computed again for each map."""
BLOCK = 64
"""Sources solved at a time."""


@dataclass(frozen=True, eq=False)
class PairScore:
    """The numbers of one pair; errors are x100 and normalised by sqrt(area of the source)."""

    error: float
    """Mean geodesic error: the number of the literature's tables."""
    median_error: float
    max_error: float
    error_best_side: float | None
    """Mean of the smaller of direct and mirrored error per body point (diagnosis)."""
    error_best_map: float | None
    """The smaller of the mean direct and the mean mirrored error (diagnosis)."""
    coverage: float
    smoothness: float
    bijectivity: float | None
    """Mean geodesic length, x100, of the step from a source vertex to the target and back."""
    orientation: float
    pck: tuple[int, ...]
    """Entries with error <= `metrics.THRESHOLDS`."""
    pck_ulrssm: tuple[int, ...]
    """Entries with error <= `metrics.THRESHOLDS_ULRSSM`."""
    entries: int
    """Ground-truth entries scored."""


class DistanceTable:
    """Geodesic distances on one mesh, rows computed when first needed.

    Args:
        mesh: where distances are measured, in its units.
        kind: "heat" (the literature's) or "exact".
        cache: folder that keeps the table between runs, or None.
    """

    def __init__(self, mesh: Mesh, kind: GeodesicKind = "heat", cache: Path | None = None) -> None:
        self._mesh = mesh
        self._kind = kind
        self._solver: HeatSolver | None = None
        self._table = self._open_table(cache)

    def between(
        self, sources: Int[np.ndarray, " i"], targets: Int[np.ndarray, " i"]
    ) -> Float[np.ndarray, " i"]:
        """Return the distance from each source to the target at the same position."""
        if self._table is not None:
            self._fill(self._table, np.unique(sources))
            return self._table[sources, targets].astype(np.float64)
        result = np.empty(len(sources))
        needed, row_of = np.unique(sources, return_inverse=True)
        for start in range(0, len(needed), BLOCK):
            rows = self._rows(needed[start : start + BLOCK])
            mine = (row_of >= start) & (row_of < start + BLOCK)
            result[mine] = rows[row_of[mine] - start, targets[mine]]
        return result

    def _fill(self, table: Float32[np.ndarray, "v v"], wanted: Int[np.ndarray, " s"]) -> None:
        # A row is complete when no entry is NaN, which also holds for a table on disk whose
        # writer was killed.
        lacking = np.array([i for i in wanted if np.isnan(table[i]).any()], np.int64)
        for start in range(0, len(lacking), BLOCK):
            block = lacking[start : start + BLOCK]
            table[block] = self._rows(block)

    def _rows(self, sources: Int[np.ndarray, " s"]) -> Float32[np.ndarray, "s v"]:
        if self._kind == "exact":
            return exact_distances(self._mesh, sources).astype(np.float32)
        if self._solver is None:
            self._solver = HeatSolver(self._mesh)
        return self._solver.distances(sources).astype(np.float32)

    def _open_table(self, cache: Path | None) -> Float32[np.ndarray, "v v"] | None:
        n = self._mesh.n_vertices
        if 4 * n * n > MAX_TABLE_BYTES:
            return None
        if cache is None:
            return np.full((n, n), np.nan, np.float32)
        path = cache / f"{self._kind}-{self._mesh.content_hash()[:32]}.npy"
        if not path.is_file():
            cache.mkdir(parents=True, exist_ok=True)
            beside = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
            np.save(beside.with_suffix(".npy"), np.full((n, n), np.nan, np.float32))
            beside.with_suffix(".npy").replace(path)
        return np.load(path, mmap_mode="r+", allow_pickle=False)


class SourceScorer:
    """What scoring needs of a source shape, made once for all its pairs.

    Raises:
        NumericalError: ``evaluate.no_area``.
        Geo3dError: the codes of geodesics and Laplacian.
    """

    def __init__(
        self, source: Mesh, kind: GeodesicKind = "heat", cache: Path | None = None
    ) -> None:
        self.source = source
        self.distances = DistanceTable(source, kind, cache)
        self._areas = vertex_areas(source)
        if not self._areas.sum() > 0:
            raise NumericalError(
                "evaluate.no_area",
                f"{source.name} has no surface area to measure errors by.",
                "Evaluation needs triangle meshes.",
            )
        self._normals = vertex_normals(source)
        self._stiffness = laplacian(source, "cotan")[0]

    def errors(
        self,
        p2p_21: Int[np.ndarray, " n2"],
        at: Int[np.ndarray, " i"],
        truth: Int[np.ndarray, " i"],
    ) -> Float[np.ndarray, " i"]:
        """Return the normalised error (not x100) of the images of target vertices ``at``."""
        return self.distances.between(p2p_21[at], truth) / np.sqrt(self._areas.sum())

    def score(
        self,
        target: Mesh,
        truth: PairTruth,
        p2p_21: Int[np.ndarray, " n2"],
        p2p_12: Int[np.ndarray, " n1"] | None = None,
    ) -> tuple[PairScore, Float[np.ndarray, " i"]]:
        """Return all numbers of a map and its normalised error per ground-truth entry.

        Raises:
            InputError: ``map.wrong_length``, ``map.index_out_of_range``.
        """
        n_1, n_2 = self.source.n_vertices, target.n_vertices
        metrics.check_map(p2p_21, n_2, n_1, "p2p_21")
        errors = self.errors(p2p_21, truth.target, truth.source)
        best = (None, None)
        if truth.target_sym is not None:
            mirrored = self.errors(p2p_21, truth.target_sym, truth.source)
            best = metrics.minimum_error(errors, mirrored)
        score = PairScore(
            error=100 * float(errors.mean()),
            median_error=100 * float(np.median(errors)),
            max_error=100 * float(errors.max()),
            error_best_side=None if best[0] is None else 100 * best[0],
            error_best_map=None if best[1] is None else 100 * best[1],
            coverage=metrics.coverage(p2p_21, self._areas),
            smoothness=metrics.smoothness(
                self.source, p2p_21, self._stiffness, laplacian(target, "cotan")[0]
            ),
            bijectivity=None if p2p_12 is None else self._bijectivity(truth, p2p_21, p2p_12, n_2),
            orientation=metrics.orientation(self._normals, self.source, target, p2p_21),
            pck=_counts(errors, metrics.THRESHOLDS),
            pck_ulrssm=_counts(errors, metrics.THRESHOLDS_ULRSSM),
            entries=len(errors),
        )
        return score, errors

    def _bijectivity(
        self,
        truth: PairTruth,
        p2p_21: Int[np.ndarray, " n2"],
        p2p_12: Int[np.ndarray, " n1"],
        n_2: int,
    ) -> float:
        """Return the area-weighted mean cycle length over source vertices with ground truth, x100.

        Those vertices cover the shape evenly, and their distances are mostly known already.
        """
        metrics.check_map(p2p_12, self.source.n_vertices, n_2, "p2p_12")
        starts = np.unique(truth.source)
        ends = p2p_21[p2p_12[starts]]
        lengths = self.distances.between(ends, starts) / np.sqrt(self._areas.sum())
        return 100 * float(np.average(lengths, weights=self._areas[starts]))


def _counts(
    errors: Float[np.ndarray, " i"], thresholds: Float[np.ndarray, " t"]
) -> tuple[int, ...]:
    return tuple(int(c) for c in np.rint(metrics.pck(errors, thresholds) * len(errors)))
