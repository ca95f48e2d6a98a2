"""Compare losses for segmentation: train, measure and tabulate a grid of runs.

  geo3d segment-bench --preset smoke                       seconds to minutes, on generated walls
  geo3d segment-bench --data topomortar --preset cpu --losses ce_dice cl_dice --workers 2
  geo3d segment-bench --resume runs/segment-bench/RUN      go on after an interruption
  geo3d segment-bench --tables FOLDER                      tables of per-image results that exist

FOLDER holds <framework>/<labels>/<size>/<Loss>/<seed>.csv, ours or the published ones.  The run
folder gets outputs/tables.md, tables.csv, significance.csv and tables.json; published numbers stand
in a table of their own.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apps.commands import add_common, emit

if TYPE_CHECKING:
    from geo3d.runs import Run
    from geo3d.segmentation.benchmark import BenchmarkConfig

NOTHING_MEASURED = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``geo3d segment-bench``."""
    parser.add_argument("--data", metavar="DIR", help="TopoMortar folder (default: drawn walls)")
    parser.add_argument("--losses", metavar="NAME", nargs="+", help="losses to compare")
    parser.add_argument("--seeds", metavar="N", type=int, help="trainings of each setting")
    parser.add_argument("--workers", metavar="N", type=int, help="runs at a time (default 1)")
    parser.add_argument("--tables", metavar="FOLDER", help="only tabulate the results in FOLDER")
    parser.add_argument("--groups", metavar="FILE", help="CSV ID,group, with --tables")
    parser.add_argument("--published", metavar="FILE", help="published numbers to print beside")
    parser.add_argument(
        "--compat", action="store_true", help="the published (one-sided) test, with --tables"
    )
    add_common(parser, "config", "preset", "set", "seed", "device", "out", "resume")
    add_common(parser, "json", "quiet")
    parser.set_defaults(seed=None, device=None)


def run(args: argparse.Namespace) -> int:
    """Run the grid or tabulate results; print the tables."""
    if args.tables:
        run_folder = _tabulate_only(args)
    else:
        run_folder = _open(args) if args.resume else _start(args)
        if not run_folder.is_done:
            with run_folder:
                _run_grid(run_folder, args)
    path = run_folder.outputs / "tables.json"
    metrics = json.loads((run_folder.path / "metrics.json").read_text(encoding="utf-8"))
    payload = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else metrics
    text = run_folder.outputs / "tables.md"
    shown = text.read_text(encoding="utf-8") if text.is_file() else _failed_text(metrics)
    emit(args, {**payload, "run": str(run_folder.path)}, f"{shown}\ntables: {run_folder.outputs}")
    return 0 if path.is_file() else NOTHING_MEASURED


def _tabulate_only(args: argparse.Namespace) -> Run:
    from geo3d.errors import ConfigError
    from geo3d.runs import start_run
    from geo3d.segmentation.benchmark import tabulate
    from geo3d.segmentation.significance import Procedure
    from geo3d.segmentation.tables import read_groups, read_published, read_results

    if args.resume or args.data or args.losses or args.config or args.preset:
        raise ConfigError(
            "segment_bench.tables_only",
            "With --tables nothing is trained.",
            "Give --tables with --groups, --published, --compat, --seed and --out only.",
        )
    # Read once before the run folder is made, so that a slip leaves nothing behind.
    read_results(args.tables)
    groups = read_groups(args.groups) if args.groups else None
    published = read_published(args.published) if args.published else []
    seed = args.seed or 0
    folder = Path(args.tables)
    run_folder = start_run("segment-bench", "tables", None, args.out, seed, "cpu", [folder])
    with run_folder:
        tables = tabulate(
            folder,
            run_folder.outputs,
            published=published,
            groups=groups,
            procedure=Procedure(seed=seed, compat=args.compat),
        )
        run_folder.finish({"numbers": len(tables["measured"])})
    return run_folder


def _start(args: argparse.Namespace) -> Run:
    from geo3d.errors import ConfigError
    from geo3d.runs import start_run
    from geo3d.segmentation.benchmark import grid, open_dataset
    from geo3d.segmentation.tables import read_published

    if args.groups or args.compat:
        raise ConfigError(
            "segment_bench.tables_flags", "--groups and --compat go with --tables.", ""
        )
    config = _settings(args)
    # Before the run folder is made, so that a slip leaves nothing behind.
    open_dataset(config, grid(config)[0].setting)
    if args.published:
        read_published(args.published)
    name = Path(config.data).name if config.data else "walls"
    inputs = [p for p in (config.data, args.published) if p]
    run_folder = start_run(
        "segment-bench", name, config, args.out, config.seed, config.device, inputs
    )
    return run_folder


def _settings(args: argparse.Namespace) -> BenchmarkConfig:
    from dataclasses import replace

    from geo3d.config import load_config
    from geo3d.segmentation.benchmark import BenchmarkConfig

    config = load_config(BenchmarkConfig, args.config, args.preset, args.set)
    given: dict[str, Any] = {
        name: getattr(args, name)
        for name in ("data", "losses", "seeds", "workers", "seed", "device")
        if getattr(args, name) is not None
    }
    if "losses" in given:
        given["losses"] = tuple(given["losses"])
    if given.get("data") or config.data:
        given["data"] = str(Path(given.get("data", config.data)).resolve())
    return replace(config, **given)


def _open(args: argparse.Namespace) -> Run:
    from geo3d.errors import ConfigError, InputError
    from geo3d.runs import open_run, run_state

    if args.data or args.losses or args.seeds or args.config or args.preset or args.set:
        raise ConfigError(
            "segment_bench.resume_is_complete",
            "A resumed run has its settings already.",
            "Give --resume with --workers and --published only.",
        )
    record = run_state(args.resume)["record"]
    if record["verb"] != "segment-bench" or record["name"] == "tables":
        raise InputError(
            "segment_bench.cannot_resume",
            f"{args.resume} is not a benchmark that can go on.",
            "Start it again.",
        )
    return open_run(args.resume)


def _run_grid(run_folder: Run, args: argparse.Namespace) -> None:
    from dataclasses import replace

    from geo3d.listeners import cancel_listener, chain, jsonl_listener, tqdm_listener
    from geo3d.segmentation.benchmark import (
        BenchmarkConfig,
        failures_of,
        grid,
        is_finished,
        published_beside,
        run_cells,
        tabulate,
        write_groups,
    )
    from geo3d.segmentation.significance import Procedure
    from geo3d.segmentation.tables import read_published

    config = run_folder.load_config(BenchmarkConfig)
    if args.workers:
        config = replace(config, workers=args.workers)
    progress = chain(
        cancel_listener(run_folder),
        jsonl_listener(run_folder.path / "progress.jsonl"),
        tqdm_listener(disable=args.quiet or args.json),
    )
    cells, folder = grid(config), run_folder.outputs
    write_groups(config, cells, folder)
    run_cells(config, cells, folder, progress)
    failures = failures_of(cells, folder)
    finished = sum(is_finished(cell, folder) for cell in cells)
    if finished:
        beside = read_published(args.published) if args.published else published_beside(config)
        tabulate(
            folder / "results",
            folder,
            published=beside,
            failures=failures,
            procedure=Procedure(seed=config.seed),
        )
    run_folder.finish({"runs": len(cells), "finished": finished, "failures": failures})


def _failed_text(metrics: dict[str, Any]) -> str:
    lines = [f"{f['cell']}: [{f['code']}] {f['message']}" for f in metrics["failures"]]
    return "\n".join(["No run has results.", *lines])
