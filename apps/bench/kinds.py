"""Pairs of different bodies: creatures of other seeds and other kinds, scanned people to bipeds.

Truth comes from skeletons (`geo3d.synth.creatures.kinship`): the same part, as far along it, on the
same side; places near joints of parts, and parts that only one has, are not scored.  People are
those of a FAUST folder; `JOINTS` is their skeleton where they stand, set by hand.  Pairs of `TUNE`
were looked at while the method was made, those of `TEST` were not.

Errors are mean geodesic errors x100 over the root of the source's area.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int
from scipy.spatial import KDTree

from apps.bench.measuring import timed
from geo3d.errors import InputError
from geo3d.files import atomic_write_json
from geo3d.mesh.geodesic import HeatSolver
from geo3d.mesh.mesh import Mesh
from geo3d.mesh.ops import total_area
from geo3d.mesh.sampling import farthest_point_samples
from geo3d.progress import ProgressCallback, ignore_progress, report
from geo3d.synth.creatures import Creature, generate_creature, pose
from geo3d.synth.creatures.kinship import counterparts
from geo3d.synth.creatures.posing import skinning_weights
from geo3d.synth.creatures.skeleton import Bone, Plan
from geo3d.synth.pieces import turned
from geo3d.work.runner import claim
from shape_matching.config import MatchConfig
from shape_matching.evaluate.datasets import ShapeRecord, open_dataset
from shape_matching.evaluate.metrics import FLAG
from shape_matching.match import match

TUNE, TEST = 300, 700
"""First seed of the pairs."""
BODIES = (
    ("biped", "biped"), ("quadruped", "quadruped"), ("bird", "bird"),
    ("biped", "quadruped"), ("quadruped", "bird"), ("bird", "biped"),
)  # fmt: skip
PEOPLE = "FAUST, biped"
TUNE_PEOPLE = ("tr_reg_000", "tr_reg_001", "tr_reg_004", "tr_reg_006")
TEST_PEOPLE = ("tr_reg_080", "tr_reg_081", "tr_reg_083", "tr_reg_084", "tr_reg_085", "tr_reg_087")
AMPLITUDE, N_SCORED = 0.4, 300
JOINTS: dict[str, tuple[tuple[float, float, float], tuple[float, float, float], float]] = {
    "pelvis": ((0, 0.50, 0.11), (0, 0.58, 0.11), 0.075),
    "waist": ((0, 0.58, 0.11), (0, 0.68, 0.11), 0.075),
    "chest": ((0, 0.68, 0.11), (0, 0.80, 0.10), 0.08),
    "neck": ((0, 0.80, 0.10), (0, 0.88, 0.12), 0.04),
    "head": ((0, 0.88, 0.13), (0, 0.95, 0.13), 0.055),
    "upper_arm": ((0.105, 0.79, 0.10), (0.155, 0.62, 0.10), 0.035),
    "lower_arm": ((0.155, 0.62, 0.10), (0.20, 0.49, 0.10), 0.025),
    "hand": ((0.20, 0.49, 0.10), (0.22, 0.42, 0.10), 0.02),
    "thigh": ((0.055, 0.50, 0.11), (0.07, 0.28, 0.08), 0.055),
    "shin": ((0.07, 0.28, 0.08), (0.075, 0.05, 0.045), 0.035),
    "foot": ((0.075, 0.04, 0.04), (0.085, 0.02, 0.13), 0.025),
}
"""Head, tail and radius of the bones of a standing person of height 1, for the left side."""
_PARENTS = {
    "pelvis": "", "waist": "pelvis", "chest": "waist", "neck": "chest", "head": "neck",
    "upper_arm": "chest", "lower_arm": "upper_arm", "hand": "lower_arm",
    "thigh": "pelvis", "shin": "thigh", "foot": "shin",
}  # fmt: skip


@dataclass(frozen=True)
class KindsConfig:
    """Settings of `bench_tune` and `bench_test`."""

    dataset: str = ""
    """FAUST folder; without it there are no people."""
    each: int = 4
    """Pairs per two kinds."""
    vertices: int = 1500
    """Of each creature."""
    landmarks: int = 0
    """True landmarks that are given, at least 3: scored places far from each other."""
    match: MatchConfig = field(default_factory=MatchConfig)
    """Settings of the matcher."""


class KindsPair(NamedTuple):
    """A pair and its truth."""

    name: str
    group: str
    source: Mesh
    target: Mesh
    truth: Int[np.ndarray, " n2"]
    """Source vertex of every target vertex, -1 where the place is not scored."""


def bench_tune(
    data: Path, config: KindsConfig, progress: ProgressCallback = ignore_progress
) -> list[dict[str, Any]]:
    """Return a row per group of tuning pairs; pairs that ``data`` holds are not matched again."""
    return _bench(data, config, pairs(config, TUNE, TUNE_PEOPLE), progress)


def bench_test(
    data: Path, config: KindsConfig, progress: ProgressCallback = ignore_progress
) -> list[dict[str, Any]]:
    """Return the rows of pairs that were never looked at; see `bench_tune`."""
    return _bench(data, config, pairs(config, TEST, TEST_PEOPLE), progress)


def pairs(
    config: KindsConfig, first_seed: int, people: Sequence[str]
) -> list[Callable[[], KindsPair]]:
    """Return what makes each pair."""
    made: list[Callable[[], KindsPair]] = []
    for i, kinds in enumerate(BODIES):
        for j in range(config.each):
            seed = first_seed + 20 * i + 2 * j
            made.append(partial(creature_pair, *kinds, seed, config.vertices))
    if config.dataset:
        for i, name in enumerate(people):
            seed = first_seed + 20 * len(BODIES) + i
            made.append(partial(person_pair, config.dataset, name, seed, config.vertices))
    return made


def creature_pair(first: str, second: str, seed: int, n_vertices: int) -> KindsPair:
    """Return two creatures in poses of their own, the second turned at random."""
    one = generate_creature(first, seed, n_vertices)
    two = generate_creature(second, seed + 1, n_vertices)
    truth = counterparts(one, two)
    source, target = pose(one, seed, AMPLITUDE), pose(two, seed + 1, AMPLITUDE)
    target = turned(target, np.random.default_rng(seed))
    return KindsPair(f"{first}-{second}-{seed}", f"{first}, {second}", source, target, truth)


def person_pair(folder: str, name: str, seed: int, n_vertices: int) -> KindsPair:
    """Return a person of a FAUST folder and a biped, turned at random."""
    dataset = open_dataset(folder)
    shape = dataset.file(name).load()
    standing = dataset.file(name[:-1] + "0").load()
    biped = generate_creature("biped", seed, n_vertices)
    at_rest = counterparts(standing_person(standing.mesh), biped)
    places = _body_points(standing)
    nearest = KDTree(standing.mesh.vertices[places]).query(standing.mesh.vertices)[1]
    truth = np.where(at_rest >= 0, _body_points(shape)[nearest][at_rest], -1)
    target = turned(pose(biped, seed, AMPLITUDE), np.random.default_rng(seed))
    return KindsPair(f"{name}-biped-{seed}", PEOPLE, shape.mesh, target, truth)


def _body_points(shape: ShapeRecord) -> Int[np.ndarray, " i"]:
    if shape.corr is None:
        raise InputError(
            "dataset.no_ground_truth", f"{shape.name} names no body points.", "Give a FAUST folder."
        )
    return shape.corr


def standing_person(mesh: Mesh) -> Creature:
    """Return a person who stands upright and looks along +z as a biped with `JOINTS`."""
    low, high = mesh.vertices.min(axis=0), mesh.vertices.max(axis=0)
    height = float(high[1] - low[1])
    points = (mesh.vertices - [(low[0] + high[0]) / 2, low[1], low[2]]) / height
    plan = Plan()
    for name, (head, tail, radius) in JOINTS.items():
        step = np.subtract(tail, head)
        pair = head[0] > 0
        plan.add(name, _PARENTS[name], step, (radius, radius), start=head, pair=pair)
    bones: list[Bone] = plan.bones
    rest = Mesh(points.astype(np.float64), mesh.faces, name=mesh.name)
    weights = skinning_weights(rest, bones)
    return Creature("biped", 0, rest, tuple(bones), weights, np.arange(mesh.n_vertices))


def _bench(
    data: Path,
    config: KindsConfig,
    items: Sequence[Callable[[], KindsPair]],
    progress: ProgressCallback,
) -> list[dict[str, Any]]:
    claim(data, {"config": repr(config)})
    rows = []
    for i, make in enumerate(items):
        report(progress, "pairs", i, len(items))
        path = data / f"{i:03d}.json"
        if not path.is_file():
            atomic_write_json(path, _row(make(), config))
        rows.append(json.loads(path.read_text(encoding="utf-8")))
    groups = dict.fromkeys(row["group"] for row in rows)
    return [_mean(g, [r for r in rows if g == r["group"]]) for g in groups] + [_mean("all", rows)]


def _row(pair: KindsPair, config: KindsConfig) -> dict[str, Any]:
    marks = landmarks(pair, config.landmarks) if config.landmarks else None
    found, spent = timed(
        match, pair.source, pair.target, config.match, landmarks=marks, device="cpu"
    )
    return {
        "pair": pair.name,
        "group": pair.group,
        "error": error_of(pair, found.p2p_21),
        "probability": found.probability,
        "scores": found.scores,
        "cpu_s": spent.cpu,
    }


def landmarks(pair: KindsPair, count: int) -> Int[np.ndarray, "p 2"]:
    """Return true pairs of vertices, farthest points among the scored places of the target."""
    known = np.flatnonzero(pair.truth >= 0)
    places = Mesh(pair.target.vertices[known], np.zeros((0, 3), np.int64))
    chosen = known[farthest_point_samples(places, count)]
    return np.stack([pair.truth[chosen], chosen], axis=1)


def error_of(pair: KindsPair, p2p_21: Int[np.ndarray, " n2"]) -> float:
    """Return the mean geodesic error x100 of a map, on some of the scored places."""
    known = np.flatnonzero(pair.truth >= 0)
    known = known[np.linspace(0, len(known) - 1, min(N_SCORED, len(known))).astype(int)]
    rows = HeatSolver(pair.source).distances(pair.truth[known])
    error = rows[np.arange(len(known)), p2p_21[known]].mean() / total_area(pair.source) ** 0.5
    return 100 * float(error)


def _mean(group: str, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    errors = np.array([row["error"] for row in rows])
    flagged = np.array([row["probability"] < FLAG for row in rows])
    wrong = errors > 5
    return {
        "kinds": group,
        "pairs": len(rows),
        "error": round(float(errors.mean()), 2),
        "median": round(float(np.median(errors)), 2),
        "worst": round(float(errors.max()), 2),
        "wrong": int(wrong.sum()),
        "wrong_flagged": int((wrong & flagged).sum()),
        "false_alarms": int((~wrong & flagged).sum()),
        "cpu_s": round(float(np.mean([row["cpu_s"] for row in rows])), 1),
    }
