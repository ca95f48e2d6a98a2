"""Train the spectral prior of zero-shot matching on a folder of functional maps.

  geo3d data prior --out maps ...                   make the maps (generated creatures)
  geo3d train prior --data maps --preset small      the recipe of the shipped prior
  geo3d train prior --data maps --preset published  the recipe of the paper (needs a GPU)
  geo3d train prior --resume runs/train-prior/RUN   go on after an interruption
  geo3d train prior --data maps --evaluate FILE     measure and draw a trained prior

Several GPUs: torchrun --nproc-per-node N -m apps.cli train prior ... (needs geo3d[distributed]).
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from apps.commands import RUN_FLAGS, add_common, show_run
from apps.running import (
    Beginning,
    full_path,
    require_files,
    require_folders,
    run_training,
    run_verb,
    settings,
)
from geo3d.files import atomic_write_json
from geo3d.progress import ProgressCallback
from geo3d.runs import Run
from geo3d.work.tables import aligned


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``geo3d train prior``."""
    parser.add_argument("--data", metavar="DIR", help="folder of functional maps")
    parser.add_argument("--evaluate", metavar="FILE", help="measure this prior, train nothing")
    add_common(parser, *RUN_FLAGS)


def run(args: argparse.Namespace) -> int:
    """Train or evaluate a prior in a run folder and print its numbers."""
    require_folders(args.data)
    require_files(args.evaluate)
    if args.evaluate:
        return _evaluate(args)
    from shape_matching.prior.training import PriorTrainingConfig, train_prior

    cls, begin = PriorTrainingConfig, partial(_begin, args)
    return run_training(args, "train-prior", cls, begin, train_prior, _show, "data")


def _begin(args: argparse.Namespace) -> Beginning:
    from shape_matching.prior.splits import load_split
    from shape_matching.prior.training import PriorTrainingConfig

    config = settings(args, PriorTrainingConfig, {"data": full_path(args.data)}, preset="small")
    load_split(config.data, config.network.size, config.validation_share, config.seed)
    return Beginning(Path(config.data).name, config, [config.data])


def _evaluate(args: argparse.Namespace) -> int:
    from geo3d.device import pick_device
    from shape_matching.prior.prior import load_prior
    from shape_matching.prior.report import evaluate_prior
    from shape_matching.prior.splits import load_split

    seed = args.seed or 0
    prior = load_prior(args.evaluate, str(pick_device(args.device)))
    trained = prior.info.get("training", {})
    share, split_seed = trained.get("validation_share", 0.05), trained.get("seed", seed)
    split = load_split(args.data or "", prior.size, share, split_seed)

    def work(run: Run, progress: ProgressCallback) -> None:
        numbers = evaluate_prior(prior, split, run.previews, seed=seed, progress=progress)
        atomic_write_json(run.outputs / "report.json", numbers)
        run.finish(numbers)

    begun = Beginning(Path(args.evaluate).stem, None, [args.data, args.evaluate])
    done = run_verb(args, "evaluate-prior", begun, work)
    show_run(args, done, _table(done.numbers, done.path))
    return 0


def _table(numbers: dict[str, Any], folder: Path) -> str:
    errors = numbers["errors"]
    rows = [[name, *(f"{1000 * e:.2f}" for e in row.values())] for name, row in errors.items()]
    lines = aligned(["sigma", *map(str, errors["prior"])], rows)
    warning = "" if numbers["is_held_out"] else "  not known to be maps it did not learn from\n"
    return (
        f"denoising error x1000 on {numbers['held_out_maps']} maps\n"
        f"{lines}\n{warning}  distance to the nearest training map: samples "
        f"{numbers['sample_to_nearest_training_map']:.2f}, held-out maps "
        f"{numbers['held_out_to_nearest_training_map']:.2f}\n  images: {folder}"
    )


def _show(args: argparse.Namespace, done: Run) -> None:
    prior = done.outputs / "prior.safetensors"
    errors = ", ".join(
        f"{name.removeprefix('error_')}: {1000 * value:.2f}"
        for name, value in done.numbers.items()
        if name.startswith("error_")
    )
    text = f"{prior}\n  denoising error x1000 by noise level: {errors}\n  run: {done.path}"
    show_run(args, done, text, prior=str(prior))
