"""Compare losses for segmentation: train, measure and tabulate a grid of runs.

  geo3d bench segment --preset smoke                       seconds to minutes, on drawn walls
  geo3d bench segment --data FOLDER --preset cpu           your own images/ and masks/, or nnU-Net's
  geo3d bench segment --data FOLDER --losses ce_dice my_losses:my_loss
  geo3d bench segment --drawn walls vessels roads tubes --preset quick
  geo3d bench segment --data topomortar --preset cpu --losses ce_dice cl_dice --workers 2
  geo3d bench segment --resume runs/bench-segment/RUN      go on after an interruption
  geo3d bench segment --tables FOLDER                      tables of per-image results that exist

FOLDER holds <framework>/<labels>/<size>/<Loss>/<seed>.csv, ours or the published ones.  The run
folder gets outputs/tables.md, tables.csv, significance.csv and tables.json; published numbers stand
in a table of their own.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apps.commands import RUN_FLAGS, add_common, emit
from apps.running import (
    Beginning,
    full_path,
    require_files,
    require_folders,
    run_verb,
    settings,
    with_engine,
)
from geo3d.errors import ConfigError
from geo3d.progress import ProgressCallback
from geo3d.runs import Run

if TYPE_CHECKING:
    from geo3d.segmentation.grids import BenchmarkConfig, Cell
    from geo3d.segmentation.samples import Dataset

log = logging.getLogger(__name__)

NOTHING_MEASURED = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``geo3d bench segment``."""
    parser.add_argument("--data", metavar="DIR", help="images and masks (default: drawn ones)")
    parser.add_argument(
        "--drawn", metavar="KIND", nargs="+", help="walls, vessels, roads, tubes (default walls)"
    )
    parser.add_argument(
        "--losses", metavar="NAME", nargs="+", help="losses to compare, or package.module:function"
    )
    parser.add_argument(
        "--network", metavar="NAME", help="package.module:function that makes the network"
    )
    parser.add_argument("--seeds", metavar="N", type=int, help="trainings of each setting")
    parser.add_argument("--workers", metavar="N", type=int, help="runs at a time (default 1)")
    parser.add_argument("--tables", metavar="FOLDER", help="only tabulate the results in FOLDER")
    parser.add_argument("--groups", metavar="FILE", help="table ID,group of the images")
    parser.add_argument("--published", metavar="FILE", help="published numbers to print beside")
    parser.add_argument(
        "--compat", action="store_true", help="the published (one-sided) test, with --tables"
    )
    add_common(parser, "engine", "slurm", *RUN_FLAGS)
    parser.set_defaults(device=None)


def run(args: argparse.Namespace) -> int:
    """Run the grid or tabulate results; print the tables."""
    _check_flags(args)
    require_folders(args.data, args.tables)
    require_files(args.groups, args.published)
    if args.tables:
        begin, work = partial(_begin_tables, args), partial(_tabulate, args)
        done = run_verb(args, "bench-segment-tables", begin, work)
    else:
        opened: dict[str, Dataset] = {}
        begin, work = partial(_begin, args, opened), partial(_run_grid, args, opened)
        fixed = "data drawn losses network groups seeds"
        done = run_verb(args, "bench-segment", begin, work, fixed)
    path, text = done.outputs / "tables.json", done.outputs / "tables.md"
    payload = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else done.numbers
    shown = text.read_text(encoding="utf-8") if text.is_file() else _failed_text(done.numbers)
    emit(args, {**payload, "run": str(done.path)}, f"{shown}\ntables: {done.outputs}")
    return 0 if path.is_file() else NOTHING_MEASURED


def _begin_tables(args: argparse.Namespace) -> Beginning:
    from geo3d.segmentation.tables import read_groups, read_published, read_results

    # Read once before there is a run folder, so that a slip leaves nothing behind.
    read_results(args.tables)
    if args.groups:
        read_groups(args.groups)
    if args.published:
        read_published(args.published)
    return Beginning("tables", None, [args.tables], device="cpu")


