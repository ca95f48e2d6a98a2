"""Pieces of generated creatures, matched to the whole or to each other: error and overlap.

Source and target are different poses; every second target is a relative with other proportions, and
has vertices and triangles of its own.  It is cut by a plane or around a vertex, or is what a far
camera sees of it, and turned at random; in "both" either side lacks some 30 %.  Pairs of `TUNE`
were looked at while the method was made, those of `TEST` were not.

Errors are mean geodesic errors x100 over the root of the whole source's area, on the true overlap;
what the map leaves out counts as its nearest neighbour.  IoU: intersection over union of found and
true overlap by area, on the source and on the target.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from apps.bench.measuring import timed
from geo3d.files import atomic_write_json
from geo3d.mesh.geodesic import HeatSolver
from geo3d.mesh.mesh import Mesh
from geo3d.mesh.ops import total_area, vertex_areas
from geo3d.progress import ProgressCallback, ignore_progress, report
from geo3d.synth.creatures import generate_creature, pose, remeshed, vary_proportions
from geo3d.synth.pieces import Piece, cut_by_ball, cut_by_plane, scanned, turned
from geo3d.work.runner import claim
from shape_matching.config import MatchConfig
from shape_matching.correspondence import Correspondence, filled
from shape_matching.match import match

KINDS = ("biped", "quadruped", "bird", "critter")
"""Not the octopus: its arms can be exchanged."""
CUTS: Mapping[str, Callable[[Mesh, np.random.Generator], Piece]] = {
    "plane 50 %": lambda mesh, rng: cut_by_plane(mesh, 0.5, rng),
    "plane 30 %": lambda mesh, rng: cut_by_plane(mesh, 0.3, rng),
    "ball 50 %": lambda mesh, rng: cut_by_ball(mesh, 0.5, rng),
    "ball 30 %": lambda mesh, rng: cut_by_ball(mesh, 0.3, rng),
    "scan": scanned,
    "both": lambda mesh, rng: cut_by_plane(mesh, 0.7, rng),
}
TUNE, TEST = 100, 900
"""First seed of the pairs."""
VERTICES, RELATIVE, AMPLITUDE = 1_500, 0.1, 0.5
N_SCORED = 300
FAILED = 6.0
"""Error from which a pair counts as failed."""


@dataclass(frozen=True, eq=False)
class PiecePair:
    """A pair with its truth."""

    source: Mesh
    target: Mesh
    truth: Int[np.ndarray, " n2"]
    """Source vertex of every target vertex, -1 for none."""
    overlap_1: Bool[np.ndarray, " n1"]
    overlap_2: Bool[np.ndarray, " n2"]


def bench_tune(
    data: Path, config: MatchConfig, progress: ProgressCallback = ignore_progress
) -> list[dict[str, Any]]:
    """Return a row per tuning pair and means; pairs that ``data`` holds are not matched again."""
    return _bench(data, TUNE, config, progress)


def bench_test(
    data: Path, config: MatchConfig, progress: ProgressCallback = ignore_progress
) -> list[dict[str, Any]]:
    """Return the rows of pairs that were never looked at; see `bench_tune`."""
    return _bench(data, TEST, config, progress)


def piece_pair(kind: str, cut: str, seed: int) -> PiecePair:
    """Return a pair of one kind of creature and of cut; odd seeds vary the proportions."""
    rng = np.random.default_rng([seed, len(kind), len(cut)])
    creature = generate_creature(kind, seed, VERTICES)
    source = pose(creature, seed, AMPLITUDE)
    other = vary_proportions(creature, seed, RELATIVE) if seed % 2 else creature
    anew = remeshed(other, pose(other, seed + 1, AMPLITUDE), VERTICES, seed)
    two = CUTS[cut](anew.mesh, rng)
    one = Piece(source, np.arange(source.n_vertices))
    if cut == "both":
        one = CUTS[cut](source, rng)
    place = np.full(source.n_vertices, -1)
    place[one.vertex_ids] = np.arange(len(one.vertex_ids))
    truth = place[anew.template_ids[two.vertex_ids]]
    kept = np.isin(anew.vertex_ids[one.vertex_ids], two.vertex_ids)
    return PiecePair(one.mesh, turned(two.mesh, rng), truth, kept, truth >= 0)


def measured(pair: PiecePair, found: Correspondence) -> dict[str, float]:
    """Return the error on the true overlap and the overlaps' intersection over union."""
    known = np.flatnonzero(pair.overlap_2)
    known = known[np.linspace(0, len(known) - 1, min(N_SCORED, len(known))).astype(int)]
    rows = HeatSolver(pair.source).distances(pair.truth[known])
    images = filled(found.p2p_21, pair.target.vertices)[known]
    error = rows[np.arange(len(known)), images].mean() / total_area(pair.source) ** 0.5
    sides = (
        (pair.source, pair.overlap_1, found.overlap_1),
        (pair.target, pair.overlap_2, found.overlap_2),
    )
    return {
        "error_x100": round(100 * float(error), 2),
        **{
            f"iou_{i}": round(_overlap(vertex_areas(mesh), true, mask), 3)
            for i, (mesh, true, mask) in enumerate(sides, 1)
        },
        "ambiguous": float(found.ambiguous),
    }


def _overlap(
    areas: Float[np.ndarray, " v"],
    true: Bool[np.ndarray, " v"],
    found: Bool[np.ndarray, " v"] | None,
) -> float:
    mask = np.ones(len(areas), bool) if found is None else found
    return float(areas[true & mask].sum() / areas[true | mask].sum())


def _bench(
    data: Path, first_seed: int, config: MatchConfig, progress: ProgressCallback
) -> list[dict[str, Any]]:
    claim(data, {"config": repr(config)})
    items = [(kind, cut) for cut in CUTS for kind in KINDS]
    rows = []
    for i, (kind, cut) in enumerate(items):
        report(progress, "pairs", i, len(items))
        seed = first_seed + i
        rows.append(_kept(data / f"{seed}.json", partial(_row, kind, cut, seed, config)))
    return rows + [
        _mean(cut, [r for r in rows if cut in ("all", r["cut"])]) for cut in (*CUTS, "all")
    ]


def _kept(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what the file holds, made and written first where it is not there."""
    if not path.is_file():
        atomic_write_json(path, make())
    return json.loads(path.read_text(encoding="utf-8"))


def _row(kind: str, cut: str, seed: int, config: MatchConfig) -> dict[str, Any]:
    pair = piece_pair(kind, cut, seed)
    found, spent = timed(match, pair.source, pair.target, config, device="cpu")
    numbers = measured(pair, found)
    return {"kind": kind, "cut": cut, "seed": seed, **numbers, "cpu_s": round(spent.cpu, 1)}


def _mean(cut: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    names = ("error_x100", "iou_1", "iou_2", "ambiguous", "cpu_s")
    means = {name: round(float(np.mean([row[name] for row in rows])), 2) for name in names}
    failed = sum(row["error_x100"] > FAILED for row in rows)
    return {"kind": "mean", "cut": cut, "seed": f"{failed} of {len(rows)} over {FAILED:g}", **means}
