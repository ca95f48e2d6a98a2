"""Train the spectral prior of zero-shot matching on a folder of functional maps.

  geo3d prior-data --out maps ...                   make the maps (generated creatures)
  geo3d train-prior --data maps --preset small      the recipe of the shipped prior
  geo3d train-prior --data maps --preset published  the recipe of the paper (needs a GPU)
  geo3d train-prior --resume runs/train-prior/RUN   go on after an interruption
  geo3d train-prior --data maps --evaluate FILE     measure and draw a trained prior

Several GPUs: torchrun --nproc-per-node N -m apps.cli train-prior ... (needs geo3d[distributed]).
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apps.commands import add_common, emit

if TYPE_CHECKING:
    from geo3d.runs import Run
    from shape_matching.prior.training import PriorTrainingConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``geo3d train-prior``."""
    parser.add_argument("--data", metavar="DIR", help="folder of functional maps")
    parser.add_argument("--evaluate", metavar="FILE", help="measure this prior, train nothing")
    parser.add_argument("--threads", metavar="N", type=int, help="CPU threads (default: all)")
    add_common(parser, "config", "preset", "set", "seed", "device", "out", "resume")
    add_common(parser, "json", "quiet")


def run(args: argparse.Namespace) -> int:
    """Train or evaluate a prior in a run folder and print its numbers."""
    import torch

    if args.threads:
        torch.set_num_threads(args.threads)
    if args.evaluate:
        return _evaluate(args)
    if int(os.environ.get("RANK", "0")) > 0:
        return _follow(args)
    run_folder = _open(args) if args.resume else _start(args)
    if not run_folder.is_done:
        with run_folder:
            _train(run_folder, args)
    return _show(run_folder, args)


def _start(args: argparse.Namespace) -> Run:
    from geo3d.runs import start_run
    from shape_matching.prior.splits import load_split

    config = _settings(args)
    # Read before the run folder is made, so that a slip leaves nothing behind.
    load_split(config.data, config.network.size, config.validation_share, config.seed)
    name = Path(config.data).name
    return start_run("train-prior", name, config, args.out, args.seed, args.device, [config.data])


def _open(args: argparse.Namespace) -> Run:
    from geo3d.errors import ConfigError
    from geo3d.runs import open_run

    if args.data or args.config or args.preset or args.set:
        raise ConfigError(
            "train_prior.resume_is_complete",
            "A resumed run has its settings already.",
            "Give --resume alone.",
        )
    return open_run(args.resume)


def _settings(args: argparse.Namespace) -> PriorTrainingConfig:
    from geo3d.config import load_config
    from shape_matching.prior.training import PriorTrainingConfig

    given = [f"seed={args.seed}"]
    if args.data:
        given.append(f"data={Path(args.data).resolve()}")
    preset = args.preset or "small"
    return load_config(PriorTrainingConfig, args.config, preset, [*given, *args.set])


def _train(run_folder: Run, args: argparse.Namespace) -> None:
    from geo3d.listeners import cancel_listener, chain, tqdm_listener
    from geo3d.runs import read_metrics
    from geo3d.work.curves import plot_training
    from shape_matching.prior.training import PriorTrainingConfig, train_prior

    progress = chain(cancel_listener(run_folder), tqdm_listener(disable=args.quiet or args.json))
    numbers = train_prior(
        run_folder.load_config(PriorTrainingConfig),
        run_folder.outputs,
        device=run_folder.record["device"],
        log_metrics=run_folder.log_metrics,
        progress=progress,
    )
    plot_training(run_folder.previews / "training.png", read_metrics(run_folder.path))
    run_folder.finish(numbers)


def _follow(args: argparse.Namespace) -> int:
    """Train beside the first process, which alone has the run folder."""
    from geo3d.config import load_config
    from shape_matching.prior.training import PriorTrainingConfig, train_prior

    with tempfile.TemporaryDirectory() as empty:
        config, out = None, Path(empty)
        if args.resume:
            config = load_config(PriorTrainingConfig, Path(args.resume) / "config.yaml")
            out = Path(args.resume) / "outputs"
        train_prior(config or _settings(args), out, device=args.device)
    return 0


def _evaluate(args: argparse.Namespace) -> int:
    from geo3d.device import pick_device
    from geo3d.files import atomic_write_json
    from geo3d.listeners import cancel_listener, chain, tqdm_listener
    from geo3d.runs import start_run
    from shape_matching.prior.prior import load_prior
    from shape_matching.prior.report import evaluate_prior
    from shape_matching.prior.splits import load_split

    device = str(pick_device(args.device))
    prior = load_prior(args.evaluate, device)
    trained = prior.info.get("training", {})
    share, seed = trained.get("validation_share", 0.05), trained.get("seed", args.seed)
    split = load_split(args.data or "", prior.size, share, seed)
    inputs = [args.data, args.evaluate]
    name = Path(args.evaluate).stem
    with start_run("evaluate-prior", name, None, args.out, args.seed, device, inputs) as run_folder:
        progress = chain(
            cancel_listener(run_folder), tqdm_listener(disable=args.quiet or args.json)
        )
        numbers = evaluate_prior(
            prior, split, run_folder.previews, seed=args.seed, progress=progress
        )
        atomic_write_json(run_folder.outputs / "report.json", numbers)
        run_folder.finish(numbers)
    emit(args, {**numbers, "run": str(run_folder.path)}, _table(numbers, run_folder.path))
    return 0


def _table(numbers: dict[str, Any], folder: Path) -> str:
    errors = numbers["errors"]
    lines = [f"  {'sigma':<20}" + "".join(f"{level:>9}" for level in errors["prior"])]
    for name, by_level in errors.items():
        lines.append(f"  {name:<20}" + "".join(f"{1000 * e:9.2f}" for e in by_level.values()))
    warning = "" if numbers["is_held_out"] else "  not known to be maps it did not learn from\n"
    return (
        f"denoising error x1000 on {numbers['held_out_maps']} maps\n"
        + "\n".join(lines)
        + f"\n{warning}  distance to the nearest training map: samples "
        f"{numbers['sample_to_nearest_training_map']:.2f}, held-out maps "
        f"{numbers['held_out_to_nearest_training_map']:.2f}\n  pictures: {folder}"
    )


def _show(run_folder: Run, args: argparse.Namespace) -> int:
    import json

    metrics = json.loads((run_folder.path / "metrics.json").read_text(encoding="utf-8"))
    prior = run_folder.outputs / "prior.safetensors"
    payload: dict[str, Any] = {**metrics, "prior": str(prior), "run": str(run_folder.path)}
    errors = ", ".join(
        f"{name.removeprefix('error_')}: {1000 * value:.2f}"
        for name, value in metrics.items()
        if name.startswith("error_")
    )
    text = f"{prior}\n  denoising error x1000 by noise level: {errors}\n  run: {run_folder.path}"
    emit(args, payload, text)
    return 0
