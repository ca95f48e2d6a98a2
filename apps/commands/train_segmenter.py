"""Train a segmenter on images and masks of your own, TopoMortar's, or drawn walls.

geo3d train segmenter --preset smoke                      drawn walls, seconds
geo3d train segmenter --data FOLDER                       images/ and masks/, nnU-Net's or DRIVE's
geo3d train segmenter --data FOLDER --loss my_losses:my_loss --network my_nets:Net
geo3d train segmenter --data topomortar --loss cl_dice    two cores, minutes (preset cpu)
geo3d train segmenter --data topomortar --preset paper    the published protocol (needs a GPU)
geo3d train segmenter --resume runs/train-segmenter/RUN   go on after an interruption
geo3d train segmenter --data topomortar --evaluate FILE   measure a model on the test images
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apps.commands import RUN_FLAGS, add_common, emit, show_run
from apps.running import (
    Beginning,
    full_path,
    require_files,
    require_folders,
    run_training,
    run_verb,
    settings,
)
from geo3d.progress import ProgressCallback
from geo3d.runs import Run
from geo3d.work.tables import aligned

if TYPE_CHECKING:
    from geo3d.segmentation.config import SegmentationConfig

log = logging.getLogger(__name__)
_SETTINGS = {
    "labels": "data.labels",
    "size": "data.size",
    "loss": "loss",
    "framework": "framework",
    "network": "network.own",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``geo3d train segmenter``."""
    parser.add_argument("--data", metavar="DIR", help="images and masks (default: drawn walls)")
    parser.add_argument("--groups", metavar="FILE", help="table ID,group of the images")
    parser.add_argument("--evaluate", metavar="FILE", help="measure this model, train nothing")
    parser.add_argument("--labels", metavar="KIND", help="accurate, noisy or pseudo")
    parser.add_argument("--size", metavar="SIZE", help="large (50 images) or small (10)")
    parser.add_argument(
        "--loss", metavar="NAME", help="loss (default ce_dice), or package.module:function"
    )
    parser.add_argument(
        "--network", metavar="NAME", help="package.module:function that makes the network"
    )
    parser.add_argument("--framework", help="supervised, selfdistillation or randhue")
    parser.add_argument(
        "--workers", metavar="N", type=int, default=0, help="processes that prepare images"
    )
    add_common(parser, *RUN_FLAGS)


def run(args: argparse.Namespace) -> int:
    """Train in a run folder and print the numbers."""
    require_folders(args.data)
    require_files(args.evaluate, args.groups)
    if args.evaluate:
        return _evaluate(args)
    from geo3d.segmentation.config import SegmentationConfig
    from geo3d.segmentation.data import open_dataset
    from geo3d.segmentation.train import train_segmenter

    def train(config: SegmentationConfig, out: Path, **how: Any) -> dict[str, Any]:
        dataset = open_dataset(config.data)
        info = train_segmenter(config, dataset, out, workers=args.workers, **how).info
        return {**info["numbers"], "steps": info["steps"]}

    cls, begin, fixed = (
        SegmentationConfig,
        partial(_begin, args),
        " ".join(("data", "groups", *_SETTINGS)),
    )
    return run_training(args, "train-segmenter", cls, begin, train, _show, fixed)


def _begin(args: argparse.Namespace) -> Beginning:
    from geo3d.segmentation.data import open_dataset
    from geo3d.segmentation.train import find_loss

    config = _settings(args)
    dataset = open_dataset(config.data)
    find_loss(config.loss, dataset.kind.dimensions)
    for line in dataset.notes:
        log.warning("%s", line)
    return Beginning(dataset.name, config, [config.data.root, config.data.groups or None])


def _settings(args: argparse.Namespace) -> SegmentationConfig:
    from geo3d.segmentation.config import SegmentationConfig

    given = {key: getattr(args, flag) for flag, key in _SETTINGS.items()}
    given["data.root"], given["data.groups"] = full_path(args.data), full_path(args.groups)
    usual = "cpu" if args.data or args.config else "smoke"
    return settings(args, SegmentationConfig, given, usual)


def _evaluate(args: argparse.Namespace) -> int:
    from geo3d.device import pick_device
    from geo3d.segmentation.data import open_dataset
    from geo3d.segmentation.measures import check_kind, evaluate_segmenter, write_measures
    from geo3d.segmentation.predict import load_segmenter

    segmenter = load_segmenter(args.evaluate, str(pick_device(args.device)), args.network or "")
    dataset = open_dataset(_settings(args).data)
    check_kind(segmenter, dataset)

    def work(run: Run, progress: ProgressCallback) -> None:
        means, measures = evaluate_segmenter(segmenter, dataset.test, progress)
        write_measures(measures, run.outputs / "metrics.csv")
        run.finish({"means": means, "missing_pictures": len(dataset.missing)})

    name = f"{Path(args.evaluate).stem}-{dataset.name}"
    begun = Beginning(name, None, [args.data, args.evaluate])
    done = run_verb(args, "evaluate-segmenter", begun, work)
    means, count = done.numbers["means"], len(dataset.test)
    payload = {"means": means, "pictures": count, "run": str(done.path)}
    emit(args, payload, f"{_table(means)}\n  {count} images: {done.path}")
    return 0


def _table(means: Mapping[str, Mapping[str, float]]) -> str:
    columns = ("Dice", "clDice", "HD95", "Betti0", "Betti1", "BettiMatching0", "BettiMatching1")
    rows = [[group, *(f"{row[name]:.3f}" for name in columns)] for group, row in means.items()]
    return aligned(("group", *columns), rows)


def _show(args: argparse.Namespace, done: Run) -> None:
    path, metrics = done.outputs / "segmenter.safetensors", done.numbers
    numbers = ", ".join(
        f"{name.replace('_', ' ')} {metrics[name]:.3g}"
        for name in ("loss", "dice", "betti0_error", "betti1_error")
        if name in metrics
    )
    text = f"{path}\n  last loss, and means over validation images: {numbers}"
    show_run(args, done, f"{text}\n  run: {done.path}", segmenter=str(path))
