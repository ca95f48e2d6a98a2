"""Train the corrector, which mends the maps that the search finds, on generated creatures.

  geo3d train-corrector --examples DIR --workers 2      make the examples, then train (an hour)
  geo3d train-corrector --examples DIR --pairs 40 --set steps=200
  geo3d train-corrector --resume runs/train-corrector/RUN

An interrupted making of examples is continued by the same command.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apps.commands import add_common, emit

if TYPE_CHECKING:
    from geo3d.runs import Run
    from shape_matching.corrector.training import CorrectorTrainingConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``geo3d train-corrector``."""
    parser.add_argument("--examples", metavar="DIR", help="folder of examples; made if missing")
    parser.add_argument("--pairs", metavar="N", type=int, help="how many examples")
    parser.add_argument("--workers", metavar="N", type=int, help="processes that make examples")
    parser.add_argument("--threads", metavar="N", type=int, help="CPU threads (default: all)")
    add_common(parser, "config", "set", "seed", "out", "resume", "json", "quiet")


def run(args: argparse.Namespace) -> int:
    """Make examples, train in a run folder and print the numbers."""
    import torch

    if args.threads:
        torch.set_num_threads(args.threads)
    run_folder = _open(args) if args.resume else _start(args)
    if not run_folder.is_done:
        with run_folder:
            _train(run_folder, args)
    return _show(run_folder, args)


def _start(args: argparse.Namespace) -> Run:
    from geo3d.config import load_config
    from geo3d.errors import ConfigError
    from geo3d.runs import start_run
    from shape_matching.corrector.training import CorrectorTrainingConfig

    given = [f"seed={args.seed}"]
    if args.examples:
        given.append(f"examples={Path(args.examples).resolve()}")
    if args.pairs:
        given.append(f"data.pairs={args.pairs}")
    config = load_config(CorrectorTrainingConfig, args.config, None, [*given, *args.set])
    if not config.examples:
        raise ConfigError(
            "corrector_training.no_folder",
            "No folder of examples is named.",
            "Give --examples DIR.",
        )
    _examples(config, args)
    name = Path(config.examples).name
    return start_run("train-corrector", name, config, args.out, args.seed, "cpu", [config.examples])


def _open(args: argparse.Namespace) -> Run:
    from geo3d.errors import ConfigError
    from geo3d.runs import open_run

    if args.examples or args.config or args.set or args.pairs:
        raise ConfigError(
            "train_corrector.resume_is_complete",
            "A resumed run has its settings already.",
            "Give --resume alone.",
        )
    return open_run(args.resume)


def _examples(config: CorrectorTrainingConfig, args: argparse.Namespace) -> None:
    from geo3d.listeners import tqdm_listener
    from geo3d.threads import usable_cores
    from shape_matching.corrector.data import make_examples

    make_examples(
        config.data,
        config.examples,
        workers=args.workers or usable_cores(),
        progress=tqdm_listener(disable=args.quiet or args.json),
    )


def _train(run_folder: Run, args: argparse.Namespace) -> None:
    from geo3d.listeners import cancel_listener, chain, tqdm_listener
    from shape_matching.corrector.training import CorrectorTrainingConfig, train_corrector

    numbers = train_corrector(
        run_folder.load_config(CorrectorTrainingConfig),
        run_folder.outputs,
        log_metrics=run_folder.log_metrics,
        progress=chain(cancel_listener(run_folder), tqdm_listener(disable=args.quiet or args.json)),
    )
    run_folder.finish(numbers)


def _show(run_folder: Run, args: argparse.Namespace) -> int:
    import json

    metrics = json.loads((run_folder.path / "metrics.json").read_text(encoding="utf-8"))
    file = run_folder.outputs / "corrector.safetensors"
    payload: dict[str, Any] = {**metrics, "corrector": str(file), "run": str(run_folder.path)}
    text = (
        f"{file}\n  distance to the true maps of held-out pairs: "
        f"{metrics['distance_before']:.2f} as found, {metrics['distance_after']:.2f} corrected; "
        f"{metrics['share_better']:.0%} became better\n  run: {run_folder.path}"
    )
    emit(args, payload, text)
    return 0
