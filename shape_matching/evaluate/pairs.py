"""What a worker does with one pair: load both shapes, match them, score the map.

A method is a callable ``method(source, target, config, progress=...)`` whose answer has ``p2p_21``
and, where it knows them, ``p2p_12`` and ``ambiguous`` (see `shape_matching.correspondence`).

Finished pairs on disk: one small file each, whole or not there, so that a killed run continues.
``pairs/00012.json`` holds the numbers of pair 12 and is written last; ``pairs/00012.npz`` holds its
map and its errors.  Pairs that failed lie in ``failures`` (`geo3d.work.runner`).
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int, Int32
from scipy.spatial.transform import Rotation

from geo3d.errors import ConfigError
from geo3d.files import atomic_path, atomic_write_json
from geo3d.mesh.mesh import Mesh
from geo3d.progress import ignore_progress
from geo3d.work.runner import read_failure
from shape_matching.correspondence import filled
from shape_matching.evaluate.datasets import Dataset, ShapeRecord
from shape_matching.evaluate.metrics import RIGHT, calibration_bins
from shape_matching.evaluate.protocols import Pair
from shape_matching.evaluate.scoring import GeodesicKind, SourceScorer
from shape_matching.evaluate.truth import PairTruth, pair_truth

Method = Callable[..., Any]

SHAPES_KEPT = 24
"""Shapes a worker keeps loaded; a shape of 5,000 vertices takes 0.3 MB."""


@dataclass(frozen=True)
class JobSetup:
    """Everything a worker needs besides the pair; it is sent to the worker's process."""

    dataset: Dataset
    method: Method | str
    """An importable callable, or a name in `shape_matching.methods.METHODS`."""
    config: Any
    device: str = "auto"
    """Where a named method computes; a callable decides for itself."""
    geodesics: GeodesicKind = "heat"
    geodesic_cache: Path | None = None
    rotation_seed: int | None = None
    """Seed of random rotations of both shapes before matching; None leaves them as they are."""


@dataclass(frozen=True, eq=False)
class PairResult:
    """The answer for one pair."""

    score: dict[str, Any]
    """The fields of `shape_matching.evaluate.scoring.PairScore`, ``ambiguous``, ``probability``
    and ``calibration`` (see `shape_matching.evaluate.metrics.calibration_bins`)."""
    p2p_21: Int32[np.ndarray, " n2"]
    errors: Float32[np.ndarray, " i"]
    """Normalised error per ground-truth entry, not x100."""
    seconds: dict[str, float]
    """Wall and processor time of matching, wall time of scoring."""


def make_pair_job(setup: JobSetup) -> Callable[[Pair], PairResult]:
    """Return the handler of a worker; it keeps shapes and what scoring needs of one source."""

    method = setup.method
    if isinstance(method, str):
        method = functools.partial(find_method(method), device=setup.device)

    @functools.lru_cache(maxsize=SHAPES_KEPT)
    def load(name: str) -> ShapeRecord:
        return setup.dataset.file(name).load()

    @functools.lru_cache(maxsize=1)
    def scorer(name: str) -> SourceScorer:
        return SourceScorer(load(name).mesh, setup.geodesics, setup.geodesic_cache)

    def run(pair: Pair) -> PairResult:
        source, target = load(pair[0]), load(pair[1])
        # Ground truth first: a pair that cannot be scored need not be matched.
        truth = pair_truth(setup.dataset, source, target)
        wall, cpu = time.perf_counter(), time.process_time()
        shapes = (
            shape_as_seen(record.mesh, setup.rotation_seed, side)
            for side, record in enumerate((source, target))
        )
        found = method(*shapes, setup.config, progress=ignore_progress)
        matched = time.perf_counter()
        seconds = {"match": matched - wall, "match_cpu": time.process_time() - cpu}
        # Truth is asked for everywhere: what has no counterpart answers like its neighbour.
        p2p_21 = filled(_whole_numbers(found.p2p_21), target.mesh.vertices)
        p2p_12 = getattr(found, "p2p_12", None)
        if p2p_12 is not None:
            p2p_12 = filled(_whole_numbers(p2p_12), source.mesh.vertices)
        score, errors = scorer(pair[0]).score(target.mesh, truth, p2p_21, p2p_12)
        seconds["score"] = time.perf_counter() - matched
        values = {
            **asdict(score),
            "ambiguous": bool(getattr(found, "ambiguous", False)),
            **_said(found, truth, errors),
        }
        return PairResult(values, p2p_21.astype(np.int32), errors.astype(np.float32), seconds)

    return run


