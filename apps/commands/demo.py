"""Match the shipped example creatures, measure the maps against their ground truth, draw them.

The method is diffumatch, with the shipped prior.

geo3d demo              one pair of each kind, about two minutes
geo3d demo --all        all 25 pairs
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from apps.commands import add_common, emit

if TYPE_CHECKING:
    from geo3d.runs import Run
    from shape_matching.evaluate.protocols import Pair

FEW = (
    "biped4 biped5",
    "quadruped1 quadruped4",
    "bird1 bird3",
    "octopus3 octopus2",
    "critter1 critter4",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``geo3d demo``."""
    parser.add_argument("--all", action="store_true", help="every pair of assets/shapes/pairs.txt")
    add_common(parser, "preset", "set", "seed", "device", "out", "json", "quiet")


def run(args: argparse.Namespace) -> int:
    """Run the demo and say where the pictures are."""
    from geo3d.config import load_config
    from geo3d.files import asset
    from geo3d.runs import start_run
    from shape_matching.config import MatchConfig
    from shape_matching.evaluate.datasets import open_dataset
    from shape_matching.evaluate.protocols import read_pairs

    folder = asset("shapes")
    dataset = open_dataset(folder)
    pairs = read_pairs(folder / "pairs.txt", dataset)
    if not args.all:
        pairs = [pair for pair in pairs if " ".join(pair) in FEW]
    config = load_config(MatchConfig, None, args.preset, args.set)
    with start_run("demo", "creatures", config, args.out, args.seed, args.device) as run_folder:
        rows = [_match(dataset, pair, config, run_folder, args) for pair in pairs]
        mean = sum(row["error_x100"] for row in rows) / len(rows)
        run_folder.finish({"pairs": rows, "mean_error_x100": mean})
    lines = [
        f"  {row['pair']:<24} error x100 {row['error_x100']:6.2f}   {row['seconds']:5.1f} s"
        for row in rows
    ]
    text = "\n".join(
        [
            "matched (mean geodesic error as a percentage of sqrt(area)):",
            *lines,
            f"  mean {mean:.2f}",
            f"pictures: {run_folder.previews}",
        ]
    )
    emit(args, {"pairs": rows, "mean_error_x100": mean, "run": str(run_folder.path)}, text)
    return 0


def _match(
    dataset: Any, pair: Pair, config: Any, run_folder: Run, args: argparse.Namespace
) -> dict[str, Any]:
    import time

    import numpy as np

    from geo3d.listeners import cancel_listener, chain, tqdm_listener
    from geo3d.render.previews import match_preview
    from shape_matching.evaluate.scoring import SourceScorer, pair_truth
    from shape_matching.methods import METHODS

    source, target = (dataset.file(name).load() for name in pair)
    progress = chain(cancel_listener(run_folder), tqdm_listener(disable=args.quiet or args.json))
    begun = time.perf_counter()
    method = METHODS["diffumatch"]
    found = method(source.mesh, target.mesh, config, device=args.device, progress=progress)
    seconds = time.perf_counter() - begun
    truth = pair_truth(dataset, source, target)
    score, errors = SourceScorer(source.mesh).score(target.mesh, truth, found.p2p_21)
    per_vertex = np.full(target.mesh.n_vertices, np.nan)
    per_vertex[truth.target] = errors
    name = "-".join(pair)
    found.save(run_folder.outputs / f"{name}.txt")
    match_preview(
        found.source,
        found.target,
        found.p2p_21,
        run_folder.previews / f"{name}.png",
        errors=per_vertex,
        max_error=0.25,
    )
    return {"pair": " ".join(pair), "error_x100": score.error, "seconds": round(seconds, 2)}
