"""Train the model that says how probable a map is right, from maps whose truth is known.

  geo3d train confidence --outcomes DIR --workers 2     make the outcomes, then train (an hour)
  geo3d train confidence --outcomes DIR --pairs 40 --set steps=300
  geo3d train confidence --resume runs/train-confidence/RUN

An interrupted making of outcomes is continued by the same command.
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
    """Add the flags of ``geo3d train confidence``."""
    parser.add_argument("--outcomes", metavar="DIR", help="folder of outcomes; made if missing")
    parser.add_argument("--pairs", metavar="N", type=int, help="how many pairs")
    parser.add_argument("--workers", metavar="N", type=int, help="processes that make outcomes")
    add_common(parser, "config", "set", "seed", "out", "resume", "threads", "json", "quiet")


def run(args: argparse.Namespace) -> int:
    """Make outcomes, train in a run folder and print the numbers."""
    from shape_matching.confidence.training import ConfidenceTrainingConfig, train_confidence

    def train(config: Any, out: Path, *, device: str, **how: Any) -> dict[str, Any]:
        return train_confidence(config, out, **how)

    begin = partial(_begin, args)
    cls, fixed = ConfidenceTrainingConfig, "outcomes pairs"
    return run_training(args, "train-confidence", cls, begin, train, _show, fixed)


def _begin(args: argparse.Namespace) -> Beginning:
    from shape_matching.confidence.data import make_outcomes
    from shape_matching.confidence.training import ConfidenceTrainingConfig

    given = {"outcomes": full_path(args.outcomes), "data.pairs": args.pairs}
    config = settings(args, ConfidenceTrainingConfig, given)
    if not config.outcomes:
        require_flag(args, "outcomes", "Name a folder; it is made if it is missing.")
    workers = args.workers or usable_cores()
    make_outcomes(config.data, config.outcomes, workers=workers, progress=listener(args))
    return Beginning(Path(config.outcomes).name, config, [config.outcomes])


def _show(args: argparse.Namespace, done: Run) -> None:
    file, numbers = done.outputs / "confidence.safetensors", done.numbers
    text = (
        f"{file}\n  maps kept aside: {numbers['maps']}, of which {numbers['maps_right']:.0%} are "
        f"right; area under ROC {numbers['maps_auc']:.3f}, {numbers['wrong_flagged']:.0%} of the "
        f"wrong ones flagged, {numbers['false_alarms']:.0%} of the right ones\n  vertices: area "
        f"under ROC {numbers['vertex_auc']:.3f}, calibration error "
        f"{numbers['vertex_calibration_error']:.3f}\n  run: {done.path}"
    )
    show_run(args, done, text, confidence=str(file))