def _tabulate(args: argparse.Namespace, run: Run, progress: ProgressCallback) -> None:
    from geo3d.segmentation.benchmark import tabulate
    from geo3d.segmentation.significance import Procedure
    from geo3d.segmentation.tables import read_groups, read_published

    tables = tabulate(
        Path(args.tables),
        run.outputs,
        published=read_published(args.published) if args.published else [],
        groups=read_groups(args.groups) if args.groups else None,
        procedure=Procedure(seed=args.seed or 0, compat=args.compat),
    )
    run.finish({"numbers": len(tables["measured"])})


def _begin(args: argparse.Namespace, opened: dict[str, Dataset]) -> Beginning:
    from geo3d.segmentation.benchmark import grid
    from geo3d.segmentation.tables import read_published

    config = _settings(args)
    _open(config, grid(config), opened)
    if args.published:
        read_published(args.published)
    name = Path(config.data).name if config.data else "-".join(config.drawn)
    inputs = [config.data, config.groups or None, args.published]
    return Beginning(name, config, inputs, device=config.device)


def _open(config: BenchmarkConfig, cells: Sequence[Cell], opened: dict[str, Dataset]) -> None:
    """Look at all images; say once what is unusual about them, for all trainings to come."""
    from geo3d.segmentation.benchmark import open_all
    from geo3d.segmentation.survey import check_items

    opened |= open_all(config, cells)
    if config.data:
        lines = dict.fromkeys(line for d in opened.values() for line in (d.notes or check_items(d)))
        for line in lines:
            log.warning("%s", line)


def _check_flags(args: argparse.Namespace) -> None:
    if args.tables and (args.resume or args.data or args.losses or args.config or args.preset):
        raise ConfigError(
            "segment_bench.tables_only",
            "With --tables nothing is trained.",
            "Give --tables with --groups, --published, --compat, --seed and --out only.",
        )
    if not args.tables and (args.compat or (args.groups and not args.data)):
        raise ConfigError(
            "segment_bench.tables_flags",
            "--compat goes with --tables, and --groups with --tables or --data.",
            "",
        )
    if args.data and args.drawn:
        raise ConfigError(
            "segment_bench.two_kinds", "--data and --drawn exclude each other.", "Give one of them."
        )


def _settings(args: argparse.Namespace) -> BenchmarkConfig:
    from dataclasses import replace

    from geo3d.segmentation.benchmark import BenchmarkConfig

    names = ("losses", "drawn", "seeds", "workers", "device")
    given = {name: getattr(args, name) for name in names}
    given |= {"data": full_path(args.data), "groups": full_path(args.groups)}
    given |= {"training.network.own": args.network}
    config = settings(args, BenchmarkConfig, given)
    paths = {"data": full_path(config.data) or "", "groups": full_path(config.groups) or ""}
    return with_engine(args, replace(config, **paths))


def _run_grid(
    args: argparse.Namespace,
    opened: dict[str, Dataset],
    run_folder: Run,
    progress: ProgressCallback,
) -> None:
    from geo3d.segmentation.benchmark import (
        BenchmarkConfig,
        failures_of,
        grid,
        is_finished,
        published_beside,
        run_cells,
        tabulate_kinds,
        write_groups,
    )
    from geo3d.segmentation.significance import Procedure
    from geo3d.segmentation.tables import read_published

    config = with_engine(args, run_folder.load_config(BenchmarkConfig))
    cells, folder = grid(config), run_folder.outputs
    if not opened and not all(is_finished(cell, folder) for cell in cells):
        _open(config, cells, opened)
    if opened:
        write_groups(config, cells, folder, opened)
    run_cells(config, cells, folder, progress, opened)
    failures = failures_of(cells, folder)
    finished = sum(is_finished(cell, folder) for cell in cells)
    if finished:
        beside = read_published(args.published) if args.published else published_beside(config)
        tabulate_kinds(
            cells,
            folder,
            published=beside,
            failures=failures,
            procedure=Procedure(seed=config.seed),
        )
    run_folder.finish({"runs": len(cells), "finished": finished, "failures": failures})


def _failed_text(metrics: dict[str, Any]) -> str:
    lines = [f"{f['cell']}: [{f['code']}] {f['message']}" for f in metrics["failures"]]
    return "\n".join(["No run has results.", *lines])
