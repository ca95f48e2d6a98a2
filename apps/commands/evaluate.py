"""Measure a matching method on a dataset with ground truth.

  geo3d evaluate --data DIR                           protocol chosen by the folder's content
  geo3d evaluate --data DIR --protocol faust_r --workers 2
  geo3d evaluate --data DIR --pairs my_pairs.txt      "SOURCE TARGET" per line
  geo3d evaluate --data DIR --method diffumatch --random-rotations
  geo3d evaluate --data DIR --ablation                what each part of the method is worth
  geo3d evaluate --resume runs/evaluate/RUN           go on after an interruption

DIR holds *.npz shapes (or folders of them), or off/ with meshes and corres/ with .vts files.
See docs/evaluation.md.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apps.commands import add_common, emit, with_seed
from shape_matching.method_names import methods_help

if TYPE_CHECKING:
    from geo3d.runs import Run
    from shape_matching.evaluate.config import EvaluationConfig


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
    parser.add_argument(
        "--cache-geodesics", action="store_true", default=None, help="keep distance tables on disk"
    )
    parser.add_argument(
        "--shared-ground-truth",
        action="store_true",
        default=None,
        help="shapes of different families list the same body points",
    )
    parser.add_argument(
        "--save-maps", action="store_true", default=None, help="write every map as text"
    )
    parser.add_argument(
        "--random-rotations",
        action="store_true",
        default=None,
        help="turn every shape at random before matching",
    )
    parser.add_argument(
        "--ablation",
        action="store_true",
        default=None,
        help="all methods of the ablation on the same pairs, in one table",
    )
    parser.add_argument("--worst", metavar="N", type=int, help="pairs in the gallery (default 6)")
    add_common(parser, "config", "preset", "set", "seed", "device", "out", "resume")
    add_common(parser, "json", "quiet")
    # Without the flag the seed is that of the settings.
    parser.set_defaults(seed=None)


def run(args: argparse.Namespace) -> int:
    """Evaluate, print the summary; exit code 5 when no pair could be scored."""
    run_folder = _open(args) if args.resume else _start(args)
    from shape_matching.evaluate.config import EvaluationConfig

    if not run_folder.is_done:
        with run_folder:
            _evaluate(run_folder, run_folder.load_config(EvaluationConfig), args.quiet or args.json)
    return _show(run_folder, args)


def _start(args: argparse.Namespace) -> Run:
    from geo3d.errors import ConfigError
    from geo3d.runs import start_run
    from shape_matching.evaluate.pairs import find_method

    config = _settings(args)
    if not config.data:
        raise ConfigError("evaluate.no_data", "There is no --data.", "Name the folder of shapes.")
    # Everything is looked up before the run folder is made, so that a slip leaves nothing behind.
    _dataset_and_pairs(config)
    find_method(config.method)
    inputs = [config.data, *([config.pairs] if config.pairs else [])]
    what = "ablation" if config.ablation else config.method
    name = f"{Path(config.data).resolve().name}-{what}"
    return start_run("evaluate", name, config, args.out, config.match.seed, args.device, inputs)


def _open(args: argparse.Namespace) -> Run:
    from geo3d.errors import ConfigError
    from geo3d.runs import open_run

    if args.data or args.pairs or args.protocol or args.method:
        raise ConfigError(
            "evaluate.resume_is_complete",
            "A resumed run has its settings already.",
            "Give --resume alone.",
        )
    return open_run(args.resume)


def _settings(args: argparse.Namespace) -> EvaluationConfig:
    """Return the settings: defaults, preset and file of the method, then the flags."""
    from geo3d.config import load_config
    from geo3d.threads import usable_cores
    from shape_matching.config import MatchConfig
    from shape_matching.evaluate.config import EvaluationConfig

    match = with_seed(load_config(MatchConfig, args.config, args.preset, args.set), args.seed)
    names = (
        "data protocol pairs max_pairs pair_seed method device workers pair_timeout geodesics "
        "cache_geodesics shared_ground_truth save_maps worst random_rotations ablation"
    ).split()
    given: dict[str, Any] = {n: getattr(args, n) for n in names if getattr(args, n) is not None}
    given.setdefault("workers", min(8, usable_cores()))
    for name in ("data", "pairs"):
        if name in given:
            given[name] = str(Path(given[name]).resolve())
    return EvaluationConfig(**given, match=match)


def _dataset_and_pairs(config: EvaluationConfig) -> tuple[Any, str, list[tuple[str, str]]]:
    from shape_matching.evaluate.datasets import open_dataset
    from shape_matching.evaluate.protocols import protocol_pairs, read_pairs, sample_pairs

    dataset = open_dataset(config.data, config.shared_ground_truth)
    if config.pairs:
        protocol, pairs = Path(config.pairs).stem, read_pairs(config.pairs, dataset)
    else:
        protocol, pairs = protocol_pairs(dataset, config.protocol)
    return dataset, protocol, sample_pairs(pairs, config.max_pairs, config.pair_seed)


def _evaluate(run_folder: Run, config: EvaluationConfig, quiet: bool) -> None:
    from geo3d.listeners import cancel_listener, chain, tqdm_listener
    from shape_matching.evaluate.ablation import run_ablation
    from shape_matching.evaluate.evaluate import evaluate

    dataset, protocol, pairs = _dataset_and_pairs(config)
    progress = chain(cancel_listener(run_folder), tqdm_listener(disable=quiet))
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
        pictures=run_folder.previews,
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
    emit(args, payload, f"{text}\n  tables and pictures: {run_folder.path}")
    return 0 if read["summary"]["scored"] else 5
