"""Train the network that tells where on a body each vertex lies, on generated creatures.

  geo3d train anatomy --bodies DIR --workers 2      make the bodies, then train (half an hour)
  geo3d train anatomy --bodies DIR --creatures 40 --set steps=200
  geo3d train anatomy --resume runs/train-anatomy/RUN

An interrupted making of bodies is continued by the same command.
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
    """Add the flags of ``geo3d train anatomy``."""
    parser.add_argument("--bodies", metavar="DIR", help="folder of bodies; made if missing")
    parser.add_argument("--creatures", metavar="N", type=int, help="how many bodies")
    parser.add_argument("--workers", metavar="N", type=int, help="processes that make bodies")
    add_common(parser, "config", "set", "seed", "out", "resume", "threads", "json", "quiet")


def run(args: argparse.Namespace) -> int:
    """Make bodies, train in a run folder and print the numbers."""
    from shape_matching.anatomy.training import AnatomyTrainingConfig, train_anatomy

    def train(config: Any, out: Path, *, device: str, **how: Any) -> dict[str, Any]:
        return train_anatomy(config, out, **how)

    begin = partial(_begin, args)
    cls, fixed = AnatomyTrainingConfig, "bodies creatures"
    return run_training(args, "train-anatomy", cls, begin, train, _show, fixed)


def _begin(args: argparse.Namespace) -> Beginning:
    from shape_matching.anatomy.data import make_bodies
    from shape_matching.anatomy.training import AnatomyTrainingConfig

    given = {"bodies": full_path(args.bodies), "data.bodies": args.creatures}
    config = settings(args, AnatomyTrainingConfig, given)
    if not config.bodies:
        require_flag(args, "bodies", "Name a folder; it is made if it is missing.")
    workers = args.workers or usable_cores()
    make_bodies(config.data, config.bodies, workers=workers, progress=listener(args))
    return Beginning(Path(config.bodies).name, config, [config.bodies])


def _show(args: argparse.Namespace, done: Run) -> None:
    file, numbers = done.outputs / "anatomy.safetensors", done.numbers
    text = (
        f"{file}\n  distance x100 to the places of held-out bodies: mean "
        f"{numbers['gap_mean']:.1f}, median {numbers['gap_median']:.1f}\n  run: {done.path}"
    )
    show_run(args, done, text, anatomy=str(file))
