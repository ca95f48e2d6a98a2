"""Matching with files as they are found: the error of clean pairs, and of the same with defects.

    cells/settings.json              what the folder is for
    cells/PAIR-DEFECT.json           error, confidence and processor time of one match

Pairs are poses of generated creatures, each with a mesh of its own, and pairs of a dataset if its
folder is named.  Defects are put on one side or both; the true map and the errors stay those of the
clean shapes: an image on something that was added counts as the nearest vertex of the shape.
What is finished is kept, so the same call goes on.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int
from scipy.spatial import KDTree

from apps.bench.measuring import timed
from geo3d.files import atomic_write_json
from geo3d.mesh.mesh import Mesh
from geo3d.mesh.sampling import farthest_point_samples
from geo3d.progress import ProgressCallback, ignore_progress, report
from geo3d.synth.creatures import KINDS, generate_creature, pose, remeshed
from geo3d.work.runner import claim
from shape_matching.config import MatchConfig
from shape_matching.evaluate.datasets import open_dataset
from shape_matching.evaluate.protocols import read_pairs
from shape_matching.evaluate.scoring import SourceScorer
from shape_matching.evaluate.truth import PairTruth, pair_truth
from shape_matching.match import match

N_SPECKS, N_CHARTS, N_OUTLIERS = 5, 20, 8


@dataclass(frozen=True)
class RobustConfig:
    """Settings of `bench_robust`."""

    creatures: int = 5
    """Pairs of generated creatures, kinds in turn."""
    creature_vertices: int = 2000
    dataset: str = ""
    """Folder of shapes with ground truth whose pairs are matched too."""
    pairs: str = ""
    """File with "SOURCE TARGET" per line, of that dataset."""
    seed: int = 0
    """Seed of creatures and defects."""
    match: MatchConfig = field(default_factory=MatchConfig)
    """Settings of the matcher."""


class Found(NamedTuple):
    """A shape as a file might hold it."""

    mesh: Mesh
    origin: Int[np.ndarray, " v"]
    """Vertex of the clean shape for each of this one; for added ones the nearest."""
    first: int = 0
    """The first vertex that belongs to the clean shape."""

    @property
    def place(self) -> Int[np.ndarray, " n"]:
        """A vertex of this one for each of the clean shape; added ones come after, or first."""
        ids, at = np.unique(self.origin[self.first :], return_index=True)
        assert (ids == np.arange(len(ids))).all()
        return at + self.first


class Case(NamedTuple):
    """One clean pair."""

    name: str
    group: str
    source: Mesh
    target: Mesh
    truth: PairTruth


Defect = Callable[[Mesh, np.random.Generator], Found]


def clean(mesh: Mesh, rng: np.random.Generator) -> Found:
    """Return the shape itself."""
    return Found(mesh, np.arange(mesh.n_vertices))


def triangle(mesh: Mesh, rng: np.random.Generator) -> Found:
    """Add one triangle that floats beside the shape."""
    return _with_triangles(mesh, rng, 1)


def specks(mesh: Mesh, rng: np.random.Generator) -> Found:
    """Add five triangles that float around the shape."""
    return _with_triangles(mesh, rng, N_SPECKS)


def charts(mesh: Mesh, rng: np.random.Generator) -> Found:
    """Cut the shape into twenty charts with vertices of their own, as textures need them."""
    seeds = mesh.vertices[farthest_point_samples(mesh, N_CHARTS)]
    chart = np.asarray(KDTree(seeds).query(mesh.vertices[mesh.faces].mean(axis=1))[1])
    key = chart[:, None] * mesh.n_vertices + mesh.faces
    kept, corners = np.unique(key, return_inverse=True)
    origin = kept % mesh.n_vertices
    return Found(Mesh(mesh.vertices[origin], corners.reshape(-1, 3), name=mesh.name), origin)


def unused(mesh: Mesh, rng: np.random.Generator) -> Found:
    """Add a vertex of no face, as the first."""
    place = _around(mesh, rng, 1)
    vertices = np.concatenate([place, mesh.vertices])
    nearest = KDTree(mesh.vertices).query(place)[1]
    origin = np.concatenate([nearest, np.arange(mesh.n_vertices)])
    return Found(Mesh(vertices, mesh.faces + 1, name=mesh.name), origin, first=1)


def cloud(mesh: Mesh, rng: np.random.Generator) -> Found:
    """Forget the faces."""
    points = Mesh(mesh.vertices, np.zeros((0, 3), np.int64), name=mesh.name)
    return Found(points, np.arange(mesh.n_vertices))


def outliers(mesh: Mesh, rng: np.random.Generator) -> Found:
    """Forget the faces and add eight far points."""
    far = _around(mesh, rng, N_OUTLIERS)
    nearest = KDTree(mesh.vertices).query(far)[1]
    points = Mesh(np.concatenate([mesh.vertices, far]), np.zeros((0, 3), np.int64), name=mesh.name)
    return Found(points, np.concatenate([np.arange(mesh.n_vertices), nearest]))


DEFECTS: dict[str, tuple[Defect, Defect]] = {
    "clean": (clean, clean),
    "stray triangle": (clean, triangle),
    "five specks": (specks, specks),
    "20 charts": (charts, charts),
    "unused vertex": (unused, clean),
    "cloud": (cloud, cloud),
    "cloud, 8 outliers": (cloud, outliers),
}
"""By name: what is done to the source and to the target."""
REFERENCE = {"cloud, 8 outliers": "cloud"}
"""What a defect is compared with, by default the clean pair."""


def bench_robust(
    data: Path, config: RobustConfig, progress: ProgressCallback = ignore_progress
) -> list[dict[str, Any]]:
    """Match all pairs with all defects; return mean errors x100, and what the defects cost.

    Args:
        data: the folder that keeps the cells.
    """
    claim(data, asdict(config), may_grow=("creatures", "dataset", "pairs"))
    cases = [*_creatures(config), *_dataset(config)]
    cells: list[dict[str, Any]] = []
    for i, case in enumerate(cases):
        scorer = SourceScorer(case.source)
        for name in DEFECTS:
            report(progress, "pairs", i, len(cases), pair=case.name, defect=name)
            path = data / f"{case.name}-{name.replace(' ', '_').replace(',', '')}.json"
            if not path.is_file():
                atomic_write_json(path, _measured(case, name, scorer, config))
            cells.append(json.loads(path.read_text(encoding="utf-8")))
    return _table(cells)


def _creatures(config: RobustConfig) -> list[Case]:
    cases = []
    for i in range(config.creatures):
        kind, seed = KINDS[i % len(KINDS)], config.seed * 1000 + i
        creature = generate_creature(kind, seed)
        one, two = (
            remeshed(creature, pose(creature, 10 * seed + j), config.creature_vertices, seed + j)
            for j in (1, 2)
        )
        truth = PairTruth(one.vertex_ids[two.template_ids], np.arange(two.mesh.n_vertices))
        cases.append(Case(f"{kind}{seed}", "creatures", one.mesh, two.mesh, truth))
    return cases


def _dataset(config: RobustConfig) -> list[Case]:
    if not config.dataset:
        return []
    dataset = open_dataset(config.dataset)
    cases = []
    for names in read_pairs(config.pairs, dataset):
        one, two = (dataset.file(name).load() for name in names)
        truth = pair_truth(dataset, one, two)
        cases.append(Case("-".join(names), Path(config.dataset).name, one.mesh, two.mesh, truth))
    return cases


def _measured(case: Case, name: str, scorer: SourceScorer, config: RobustConfig) -> dict[str, Any]:
    rng = np.random.default_rng([config.seed, *case.name.encode()])
    one, two = (
        change(mesh, rng)
        for change, mesh in zip(DEFECTS[name], (case.source, case.target), strict=True)
    )
    found, spent = timed(match, one.mesh, two.mesh, config.match, device="cpu")
    place = two.place
    p2p_21 = one.origin[found.p2p_21[place]]
    errors = scorer.errors(p2p_21, case.truth.target, case.truth.source)
    return {
        "group": case.group,
        "defect": name,
        "error": 100 * float(errors.mean()),
        "confidence": float(found.confidence[place].mean()),
        "seconds": spent.cpu,
        "notes": list(found.notes),
    }


def _table(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    rows = []
    for group in dict.fromkeys(cell["group"] for cell in cells):
        means: dict[str, float] = {}
        for name in DEFECTS:
            chosen = [c for c in cells if c["group"] == group and c["defect"] == name]
            mean = {
                key: float(np.mean([c[key] for c in chosen]))
                for key in ("error", "confidence", "seconds")
            }
            means[name] = mean["error"]
            rows.append(
                {
                    "shapes": group,
                    "pairs": len(chosen),
                    "defect": name,
                    "error": round(mean["error"], 3),
                    "worse_by": round(mean["error"] - means[REFERENCE.get(name, "clean")], 3),
                    "worst": round(max(c["error"] for c in chosen), 3),
                    "confidence": round(mean["confidence"], 3),
                    "cpu_s": round(mean["seconds"], 1),
                }
            )
    return rows


def _around(mesh: Mesh, rng: np.random.Generator, count: int) -> np.ndarray:
    """Return points around a shape, one extent from its middle."""
    directions = rng.standard_normal((count, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    extent = float(np.linalg.norm(np.ptp(mesh.vertices, axis=0)))
    return mesh.vertices.mean(axis=0) + extent * directions


def _with_triangles(mesh: Mesh, rng: np.random.Generator, count: int) -> Found:
    size = 0.02 * float(np.linalg.norm(np.ptp(mesh.vertices, axis=0)))
    corners = np.repeat(_around(mesh, rng, count), 3, axis=0)
    corners = corners + size * rng.standard_normal(corners.shape)
    n = mesh.n_vertices
    faces = np.concatenate([mesh.faces, n + np.arange(3 * count).reshape(-1, 3)])
    nearest = KDTree(mesh.vertices).query(corners)[1]
    whole = Mesh(np.concatenate([mesh.vertices, corners]), faces, name=mesh.name)
    return Found(whole, np.concatenate([np.arange(n), nearest]))
