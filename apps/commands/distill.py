"""Train a flow network of objects: a teacher, or a student that needs one or two steps.

  geo3d distill CONFIG                        settings in YAML (data, teacher, objective, ...)
  geo3d distill CONFIG --preset mdt           an objective by name, below the file's settings
  geo3d distill CONFIG --set steps=2000       override one setting
  geo3d distill --resume runs/distill/RUN     go on after an interruption, bit by bit

Guidance scales: 1 is none; w of TRELLIS and MDT-dist is the scale less 1 (their 40 is 41 here).
Presets: teacher, released, mdt, regression, cm, pcm, scm, meanflow, data_free, boot, dmd.
Several GPUs: torchrun --nproc-per-node N -m apps.cli distill ... (needs geo3d[distributed]).
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from apps.commands import RUN_FLAGS, add_common, show_run
from apps.running import Beginning, run_training, settings
from geo3d.runs import Run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``geo3d distill``."""
    parser.add_argument("config", metavar="CONFIG", nargs="?", help="YAML file with settings")
    add_common(parser, *(flag for flag in RUN_FLAGS if flag != "config"))


def run(args: argparse.Namespace) -> int:
    """Train in a run folder and print the final numbers."""
    from scenes.objects.train_config import DistillConfig
    from scenes.objects.training import train

    begin = partial(_begin, args)
    return run_training(args, "distill", DistillConfig, begin, train, _show)


def _begin(args: argparse.Namespace) -> Beginning:
    from scenes.objects.latent_folder import LatentFolder
    from scenes.objects.train_config import DistillConfig
    from scenes.objects.training import load_flow

    config = settings(args, DistillConfig)
    student, _ = load_flow(config)
    LatentFolder(config.data, type(student).__name__ == "SLatFlowModel")
    name = Path(args.config).stem if args.config else config.objective.kind
    inputs = [f"{stem}.safetensors" for stem in (config.teacher, config.student) if stem]
    return Beginning(name, config, inputs)


def _show(args: argparse.Namespace, done: Run) -> None:
    files = sorted(path.stem for path in done.outputs.glob("student*.json"))
    models = [str(done.outputs / stem) for stem in files]
    terms = ", ".join(
        f"{name} {value:.4g}"
        for name, value in done.numbers.items()
        if name.startswith("loss") and "bin" not in name
    )
    show_run(args, done, "\n".join([*models, f"  {terms}", f"  run: {done.path}"]), models=models)
