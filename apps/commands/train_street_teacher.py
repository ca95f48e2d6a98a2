"""Train the small street teacher (UNet + ControlNet + style words).

geo3d data streets --out streets                     images of procedural streets
geo3d train street-teacher --data streets
geo3d train street-teacher --data streets --set steps=20000
geo3d train street-teacher --resume runs/train-street-teacher/RUN    go on after an interruption
geo3d train street-teacher --data held_out --evaluate assets/urban/teacher   measure and draw
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from apps.commands import RUN_FLAGS, add_common, emit, show_run
from apps.running import (
    Beginning,
    full_path,
    require_flag,
    require_folders,
    run_training,
    run_verb,
    settings,
)
from geo3d.files import atomic_write_json
from geo3d.progress import ProgressCallback
from geo3d.runs import Run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``geo3d train street-teacher``."""
    parser.add_argument("--data", metavar="DIR", help="folder of geo3d data streets")
    parser.add_argument("--evaluate", metavar="DIR", help="measure this teacher, train nothing")
    add_common(parser, *RUN_FLAGS)


def run(args: argparse.Namespace) -> int:
    """Train or measure."""
    require_folders(args.data, args.evaluate)
    if args.evaluate:
        return _evaluate(args)
    from scenes.urban.train_teacher import TeacherTrainingConfig, train_teacher

    cls, begin = TeacherTrainingConfig, partial(_begin, args)
    verb = "train-street-teacher"
    return run_training(args, verb, cls, begin, train_teacher, _show, "data")


def street_folder(args: argparse.Namespace) -> str:
    """Return the folder of images that a training is given.

    Raises:
        ConfigError: ``run.no_flag``.
    """
    return str(full_path(require_flag(args, "data", "Name a folder of `geo3d data streets`.")))


def _begin(args: argparse.Namespace) -> Beginning:
    from scenes.urban.street_data import load_street_data
    from scenes.urban.train_teacher import TeacherTrainingConfig

    config = settings(args, TeacherTrainingConfig, {"data": street_folder(args)}, preset="small")
    load_street_data(config.data)
    return Beginning(Path(config.data).name, config, [config.data])


def _evaluate(args: argparse.Namespace) -> int:
    from scenes.urban.street_data import load_street_data
    from scenes.urban.street_teacher import load_teacher
    from scenes.urban.teacher_report import draw_samples, evaluate_teacher, table

    folder, seed = street_folder(args), args.seed or 0
    teacher, data = load_teacher(args.evaluate), load_street_data(folder)

    def work(run: Run, progress: ProgressCallback) -> None:
        numbers = evaluate_teacher(teacher, data, seed=seed, progress=progress)
        atomic_write_json(run.outputs / "report.json", numbers)
        draw_samples(run.previews / "samples.png", teacher, data, seed=seed)
        run.finish(numbers)

    begun = Beginning(Path(folder).name, None, [folder, args.evaluate])
    done = run_verb(args, "evaluate-street-teacher", begun, work)
    show_run(args, done, f"{table(done.numbers)}\n{done.path}")
    return 0


def _show(args: argparse.Namespace, done: Run) -> None:
    teacher = done.outputs / "teacher"
    emit(args, {"teacher": str(teacher), "run": str(done.path)}, str(teacher))
