"""Train the small street teacher (UNet + ControlNet + style words), and a segmenter that judges it.

  geo3d train-street-teacher --data streets                  make pictures if there are none, train
  geo3d train-street-teacher --data streets --pictures 20000 --workers 8 --set steps=20000
  geo3d train-street-teacher --resume runs/train-street-teacher/RUN    go on after an interruption
  geo3d train-street-teacher --data streets --segmenter      train the segmenter instead
  geo3d train-street-teacher --data held_out --evaluate assets/urban/teacher   measure and draw

The pictures are of procedural streets, see geo3d/synth/streets/painter.py; --data-seed 1 makes
streets that training never sees.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apps.commands import add_common, emit

if TYPE_CHECKING:
    from geo3d.runs import Run
    from scenes.urban.train_teacher import TeacherTrainingConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``geo3d train-street-teacher``."""
    parser.add_argument("--data", metavar="DIR", help="folder of pictures; made if it is not there")
    parser.add_argument("--pictures", metavar="N", type=int, help="how many to make (8000)")
    parser.add_argument("--data-seed", metavar="N", type=int, default=0, help="of the pictures (0)")
    parser.add_argument("--workers", metavar="N", type=int, default=1, help="processes that draw")
    parser.add_argument("--threads", metavar="N", type=int, help="CPU threads (default: all)")
    parser.add_argument("--segmenter", action="store_true", help="train the segmenter instead")
    parser.add_argument("--evaluate", metavar="DIR", help="measure this teacher, train nothing")
    add_common(parser, "config", "preset", "set", "seed", "device", "out", "resume")
    add_common(parser, "json", "quiet")


def run(args: argparse.Namespace) -> int:
    """Make pictures where there are none, then train or measure."""
    import torch

    if args.threads:
        torch.set_num_threads(args.threads)
    if args.segmenter or args.evaluate:
        _make_data(args, None)
        return _train_segmenter(args) if args.segmenter else _evaluate(args)
    run_folder = _open(args) if args.resume else _start(args)
    if not run_folder.is_done:
        with run_folder:
            _train(run_folder, args)
    teacher = run_folder.outputs / "teacher"
    emit(args, {"teacher": str(teacher), "run": str(run_folder.path)}, str(teacher))
    return 0


def _start(args: argparse.Namespace) -> Run:
    from geo3d.runs import start_run

    config = _settings(args)
    _make_data(args, config.network.size)
    name = Path(config.data).name
    verb = "train-street-teacher"
    return start_run(verb, name, config, args.out, args.seed, args.device, [config.data])


def _open(args: argparse.Namespace) -> Run:
    from geo3d.errors import ConfigError
    from geo3d.runs import open_run

    if args.data or args.config or args.preset or args.set:
        raise ConfigError(
            "train_street_teacher.resume_is_complete",
            "A resumed run has its settings already.",
            "Give --resume alone.",
        )
    return open_run(args.resume)


def _settings(args: argparse.Namespace) -> TeacherTrainingConfig:
    from geo3d.config import load_config
    from scenes.urban.train_teacher import TeacherTrainingConfig

    given = [f"seed={args.seed}", f"data={_data(args)}"]
    preset = args.preset or "small"
    return load_config(TeacherTrainingConfig, args.config, preset, [*given, *args.set])


def _data(args: argparse.Namespace) -> Path:
    from geo3d.errors import ConfigError

    if not args.data:
        raise ConfigError(
            "train_street_teacher.no_data",
            "There is no --data.",
            "Name the folder of the pictures; they are made there if it is empty.",
        )
    return Path(args.data).resolve()


def _make_data(args: argparse.Namespace, size: int | None) -> None:
    """Make the pictures, unless the folder has them already and no number is asked for."""
    from geo3d.work.shards import INDEX
    from scenes.urban.street_data import StreetDataConfig, make_street_data

    folder = _data(args)
    if (folder / INDEX).is_file() and not args.pictures:
        return
    usual = StreetDataConfig()
    config = StreetDataConfig(args.pictures or usual.pictures, args.data_seed, size or usual.size)
    make_street_data(config, folder, workers=args.workers, progress=_listener(args))


def _train(run_folder: Run, args: argparse.Namespace) -> None:
    from geo3d.listeners import cancel_listener, chain
    from geo3d.runs import read_metrics
    from geo3d.work.curves import plot_training
    from scenes.urban.train_teacher import TeacherTrainingConfig, train_teacher

    numbers = train_teacher(
        run_folder.load_config(TeacherTrainingConfig),
        run_folder.outputs,
        device=run_folder.record["device"],
        log_metrics=run_folder.log_metrics,
        progress=chain(cancel_listener(run_folder), _listener(args)),
    )
    plot_training(run_folder.previews / "training.png", read_metrics(run_folder.path))
    run_folder.finish(numbers)


def _train_segmenter(args: argparse.Namespace) -> int:
    from scenes.urban.street_segmenter import SegmenterTrainingConfig, train_segmenter

    folder = Path(args.out or "runs/street-segmenter")
    config = SegmenterTrainingConfig(data=str(_data(args)), seed=args.seed)
    numbers = train_segmenter(config, folder / "segmenter.safetensors", progress=_listener(args))
    emit(args, numbers, f"{folder / 'segmenter.safetensors'}: mIoU {numbers['miou']:.3f}")
    return 0


def _evaluate(args: argparse.Namespace) -> int:
    from geo3d.files import atomic_write_json
    from scenes.urban.street_data import load_street_data
    from scenes.urban.street_teacher import load_teacher
    from scenes.urban.teacher_report import draw_samples, evaluate_teacher, table

    teacher, data = load_teacher(args.evaluate), load_street_data(_data(args))
    folder = Path(args.out or "runs/street-teacher-report")
    numbers = evaluate_teacher(teacher, data, seed=args.seed, progress=_listener(args))
    atomic_write_json(folder / "report.json", numbers)
    draw_samples(folder / "samples.png", teacher, data, seed=args.seed)
    emit(args, {**numbers, "folder": str(folder)}, f"{table(numbers)}\n{folder}")
    return 0


def _listener(args: argparse.Namespace) -> Any:
    from geo3d.listeners import tqdm_listener

    return tqdm_listener(disable=args.quiet or args.json)
