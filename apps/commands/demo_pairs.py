"""`geo3d demo --pairs`: the shipped creatures, matched, measured against their truth and drawn.

The method is diffumatch, with the shipped prior.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from apps.commands import show_run
from apps.running import Beginning, run_verb, settings
from geo3d.files import asset
from geo3d.progress import ProgressCallback
from geo3d.runs import Run

if TYPE_CHECKING:
    from shape_matching.evaluate.protocols import Pair

FEW = (
    "biped4 biped5",
    "quadruped1 quadruped4",
    "bird1 bird3",
    "octopus3 octopus2",
    "critter1 critter4",
)


def run_pairs(args: argparse.Namespace) -> int:
    """Match a pair of each kind, or all, and say where the images are."""
    from shape_matching.config import MatchConfig
    from shape_matching.evaluate.datasets import open_dataset
    from shape_matching.evaluate.protocols import read_pairs

    folder = asset("shapes")
    dataset = open_dataset(folder)
    pairs = read_pairs(folder / "pairs.txt", dataset)
    if args.pairs != "all":
        pairs = [pair for pair in pairs if " ".join(pair) in FEW]

    def work(run: Run, progress: ProgressCallback) -> None:
        rows = [_match(dataset, pair, run, progress) for pair in pairs]
        mean = sum(row["error_x100"] for row in rows) / len(rows)
        run.finish({"pairs": rows, "mean_error_x100": mean})

    run_folder = run_verb(args, "demo", Beginning("creatures", settings(args, MatchConfig)), work)
    rows, mean = run_folder.numbers["pairs"], run_folder.numbers["mean_error_x100"]
    lines = [
        f"  {row['pair']:<24} error x100 {row['error_x100']:6.2f}   {row['seconds']:5.1f} s"
        for row in rows
    ]
    head = "matched (mean geodesic error as a percentage of sqrt(area)):"
    images = f"images: {run_folder.previews}"
    show_run(args, run_folder, "\n".join([head, *lines, f"  mean {mean:.2f}", images]))
    return 0


def _match(dataset: Any, pair: Pair, run: Run, progress: ProgressCallback) -> dict[str, Any]:
    import time

    from scipy.spatial import KDTree

    from geo3d.render.previews import match_preview
    from shape_matching.config import MatchConfig
    from shape_matching.evaluate.scoring import SourceScorer
    from shape_matching.evaluate.truth import pair_truth
    from shape_matching.methods import METHODS

    source, target = (dataset.file(name).load() for name in pair)
    config, device = run.load_config(MatchConfig), run.record["device"]
    begun = time.perf_counter()
    method = METHODS["diffumatch"]
    found = method(source.mesh, target.mesh, config, device=device, progress=progress)
    seconds = time.perf_counter() - begun
    truth = pair_truth(dataset, source, target)
    score, errors = SourceScorer(source.mesh).score(target.mesh, truth, found.p2p_21)
    # what has no truth is drawn like the nearest vertex that has
    points = target.mesh.vertices
    per_vertex = errors[KDTree(points[truth.target]).query(points)[1]]
    name = "-".join(pair)
    found.save(run.outputs / f"{name}.txt")
    match_preview(
        found.source,
        found.target,
        found.p2p_21,
        run.previews / f"{name}.png",
        errors=per_vertex,
        max_error=0.25,
    )
    return {"pair": " ".join(pair), "error_x100": score.error, "seconds": round(seconds, 2)}
