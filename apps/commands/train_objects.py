"""Train the parts of the small image-to-3D pipeline, or put them together.

  geo3d objects-data --out objects --objects 5000
  geo3d train-objects --stage cells --objects objects --cells cells
  geo3d train-objects --stage structure --cells cells --work work
  geo3d train-objects --stage latent --cells cells --work work
  geo3d train-objects --stage mesh --cells cells --work work        (also: gaussian, picture)
  geo3d train-objects --stage latents --cells cells --work work
  geo3d train-objects --stage structure-flow --work work            (also: latent-flow,
                                                    structure-student, latent-student)
  geo3d train-objects --stage pipeline --work work --out DIR
  geo3d train-objects --stage sheet --objects HELD-OUT --model DIR --out FILE.png
  geo3d train-objects --stage curves --work work --out FILE.png

Every stage goes on where it was interrupted when it is given again.  Its networks, checkpoint and
curve lie in work/STAGE.  The flows are trained as by `geo3d distill work/latents/STAGE.yaml`.  See
assets/objects/README.md for the whole recipe.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apps.commands import add_common, emit

if TYPE_CHECKING:
    from geo3d.progress import ProgressCallback
    from scenes.objects.small.settings import StageConfig

AUTOENCODERS = ("structure", "latent", "mesh", "gaussian", "picture")
FLOWS = ("structure-flow", "latent-flow", "structure-student", "latent-student")
SHOWN = (0, 4, 8, 11, 14, 18, 19, 21, 24, 29, 30, 33)
"""Objects on the sheet."""
STAGES = ("cells", *AUTOENCODERS, "latents", *FLOWS, "pipeline", "sheet", "curves")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``geo3d train-objects``."""
    parser.add_argument("--stage", choices=STAGES, required=True, help="what to make")
    parser.add_argument("--objects", metavar="DIR", help="folder of geo3d objects-data")
    parser.add_argument("--cells", metavar="DIR", default="cells", help="folder of cells")
    parser.add_argument("--model", metavar="DIR", help="pipeline folder to draw objects of")
    parser.add_argument("--work", metavar="DIR", default="work", help="folder of all stages")
    parser.add_argument("--threads", metavar="N", type=int, help="CPU threads (default: all)")
    add_common(parser, "set", "seed", "out", "json", "quiet")


def run(args: argparse.Namespace) -> int:
    """Run one stage and print its numbers."""
    import torch

    if args.threads:
        torch.set_num_threads(args.threads)
    if args.stage == "cells":
        return _cells(args)
    if args.stage == "latents":
        return _latents(args)
    if args.stage == "pipeline":
        return _pipeline(args)
    if args.stage == "sheet":
        return _sheet(args)
    if args.stage == "curves":
        return _curves(args)
    numbers = _train(args)
    folder = Path(args.work) / args.stage
    text = ", ".join(f"{name} {value:.4g}" for name, value in numbers.items() if "bin" not in name)
    emit(args, {**numbers, "folder": str(folder)}, f"{folder}\n  {text}")
    return 0


def _cells(args: argparse.Namespace) -> int:
    from geo3d.errors import ConfigError
    from scenes.objects.small.cells import prepare_cells

    if not args.objects:
        raise ConfigError(
            "train_objects.no_folder", "There is no --objects.", "Name a folder of objects."
        )
    made = [str(path) for path in prepare_cells(args.objects, args.cells)]
    emit(args, {"files": made}, f"{len(made)} new files of cells: {args.cells}")
    return 0


def _latents(args: argparse.Namespace) -> int:
    from scenes.objects.small.cells import read_cells
    from scenes.objects.small.latents import write_latents

    out = write_latents(read_cells(args.cells), Path(args.work).resolve(), _listener(args))
    emit(args, {"folder": str(out)}, str(out))
    return 0


def _pipeline(args: argparse.Namespace) -> int:
    from geo3d.errors import ConfigError
    from scenes.objects.small.train import assemble

    if not args.out:
        raise ConfigError(
            "train_objects.no_folder", "There is no --out.", "Name the pipeline's folder."
        )
    written = [str(path) for path in assemble(Path(args.work), Path(args.out))]
    emit(args, {"files": written}, "\n".join(written))
    return 0


def _sheet(args: argparse.Namespace) -> int:
    from geo3d.errors import ConfigError
    from geo3d.files import asset
    from scenes.objects.small.sheet import draw_generated

    if not args.out or not args.objects:
        raise ConfigError(
            "train_objects.no_folder",
            "A sheet needs --objects and --out.",
            "Name a folder of objects nothing was trained on, and a PNG file.",
        )
    model = args.model or asset("objects/pipeline")
    path = draw_generated(args.objects, model, Path(args.out), SHOWN)
    emit(args, {"picture": str(path)}, str(path))
    return 0


def _curves(args: argparse.Namespace) -> int:
    from geo3d.errors import ConfigError
    from scenes.objects.small.curves import draw_curves

    if not args.out:
        raise ConfigError("train_objects.no_folder", "There is no --out.", "Name a PNG file.")
    path = draw_curves(args.work, (*AUTOENCODERS, *FLOWS), args.out)
    emit(args, {"picture": str(path)}, str(path))
    return 0


def _train(args: argparse.Namespace) -> dict[str, Any]:
    import json

    out = Path(args.work) / args.stage
    out.mkdir(parents=True, exist_ok=True)
    with (out / "metrics.jsonl").open("a", encoding="utf-8") as stream:

        def log(numbers: Any) -> None:
            stream.write(json.dumps(dict(numbers)) + "\n")
            stream.flush()

        if args.stage in AUTOENCODERS:
            from scenes.objects.small.train import train_stage

            return train_stage(_settings(args), out, log, _listener(args))
        from geo3d.config import load_config
        from scenes.objects.train_config import DistillConfig
        from scenes.objects.training import train

        path = Path(args.work) / "latents" / f"{args.stage}.yaml"
        config = load_config(DistillConfig, path, None, [f"seed={args.seed}", *args.set])
        folder = out / "outputs"
        return train(config, folder, device="cpu", log_metrics=log, progress=_listener(args))


def _settings(args: argparse.Namespace) -> StageConfig:
    from geo3d.config import load_config
    from scenes.objects.small.settings import StageConfig

    work = Path(args.work).resolve()
    given = [
        f"cells={Path(args.cells).resolve()}",
        f"structure={work / 'structure' / 'structure_encoder'}",
        f"latent={work / 'latent' / 'slat_encoder'}",
        f"seed={args.seed}",
    ]
    return load_config(StageConfig, None, args.stage, [*given, *args.set])


def _listener(args: argparse.Namespace) -> ProgressCallback:
    from geo3d.listeners import tqdm_listener

    return tqdm_listener(disable=args.quiet or args.json)
