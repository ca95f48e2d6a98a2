"""Train the corrector, which mends the maps that the search finds, on generated creatures.

  geo3d train corrector --examples DIR --workers 2      make the examples, then train (an hour)
  geo3d train corrector --examples DIR --pairs 40 --set steps=200
  geo3d train corrector --resume runs/train-corrector/RUN

An interrupted making of examples is continued by the same command.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from apps.commands import add_common, show_run
from apps.running import Beginning, full_path, listener, require_flag, run_training, settings
from geo3d.runs import Run
from geo3d.threads import usable_cores


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``geo3d train corrector``."""
    parser.add_argument("--examples", metavar="DIR", help="folder of examples; made if missing")
    parser.add_argument("--pairs", metavar="N", type=int, help="how many examples")
    parser.add_argument("--workers", metavar="N", type=int, help="processes that make examples")
    add_common(parser, "config", "set", "seed", "out", "resume", "threads", "json", "quiet")


def run(args: argparse.Namespace) -> int:
    """Make examples, train in a run folder and print the numbers."""
    from shape_matching.corrector.training import CorrectorTrainingConfig, train_corrector

    def train(config: Any, out: Path, *, device: str, **how: Any) -> dict[str, Any]:
        return train_corrector(config, out, **how)

    begin = partial(_begin, args)
    cls, fixed = CorrectorTrainingConfig, "examples pairs"
    return run_training(args, "train-corrector", cls, begin, train, _show, fixed)


def _begin(args: argparse.Namespace) -> Beginning:
    from shape_matching.corrector.data import make_examples
    from shape_matching.corrector.training import CorrectorTrainingConfig

    given = {"examples": full_path(args.examples), "data.pairs": args.pairs}
    config = settings(args, CorrectorTrainingConfig, given)
    if not config.examples:
        require_flag(args, "examples", "Name a folder; it is made if it is missing.")
    workers = args.workers or usable_cores()
    make_examples(config.data, config.examples, workers=workers, progress=listener(args))
    return Beginning(Path(config.examples).name, config, [config.examples])


def _show(args: argparse.Namespace, done: Run) -> None:
    file, numbers = done.outputs / "corrector.safetensors", done.numbers
    text = (
        f"{file}\n  distance to the true maps of held-out pairs: "
        f"{numbers['distance_before']:.2f} as found, {numbers['distance_after']:.2f} corrected; "
        f"{numbers['share_better']:.0%} became better\n  run: {done.path}"
    )
    show_run(args, done, text, corrector=str(file))
