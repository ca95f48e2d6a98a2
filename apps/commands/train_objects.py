"""Train the parts of the small image-to-3D pipeline, or put them together.

  geo3d data objects --out objects --objects 5000
  geo3d train objects --stage cells --objects objects --cells cells
  geo3d train objects --stage structure --cells cells --work work
  geo3d train objects --stage latent --cells cells --work work
  geo3d train objects --stage mesh --cells cells --work work        (also: gaussian, picture)
  geo3d train objects --stage latents --cells cells --work work
  geo3d train objects --stage structure-flow --work work            (also: latent-flow,
                                                    structure-student, latent-student)
  geo3d train objects --stage pipeline --work work --out DIR
  geo3d train objects --stage sheet --objects HELD-OUT --model DIR --out FILE.png
  geo3d train objects --stage known --objects objects --model DIR   (what images it knows)
  geo3d train objects --stage curves --work work --out FILE.png

Every stage goes on where it was interrupted when it is given again.  Its networks, checkpoint and
curve lie in work/STAGE.  The flows are trained as by `geo3d distill work/latents/STAGE.yaml`.  See
assets/objects/README.md for the whole recipe.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apps.commands import add_common, emit
from apps.running import full_path, listener, metrics_log, require_flag, require_folders, settings
from geo3d.config import load_config
from geo3d.files import asset

if TYPE_CHECKING:
    from scenes.objects.small.settings import StageConfig

AUTOENCODERS = ("structure", "latent", "mesh", "gaussian", "picture")
FLOWS = ("structure-flow", "latent-flow", "structure-student", "latent-student")
SHOWN = (0, 4, 8, 11, 14, 18, 19, 21, 24, 29, 30, 33)
"""Objects on the sheet."""
STAGES = ("cells", *AUTOENCODERS, "latents", *FLOWS, "pipeline", "known", "sheet", "curves")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``geo3d train objects``."""
    parser.add_argument("--stage", choices=STAGES, required=True, help="what to make")
    parser.add_argument("--objects", metavar="DIR", help="folder of geo3d data objects")
    parser.add_argument("--cells", metavar="DIR", default="cells", help="folder of cells")
    parser.add_argument("--model", metavar="DIR", help="pipeline folder to draw objects of")
    parser.add_argument("--work", metavar="DIR", default="work", help="folder of all stages")
    add_common(parser, "set", "seed", "out", "threads", "json", "quiet")


def run(args: argparse.Namespace) -> int:
    """Run one stage and print its numbers."""
    made = {
        "cells": _cells,
        "latents": _latents,
        "pipeline": _pipeline,
        "known": _known,
        "sheet": _sheet,
        "curves": _curves,
    }
    if args.stage in made:
        payload, text = made[args.stage](args)
    else:
        numbers, folder = _train(args), Path(args.work) / args.stage
        told = (f"{name} {value:.4g}" for name, value in numbers.items() if "bin" not in name)
        payload, text = {**numbers, "folder": str(folder)}, f"{folder}\n  {', '.join(told)}"
    emit(args, payload, text)
    return 0


def _cells(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    objects = require_flag(args, "objects", "Name a folder of objects.")
    require_folders(objects)
    from scenes.objects.small.cells import prepare_cells

    made = [str(path) for path in prepare_cells(objects, args.cells)]
    return {"files": made}, f"{len(made)} new files of cells: {args.cells}"


def _latents(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    from scenes.objects.small.cells import read_cells
    from scenes.objects.small.latents import write_latents
    from scenes.objects.small.settings import LatentsConfig

    config = load_config(LatentsConfig, overrides=args.set)
    work = Path(args.work).resolve()
    out = write_latents(read_cells(args.cells), work, listener(args), config)
    return {"folder": str(out)}, str(out)


def _pipeline(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    out = require_flag(args, "out", "Name the pipeline's folder.")
    from scenes.objects.small.train import assemble

    written = [str(path) for path in assemble(Path(args.work), Path(out))]
    return {"files": written}, "\n".join(written)


def _known(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    objects = require_flag(args, "objects", "Name the folder of objects it was trained on.")
    model = require_flag(args, "model", "Name the pipeline's folder.")
    require_folders(objects, model)
    from scenes.objects.familiar import learn_known

    path = learn_known(objects, model)
    return {"file": str(path)}, str(path)


def _sheet(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    out = require_flag(args, "out", "Name a PNG file.")
    objects = require_flag(args, "objects", "Name a folder of objects nothing was trained on.")
    require_folders(objects)
    from scenes.objects.small.sheet import draw_generated

    model = args.model or asset("objects/pipeline")
    path = draw_generated(objects, model, Path(out), SHOWN)
    return {"picture": str(path)}, str(path)


def _curves(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    out = require_flag(args, "out", "Name a PNG file.")
    from scenes.objects.small.curves import draw_curves

    path = draw_curves(args.work, (*AUTOENCODERS, *FLOWS), out)
    return {"picture": str(path)}, str(path)


def _train(args: argparse.Namespace) -> dict[str, Any]:
    out = Path(args.work) / args.stage
    out.mkdir(parents=True, exist_ok=True)
    log = metrics_log(out)
    if args.stage in AUTOENCODERS:
        from scenes.objects.small.train import train_stage

        return train_stage(_settings(args), out, log, listener(args))
    from scenes.objects.train_config import DistillConfig
    from scenes.objects.training import train

    path = Path(args.work) / "latents" / f"{args.stage}.yaml"
    config = load_config(DistillConfig, path, None, args.set, values={"seed": args.seed or 0})
    how: dict[str, Any] = {"log_metrics": log, "progress": listener(args)}
    return train(config, out / "outputs", device="cpu", **how)


def _settings(args: argparse.Namespace) -> StageConfig:
    from scenes.objects.small.settings import StageConfig

    work = Path(args.work).resolve()
    given = {
        "cells": full_path(args.cells),
        "latent": str(work / "latent" / "slat_encoder"),
    }
    return settings(args, StageConfig, given, preset=args.stage)