def shape_as_seen(mesh: Mesh, seed: int | None, side: int) -> Mesh:
    """Return the mesh turned at random: by its name, the seed and its side of the pair."""
    if seed is None:
        return mesh
    rng = np.random.default_rng([seed, side, *mesh.name.encode()])
    return replace(mesh, vertices=mesh.vertices @ Rotation.random(rng=rng).as_matrix().T)


def find_method(name: str) -> Method:
    """Return a matching method by name.

    Raises:
        ConfigError: ``evaluate.unknown_method``.
    """
    from shape_matching.methods import METHODS

    if name not in METHODS:
        raise ConfigError(
            "evaluate.unknown_method",
            f"There is no method '{name}'.",
            f"Known: {', '.join(sorted(METHODS))}.",
        )
    return METHODS[name]


def _whole_numbers(p2p: Any) -> Int[np.ndarray, " n"]:
    return np.asarray(p2p).astype(np.int64)


@dataclass(frozen=True)
class PairRecord:
    """One finished pair as it is on disk."""

    index: int
    pair: Pair
    score: Mapping[str, Any] | None
    error: Mapping[str, str] | None
    seconds: Mapping[str, float]


class PairStore:
    """The finished pairs of one evaluation folder."""

    def __init__(self, folder: Path, pairs: Sequence[Pair]) -> None:
        self._folder = folder
        self._pairs = list(pairs)

    def records(self) -> list[PairRecord]:
        """Return the finished pairs in the order of the pair list."""
        found = [self._read(index) for index in range(len(self._pairs))]
        return [record for record in found if record is not None]

    def is_scored(self, name: str) -> bool:
        """Tell whether the result of a pair, by `pair_name`, is there."""
        return self._path(int(name), ".json").is_file()

    def put(self, index: int, result: PairResult) -> None:
        """Store a scored pair."""
        with atomic_path(self._path(index, ".npz")) as beside, beside.open("wb") as stream:
            np.savez_compressed(stream, p2p_21=result.p2p_21, errors=result.errors)
        source, target = self._pairs[index]
        record = {"source": source, "target": target, "score": result.score}
        atomic_write_json(self._path(index, ".json"), {**record, "seconds": result.seconds})

    def arrays(self, index: int) -> tuple[Int32[np.ndarray, " n2"], Float32[np.ndarray, " i"]]:
        """Return map and errors of a scored pair."""
        with np.load(self._path(index, ".npz"), allow_pickle=False) as archive:
            return archive["p2p_21"], archive["errors"]

    def _read(self, index: int) -> PairRecord | None:
        pair, path = self._pairs[index], self._path(index, ".json")
        if path.is_file():
            stored = json.loads(path.read_text(encoding="utf-8"))
            return PairRecord(index, pair, stored["score"], None, stored["seconds"])
        failure = read_failure(self._folder, pair_name(index))
        return None if failure is None else PairRecord(index, pair, None, failure, {})

    def _path(self, index: int, suffix: str) -> Path:
        return self._folder / "pairs" / f"{pair_name(index)}{suffix}"


def pair_name(index: int) -> str:
    """Return the name of a pair's files."""
    return f"{index:05d}"


def _said(found: Any, truth: PairTruth, errors: np.ndarray) -> dict[str, Any]:
    """Return how sure the method was of the map, and of its vertices where truth is known."""
    probability = getattr(found, "probability", None)
    if probability is None:
        return {"probability": None, "calibration": None}
    confidence = np.asarray(found.confidence, np.float64)[truth.target]
    bins = calibration_bins(confidence, np.asarray(errors) < RIGHT)
    return {"probability": float(probability), "calibration": bins.tolist()}
