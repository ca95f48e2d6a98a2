"""Train a segmenter of mortar on TopoMortar's pictures, or on generated walls.

geo3d train-segmenter --preset smoke                      generated walls, seconds
geo3d train-segmenter --data topomortar --loss cl_dice    two cores, minutes (preset cpu)
geo3d train-segmenter --data topomortar --preset paper    the published protocol (needs a GPU)
geo3d train-segmenter --resume runs/train-segmenter/RUN   go on after an interruption
geo3d train-segmenter --data topomortar --evaluate FILE   measure a model on the test pictures
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apps.commands import add_common, emit

if TYPE_CHECKING:
    from geo3d.runs import Run
    from geo3d.segmentation.config import SegmentationConfig

_SETTINGS = {"labels": "data.labels", "size": "data.size", "loss": "loss", "framework": "framework"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``geo3d train-segmenter``."""
    parser.add_argument("--data", metavar="DIR", help="TopoMortar folder (default: drawn walls)")
    parser.add_argument("--evaluate", metavar="FILE", help="measure this model, train nothing")
    parser.add_argument("--labels", metavar="KIND", help="accurate, noisy or pseudo")
    parser.add_argument("--size", metavar="SIZE", help="large (50 pictures) or small (10)")
    parser.add_argument("--loss", metavar="NAME", help="loss, see docs (default ce_dice)")
    parser.add_argument("--framework", help="supervised, selfdistillation or randhue")
    parser.add_argument("--threads", metavar="N", type=int, help="CPU threads (default: all)")
    parser.add_argument(
        "--workers", metavar="N", type=int, default=0, help="processes that prepare pictures"
    )
    add_common(parser, "config", "preset", "set", "seed", "device", "out", "resume")
    add_common(parser, "json", "quiet")


def run(args: argparse.Namespace) -> int:
    """Train in a run folder and print the numbers."""
    import torch

    if args.threads:
        torch.set_num_threads(args.threads)
    if args.evaluate:
        return _evaluate(args)
    run_folder = _open(args) if args.resume else _start(args)
    if not run_folder.is_done:
        with run_folder:
            _train(run_folder, args)
    return _show(run_folder, args)


def _start(args: argparse.Namespace) -> Run:
    from geo3d.runs import start_run
    from geo3d.segmentation.data import open_dataset
    from geo3d.segmentation.train import find_loss

    config = _settings(args)
    # Looked at before the run folder is made, so that a slip leaves nothing behind.
    find_loss(config.loss)
    name = open_dataset(config.data).name
    inputs = [config.data.root] if config.data.root else []
    return start_run("train-segmenter", name, config, args.out, args.seed, args.device, inputs)


def _open(args: argparse.Namespace) -> Run:
    from geo3d.errors import ConfigError
    from geo3d.runs import open_run

    given = [args.data, args.config, args.preset, args.set, *(getattr(args, n) for n in _SETTINGS)]
    if any(given):
        raise ConfigError(
            "train_segmenter.resume_is_complete",
            "A resumed run has its settings already.",
            "Give --resume alone.",
        )
    return open_run(args.resume)


def _settings(args: argparse.Namespace) -> SegmentationConfig:
    from geo3d.config import load_config
    from geo3d.segmentation.config import SegmentationConfig

    given = [f"seed={args.seed}"]
    if args.data:
        given.append(f"data.root={Path(args.data).resolve()}")
    chosen = {key: getattr(args, flag) for flag, key in _SETTINGS.items()}
    given += [f"{key}={value}" for key, value in chosen.items() if value]
    preset = args.preset or ("cpu" if args.data or args.config else "smoke")
    return load_config(SegmentationConfig, args.config, preset, [*given, *args.set])


def _train(run_folder: Run, args: argparse.Namespace) -> None:
    from geo3d.listeners import cancel_listener, chain, tqdm_listener
    from geo3d.runs import read_metrics
    from geo3d.segmentation.config import SegmentationConfig
    from geo3d.segmentation.data import open_dataset
    from geo3d.segmentation.train import train_segmenter
    from geo3d.work.curves import plot_training

    progress = chain(cancel_listener(run_folder), tqdm_listener(disable=args.quiet or args.json))
    config = run_folder.load_config(SegmentationConfig)
    segmenter = train_segmenter(
        config,
        open_dataset(config.data),
        run_folder.outputs,
        device=run_folder.record["device"],
        workers=args.workers,
        log_metrics=run_folder.log_metrics,
        progress=progress,
    )
    plot_training(run_folder.previews / "training.png", read_metrics(run_folder.path))
    run_folder.finish({**segmenter.info["numbers"], "steps": segmenter.info["steps"]})


def _evaluate(args: argparse.Namespace) -> int:
    from geo3d.device import pick_device
    from geo3d.listeners import cancel_listener, chain, tqdm_listener
    from geo3d.runs import start_run
    from geo3d.segmentation.data import open_dataset
    from geo3d.segmentation.measures import evaluate_segmenter, write_measures
    from geo3d.segmentation.predict import load_segmenter

    device = str(pick_device(args.device))
    segmenter = load_segmenter(args.evaluate, device)
    dataset = open_dataset(_settings(args).data)
    inputs = [path for path in (args.data, args.evaluate) if path]
    name = f"{Path(args.evaluate).stem}-{dataset.name}"
    verb = "evaluate-segmenter"
    with start_run(verb, name, None, args.out, args.seed, device, inputs) as run_folder:
        progress = chain(
            cancel_listener(run_folder), tqdm_listener(disable=args.quiet or args.json)
        )
        means, measures = evaluate_segmenter(segmenter, dataset.test, progress)
        write_measures(measures, run_folder.outputs / "metrics.csv")
        run_folder.finish({"means": means, "missing_pictures": len(dataset.missing)})
    payload = {"means": means, "pictures": len(dataset.test), "run": str(run_folder.path)}
    emit(args, payload, f"{_table(means)}\n  {len(dataset.test)} pictures: {run_folder.path}")
    return 0


def _table(means: Mapping[str, Mapping[str, float]]) -> str:
    columns = ("Dice", "clDice", "HD95", "Betti0", "Betti1", "BettiMatching0", "BettiMatching1")
    lines = [f"{'':<12}" + "".join(f"{name:>16}" for name in columns)]
    for group, row in means.items():
        lines.append(f"{group:<12}" + "".join(f"{row[name]:16.3f}" for name in columns))
    return "\n".join(lines)


def _show(run_folder: Run, args: argparse.Namespace) -> int:
    import json

    metrics = json.loads((run_folder.path / "metrics.json").read_text(encoding="utf-8"))
    path = run_folder.outputs / "segmenter.safetensors"
    payload: dict[str, Any] = {**metrics, "segmenter": str(path), "run": str(run_folder.path)}
    numbers = ", ".join(
        f"{name.replace('_', ' ')} {metrics[name]:.3g}"
        for name in ("loss", "dice", "betti0_error", "betti1_error")
        if name in metrics
    )
    text = f"{path}\n  last loss, and means over validation pictures: {numbers}"
    emit(args, payload, f"{text}\n  run: {run_folder.path}")
    return 0
