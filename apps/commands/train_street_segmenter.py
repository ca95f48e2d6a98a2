"""Train the segmenter that judges how well images of streets keep to their layout.

geo3d data streets --out streets                     images of procedural streets
geo3d train street-segmenter --data streets
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from apps.commands import add_common, show_run
from apps.commands.train_street_teacher import street_folder
from apps.running import Beginning, require_folders, run_training, settings
from geo3d.runs import Run

FILE = "segmenter.safetensors"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``geo3d train street-segmenter``."""
    parser.add_argument("--data", metavar="DIR", help="folder of geo3d data streets")
    add_common(parser, "config", "set", "seed", "out", "resume", "threads", "json", "quiet")


def run(args: argparse.Namespace) -> int:
    """Train in a run folder and print the score."""
    require_folders(args.data)
    from scenes.urban.street_data import load_street_data
    from scenes.urban.street_segmenter import SegmenterTrainingConfig, train_segmenter

    def begin() -> Beginning:
        config = settings(args, SegmenterTrainingConfig, {"data": street_folder(args)})
        load_street_data(config.data)
        return Beginning(Path(config.data).name, config, [config.data])

    def train(config: Any, out: Path, *, device: str, **how: Any) -> Mapping[str, Any]:
        return train_segmenter(config, out / FILE, **how)

    verb, cls = "train-street-segmenter", SegmenterTrainingConfig
    return run_training(args, verb, cls, begin, train, _show, "data")


def _show(args: argparse.Namespace, done: Run) -> None:
    file, numbers = done.outputs / FILE, done.numbers
    show_run(args, done, f"{file}: mIoU {numbers['miou']:.3f}", segmenter=str(file))
