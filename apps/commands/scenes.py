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
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apps.commands import add_common, emit
from apps.running import Beginning, require_files, run_verb, with_engine
from geo3d.errors import ConfigError
from geo3d.progress import ProgressCallback
from geo3d.runs import Run

if TYPE_CHECKING:
    from scenes.batch_plan import BatchConfig

FAILED = 3
"""Exit code when a scene could not be made."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``geo3d scenes``."""
    parser.add_argument("batch", metavar="BATCH.yaml", nargs="?", help="what to make")
    parser.add_argument("--workers", metavar="N", type=int, help="scenes at a time (default 1)")
    parser.add_argument("--retries", metavar="N", type=int, help="further tries of a failed scene")
    parser.add_argument("--timeout", metavar="S", type=float, help="stop a scene after S seconds")
    parser.add_argument(
        "--retry-failed", action="store_true", help="with --resume: failed ones too"
    )
    parser.add_argument("--list", action="store_true", help="list the scenes and make nothing")
    add_common(parser, "engine", "slurm", "preset", "set", "device", "out", "resume")
    add_common(parser, "threads", "json", "quiet")
    parser.set_defaults(device=None)


def run(args: argparse.Namespace) -> int:
    """Make all scenes, print the summary; exit code 3 when one of them failed."""
    if bool(args.batch) == bool(args.resume):
        raise ConfigError(
            "batch.no_file", "There is no batch file, or one beside --resume.", "Give one of both."
        )
    require_files(args.batch)
    if args.list and args.batch:
        from scenes.batch_plan import check_batch, expand

        config = _read(args)
        check_batch(config)
        items = expand(config)
        payload = {"items": [item.name for item in items]}
        emit(args, payload, "\n".join([*payload["items"], f"{len(items)} scenes"]))
        return 0
    begin, work = partial(_begin, args), partial(_make, args)
    done = run_verb(args, "scenes", begin, work, verify_inputs=False, redo=bool(args.retry_failed))
    return _show(done, args)


def _read(args: argparse.Namespace) -> BatchConfig:
    from scenes.batch_plan import read_batch

    changes = {**_flags(args), **({"preset": args.preset} if args.preset else {})}
    return with_engine(args, read_batch(args.batch, changes, args.set))


def _flags(args: argparse.Namespace) -> dict[str, Any]:
    names = ("retries", "timeout", "device")
    return {n: value for n in names if (value := getattr(args, n)) is not None}


def _begin(args: argparse.Namespace) -> Beginning:
    from scenes.batch_plan import check_batch

    config = _read(args)
    check_batch(config)
    name, seed = Path(args.batch).stem, config.seeds[0]
    return Beginning(name, config, [args.batch], seed=seed, device=config.device)


def _make(args: argparse.Namespace, run: Run, progress: ProgressCallback) -> None:
    from scenes.batch import run_batch
    from scenes.batch_plan import BatchConfig

    config = with_engine(args, replace(run.load_config(BatchConfig), **_flags(args)))
    run.finish(run_batch(config, run.path, retry_failed=args.retry_failed, progress=progress))


def _show(run_folder: Run, args: argparse.Namespace) -> int:
    table = run_folder.outputs / "scenes.json"
    summary = json.loads(table.read_text("utf-8"))
    lines = [f"{row['item']}: [{row['code']}] {row['message']}" for row in summary["failures"]]
    lines.append(
        f"{summary['done']} of {summary['scenes']} scenes done, {summary['failed']} failed"
    )
    lines.append(f"table: {run_folder.outputs / 'scenes.md'}")
    lines.append(f"images: {run_folder.previews / 'contact.png'}")
    emit(args, {**summary, "run": str(run_folder.path)}, "\n".join(lines))
    return FAILED if summary["failed"] else 0
