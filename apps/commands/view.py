"""Show a run: its pictures, shapes in 3D, numbers, settings and command, as one HTML file.

  geo3d view runs/match/RUN                     writes a temporary file and says where
  geo3d view runs/match/RUN --open              and opens it in a browser
  geo3d view RUN --html result.html             a file to keep or to send; it needs no network
  geo3d view RUN_A RUN_B --html both.html       two runs, or more, side by side

RUN is the folder of any run: match, scene, scenes, generate, segment, evaluate, bench, train; also
of one that failed or still goes on.  Large shapes are simplified and pictures made smaller: the
file stays below 15 MB.  See docs/view.md.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from apps.commands import add_common, emit
from geo3d.errors import InputError
from geo3d.files import atomic_write_text

MOST_RUNS = 12


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``geo3d view``."""
    parser.add_argument("runs", metavar="RUN", nargs="+", help="run folder")
    parser.add_argument("--html", metavar="FILE", help="where to write the page")
    parser.add_argument("--open", action="store_true", help="open the page in a browser")
    add_common(parser, "json")


def run(args: argparse.Namespace) -> int:
    """Write the page and say where."""
    from apps.report.page import page
    from apps.report.records import read_record

    if len(args.runs) > MOST_RUNS:
        raise InputError(
            "view.too_many", f"{len(args.runs)} runs are too many.", f"Show {MOST_RUNS} at most."
        )
    records = [read_record(folder) for folder in args.runs]
    file = Path(args.html) if args.html else _temporary(records[0].folder.name)
    if file.is_dir():
        raise InputError("view.is_folder", f"{file} is a folder.", "Name a file: --html FILE")
    path = atomic_write_text(file, page(records)).resolve()
    if args.open:
        import webbrowser

        webbrowser.open(path.as_uri())
    payload = {"html": str(path), "bytes": path.stat().st_size}
    emit(args, payload, f"page: {path} ({path.stat().st_size / 1e6:.1f} MB)")
    return 0


def _temporary(name: str) -> Path:
    return Path(tempfile.mkdtemp(prefix="geo3d-view-")) / f"{name}.html"
