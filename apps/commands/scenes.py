"""Build many street scenes: layouts x prompts x styles x seeds, from one YAML file.

  geo3d scenes batch.yaml                      see assets/urban/batch-example.yaml, docs/batch.md
  geo3d scenes batch.yaml --workers 2 --list   only tell what would be made
  geo3d scenes batch.yaml --engine slurm       one job of a cluster per scene
  geo3d scenes --resume runs/scenes/RUN        go on after an interruption
  geo3d scenes --resume runs/scenes/RUN --retry-failed

A scene that fails never stops the others.  The run folder holds a run folder per scene (items/),
one table (outputs/scenes.csv, .md, .json) and a contact sheet (previews/contact.png).  The exit
code is 3 when a scene failed.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apps.commands import add_common, emit

if TYPE_CHECKING:
    from geo3d.runs import Run
    from scenes.batch_plan import BatchConfig

FAILED = 3
"""Exit code when a scene could not be made."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``geo3d scenes``."""
    parser.add_argument("batch", metavar="BATCH.yaml", nargs="?", help="what to make")
    parser.add_argument("--workers", metavar="N", type=int, help="scenes at a time (default 1)")
    parser.add_argument(
        "--engine", choices=("local", "slurm"), help="this machine or a cluster (default local)"
    )
    parser.add_argument("--retries", metavar="N", type=int, help="further tries of a failed scene")
    parser.add_argument("--timeout", metavar="S", type=float, help="stop a scene after S seconds")
    parser.add_argument(
        "--retry-failed", action="store_true", help="with --resume: failed ones too"
    )
    parser.add_argument("--list", action="store_true", help="list the scenes and make nothing")
    add_common(parser, "preset", "set", "device", "out", "resume", "json", "quiet")
    parser.set_defaults(device=None)


def run(args: argparse.Namespace) -> int:
    """Make all scenes, print the summary; exit code 3 when one of them failed."""
    from geo3d.errors import ConfigError
    from scenes.batch_plan import expand

    if bool(args.batch) == bool(args.resume):
        raise ConfigError(
            "batch.no_file", "There is no batch file, or one beside --resume.", "Give one of both."
        )
    if args.list and args.batch:
        items = expand(_read(args))
        payload = {"items": [item.name for item in items]}
        emit(args, payload, "\n".join([*payload["items"], f"{len(items)} scenes"]))
        return 0
    run_folder, config = _open(args) if args.resume else _start(args)
    if not run_folder.is_done or args.retry_failed:
        with run_folder:
            _make(run_folder, config, args)
    return _show(run_folder, args)


def _read(args: argparse.Namespace) -> BatchConfig:
    from scenes.batch_plan import read_batch

    changes = {**_flags(args), **({"preset": args.preset} if args.preset else {})}
    return read_batch(args.batch, changes, args.set)


def _flags(args: argparse.Namespace) -> dict[str, Any]:
    names = ("workers", "engine", "retries", "timeout", "device")
    return {n: value for n in names if (value := getattr(args, n)) is not None}


def _start(args: argparse.Namespace) -> tuple[Run, BatchConfig]:
    from geo3d.runs import start_run

    config = _read(args)
    name = Path(args.batch).stem
    run_folder = start_run(
        "scenes", name, config, args.out, config.seeds[0], config.device, [args.batch]
    )
    return run_folder, config


def _open(args: argparse.Namespace) -> tuple[Run, BatchConfig]:
    from geo3d.errors import ConfigError
    from geo3d.runs import open_run
    from scenes.batch_plan import BatchConfig

    if args.preset or args.set:
        raise ConfigError(
            "batch.resume_is_complete",
            "A resumed batch has the settings of its scenes already.",
            "Start a new batch, or leave --preset and --set away.",
        )
    run_folder = open_run(args.resume, verify_inputs=False)
    return run_folder, replace(run_folder.load_config(BatchConfig), **_flags(args))


def _make(run_folder: Run, config: BatchConfig, args: argparse.Namespace) -> None:
    from geo3d.listeners import cancel_listener, chain, tqdm_listener
    from scenes.batch import run_batch

    progress = chain(cancel_listener(run_folder), tqdm_listener(disable=args.quiet or args.json))
    summary = run_batch(config, run_folder.path, retry_failed=args.retry_failed, progress=progress)
    run_folder.finish(summary)


def _show(run_folder: Run, args: argparse.Namespace) -> int:
    table = run_folder.outputs / "scenes.json"
    summary = json.loads(table.read_text("utf-8"))
    lines = [f"{row['item']}: [{row['code']}] {row['message']}" for row in summary["failures"]]
    lines.append(
        f"{summary['done']} of {summary['scenes']} scenes done, {summary['failed']} failed"
    )
    lines.append(f"table: {run_folder.outputs / 'scenes.md'}")
    lines.append(f"pictures: {run_folder.previews / 'contact.png'}")
    emit(args, {**summary, "run": str(run_folder.path)}, "\n".join(lines))
    return FAILED if summary["failed"] else 0
