"""Teach a segmenter of walls to say how probable it is that an image shows a wall at all.

  geo3d train wall-score --model segmenter.safetensors --data TOPOMORTAR

The segmenter must have the network lite0 (preset shipped).  The result is the same segmenter with
the score in its file.
"""

from __future__ import annotations

import argparse

from apps.commands import add_common, show_run
from apps.running import Beginning, require_files, require_flag, require_folders, run_verb
from geo3d.errors import ConfigError
from geo3d.progress import ProgressCallback
from geo3d.runs import Run

FILE = "segmenter.safetensors"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``geo3d train wall-score``."""
    parser.add_argument("--model", metavar="FILE", help="segmenter (default: the shipped one)")
    parser.add_argument("--data", metavar="FOLDER", help="TopoMortar, whose training images count")
    parser.add_argument(
        "--rounds", metavar="N", type=int, default=8, help="images of each drawn kind (default 8)"
    )
    add_common(parser, "seed", "device", "out", "threads", "json", "quiet")


def run(args: argparse.Namespace) -> int:
    """Fit the score in a run folder and print how good it is."""
    if not args.data:
        require_flag(args, "data", "Name the folder of TopoMortar.")
    require_folders(args.data)
    require_files(args.model)
    from geo3d.segmentation.data import read_topomortar
    from geo3d.segmentation.predict import load_segmenter, save_segmenter
    from geo3d.segmentation.train import load_samples
    from geo3d.segmentation.wall_training import train_wall_score

    segmenter = load_segmenter(args.model, args.device)
    if segmenter.config.network.kind != "lite0":
        raise ConfigError(
            "segmenter.no_encoder",
            "Only a segmenter with the network lite0 can learn to tell walls from other images.",
            "Train one: geo3d train segmenter --preset shipped.",
        )
    dataset = read_topomortar(args.data)

    def work(run: Run, progress: ProgressCallback) -> None:
        made, numbers = train_wall_score(
            segmenter,
            load_samples(dataset.train),
            rounds=args.rounds,
            seed=args.seed or 0,
            progress=progress,
        )
        save_segmenter(run.outputs / FILE, made)
        run.finish(numbers)

    begun = Beginning(dataset.name, None, [args.data, *([args.model] if args.model else [])])
    done = run_verb(args, "train-wall-score", begun, work)
    numbers, file = done.numbers, done.outputs / FILE
    text = (
        f"{file}\n  {numbers['walls']} walls, {numbers['others']} other images; on those kept "
        f"aside {numbers['others_recognised']:.1%} of the others recognised, "
        f"{numbers['walls_refused']:.1%} of the walls refused, calibration error "
        f"{numbers['calibration_error']:.3f}\n  run: {done.path}"
    )
    show_run(args, done, text, segmenter=str(file))
    return 0
