"""Measure a matching method on a dataset with ground truth.

  geo3d evaluate --data DIR                           protocol chosen by the folder's content
  geo3d evaluate --data DIR --protocol faust_r --workers 2
  geo3d evaluate --data DIR --pairs my_pairs.txt      "SOURCE TARGET" per line
  geo3d evaluate --data DIR --method diffumatch --random-rotations
  geo3d evaluate --data DIR --ablation                what each part of the method is worth
  geo3d evaluate --data DIR --engine slurm --slurm partition=gpu gpus=1   jobs of a cluster
  geo3d evaluate --resume runs/evaluate/RUN           go on after an interruption

DIR holds *.npz shapes (or folders of them), or off/ with meshes and corres/ with .vts files.
See docs/evaluation.md.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apps.commands import RUN_FLAGS, add_common, emit
from apps.running import (
    Beginning,
    full_path,
    require_files,
    require_flag,
    require_folders,
    run_verb,
    settings,
    with_engine,
)
from geo3d.progress import ProgressCallback
from geo3d.runs import Run
from geo3d.threads import usable_cores
from shape_matching.method_names import methods_help

if TYPE_CHECKING:
    from shape_matching.evaluate.config import EvaluationConfig


SWITCHES = {
    "cache-geodesics": "keep distance tables on disk",
    "shared-ground-truth": "shapes of different families list the same body points",
    "save-maps": "write every map as text",
    "random-rotations": "turn every shape at random before matching",
    "ablation": "all methods of the ablation on the same pairs, in one table",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``geo3d evaluate``."""
    parser.add_argument("--data", metavar="DIR", help="folder of shapes with ground truth")
    parser.add_argument("--protocol", metavar="NAME", help="pair list of the literature, or all")
    parser.add_argument("--pairs", metavar="FILE", help='pairs to evaluate, "SOURCE TARGET" a line')
    parser.add_argument("--max-pairs", metavar="N", type=int, help="draw at most N of the pairs")
    parser.add_argument("--pair-seed", metavar="N", type=int, help="seed of that draw (default 0)")
    methods = f"matching method (default axiomatic): {methods_help()}"
    parser.add_argument("--method", metavar="NAME", help=methods)
    parser.add_argument("--workers", metavar="N", type=int, help="processes (default: all cores)")
    parser.add_argument(
        "--pair-timeout", metavar="S", type=float, help="stop a pair after S seconds"
    )
    parser.add_argument(
        "--geodesics", choices=("heat", "exact"), help="how errors are measured (default heat)"
    )
    for flag, text in SWITCHES.items():
        parser.add_argument(f"--{flag}", action="store_true", default=None, help=text)
    parser.add_argument("--worst", metavar="N", type=int, help="pairs in the gallery (default 6)")
    add_common(parser, "engine", "slurm", *RUN_FLAGS)


def run(args: argparse.Namespace) -> int:
    """Evaluate, print the summary; exit code 5 when no pair could be scored."""
    fixed = "data pairs protocol method"
    begin, work = partial(_begin, args), partial(_evaluate, args)
    return _show(run_verb(args, "evaluate", begin, work, fixed), args)


def _begin(args: argparse.Namespace) -> Beginning:
    require_folders(require_flag(args, "data", "Name the folder of shapes."))
    require_files(args.pairs)
    from shape_matching.evaluate.pairs import find_method
    from shape_matching.evaluate.truth import require_truth

    config = _settings(args)
    dataset, _, pairs = _dataset_and_pairs(config)
    require_truth(dataset, pairs)
    find_method(config.method)
    what = "ablation" if config.ablation else config.method
    name, inputs = f"{Path(config.data).name}-{what}", [config.data, config.pairs]
    return Beginning(name, config, inputs, seed=config.match.seed)


def _settings(args: argparse.Namespace) -> EvaluationConfig:
    """Return the settings: defaults, preset and file of the method, then the flags."""
    from shape_matching.config import MatchConfig
    from shape_matching.evaluate.config import EvaluationConfig

    names = [field.name for field in fields(EvaluationConfig) if field.name in args]
    names = [name for name in names if name not in ("engine", "slurm")]
    given: dict[str, Any] = {n: getattr(args, n) for n in names if getattr(args, n) is not None}
    given.setdefault("workers", min(8, usable_cores()))
    for name in ("data", "pairs"):
        if name in given:
            given[name] = full_path(given[name])
    config = EvaluationConfig(**given, match=settings(args, MatchConfig))
    return with_engine(args, config)


def _dataset_and_pairs(config: EvaluationConfig) -> tuple[Any, str, list[tuple[str, str]]]:
    from shape_matching.evaluate.datasets import open_dataset
    from shape_matching.evaluate.protocols import protocol_pairs, read_pairs, sample_pairs

    dataset = open_dataset(config.data, config.shared_ground_truth)
    if config.pairs:
        protocol, pairs = Path(config.pairs).stem, read_pairs(config.pairs, dataset)
    else:
        protocol, pairs = protocol_pairs(dataset, config.protocol)
    return dataset, protocol, sample_pairs(pairs, config.max_pairs, config.pair_seed)


def _evaluate(args: argparse.Namespace, run_folder: Run, progress: ProgressCallback) -> None:
    from shape_matching.evaluate.ablation import run_ablation
    from shape_matching.evaluate.config import EvaluationConfig
    from shape_matching.evaluate.evaluate import evaluate

    config = with_engine(args, run_folder.load_config(EvaluationConfig))
    dataset, protocol, pairs = _dataset_and_pairs(config)
    if config.ablation:
        rows = run_ablation(
            dataset, pairs, config, run_folder.outputs, protocol=protocol, progress=progress
        )
        run_folder.finish({"ablation": rows})
        return
    summary = evaluate(
        dataset,
        pairs,
        config,
        run_folder.outputs,
        protocol=protocol,
        previews=run_folder.previews,
        progress=progress,
    )
    run_folder.finish({k: v for k, v in summary.items() if k not in ("pck", "pck_ulrssm")})


def _show(run_folder: Run, args: argparse.Namespace) -> int:
    from shape_matching.evaluate.ablation import format_ablation
    from shape_matching.evaluate.report import format_summary

    table = run_folder.outputs / "ablation.json"
    if table.exists():
        rows = json.loads(table.read_text(encoding="utf-8"))
        text = f"{format_ablation(rows)}\n  tables: {run_folder.path}"
        emit(args, {"ablation": rows, "run": str(run_folder.path)}, text)
        return 0 if any(row["scored"] for row in rows) else 5
    read = {
        name: json.loads((run_folder.outputs / f"{name}.json").read_text(encoding="utf-8"))
        for name in ("summary", "timings")
    }
    text = format_summary(read["summary"], read["timings"])
    payload = {**read["summary"], "timings": read["timings"], "run": str(run_folder.path)}
    emit(args, payload, f"{text}\n  tables and images: {run_folder.path}")
    return 0 if read["summary"]["scored"] else 5
