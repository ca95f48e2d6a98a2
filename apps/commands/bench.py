"""Time the building blocks on this machine.

  geo3d bench spectral              basis, ZoomOut and match beside pyFM; then 1k to 100k vertices
  geo3d bench spectral --part scaling --max-vertices 20000
  geo3d bench zero-shot             a pair with the prior, beside the published settings
  geo3d bench fuzz --cases 100000   mutated mesh files through the readers

Seconds are medians; on a shared machine quote the ratios.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from apps.commands import add_common, emit


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``geo3d bench``."""
    parser.add_argument("what", choices=("spectral", "zero-shot", "fuzz"), help="what to measure")
    parser.add_argument("--part", choices=("all", "compare", "scaling"), default="all")
    parser.add_argument("--vertices", type=int, default=5_000, help="size compared with pyFM")
    parser.add_argument("--max-vertices", type=int, default=100_000, help="largest size of scaling")
    parser.add_argument("--repeats", type=int, default=3, help="runs of which medians are taken")
    parser.add_argument("--cases", type=int, default=2_000, help="mutated files")
    add_common(parser, "seed", "out", "json", "quiet")


def run(args: argparse.Namespace) -> int:
    """Measure, print the tables, keep them in a run folder."""
    from geo3d.listeners import cancel_listener, chain, tqdm_listener
    from geo3d.runs import start_run

    with start_run("bench", args.what, None, args.out, args.seed, "cpu") as run_folder:
        progress = chain(
            cancel_listener(run_folder), tqdm_listener(disable=args.quiet or args.json)
        )
        measure = {"spectral": _spectral, "zero-shot": _zero_shot, "fuzz": _fuzz}[args.what]
        tables = measure(args, progress)
        run_folder.finish(tables)
    text = "\n\n".join(f"{name}\n{_table(rows)}" for name, rows in tables.items())
    emit(args, {**tables, "run": str(run_folder.path)}, f"{text}\n\nkept in {run_folder.path}")
    return 0


def _spectral(args: argparse.Namespace, progress: Any) -> dict[str, list[dict[str, Any]]]:
    from shape_matching.bench import SIZES, compare, scaling

    tables = {}
    if args.part != "scaling":
        tables[f"against pyFM, {args.vertices} vertices"] = compare(
            args.vertices, args.seed, args.repeats, progress
        )
    if args.part != "compare":
        sizes = tuple(size for size in SIZES if size <= args.max_vertices)
        tables["cost of a match by size"] = scaling(sizes, args.seed, progress)
    return tables


def _zero_shot(args: argparse.Namespace, progress: Any) -> dict[str, list[dict[str, Any]]]:
    from shape_matching.bench_zero_shot import bench_zero_shot

    rows = bench_zero_shot(args.vertices, args.seed, progress=progress)
    return {f"one pair, {args.vertices} vertices": rows}


def _fuzz(args: argparse.Namespace, progress: Any) -> dict[str, list[dict[str, Any]]]:
    from geo3d.mesh.fuzz import bench_fuzz

    return {"mutated mesh files": [bench_fuzz(args.cases, args.seed, progress=progress)]}


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    columns = list(rows[0])
    cells = [columns, *([_cell(row.get(name)) for name in columns] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    return "\n".join(
        "  " + "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip()
        for line in cells
    )


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
