"""Make procedural objects with their voxels and views: training data for image-to-3D.

  geo3d data objects --out DIR                          1000 objects, 8 views each
  geo3d data objects --out DIR --objects 4000 --seed 1 --workers 4
  geo3d data objects --out DIR --set views=24 --set view_size=128
  geo3d data objects --picture FILE.png                 draw some of every kind, make nothing

The same command continues a broken-off making.  See docs/objects.md.
"""

from __future__ import annotations

import argparse

from apps.commands import add_common, emit
from apps.commands.data import show_index
from apps.running import listener, require_flag, settings
from geo3d.threads import usable_cores


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``geo3d data objects``."""
    parser.add_argument("--objects", metavar="N", type=int, help="how many (default 1000)")
    parser.add_argument("--workers", metavar="N", type=int, help="processes (default: all cores)")
    parser.add_argument("--picture", metavar="FILE", help="draw a sheet of all kinds into FILE")
    add_common(parser, "config", "set", "seed", "out", "threads", "json", "quiet")


def run(args: argparse.Namespace) -> int:
    """Make or draw; exit code 5 when some shards could not be made."""
    if args.picture:
        from scenes.objects.data.views import draw_sheet

        path = draw_sheet(args.picture, seed=args.seed or 0)
        emit(args, {"picture": str(path)}, str(path))
        return 0
    out = require_flag(args, "out", "Name the folder of the data.")
    from scenes.objects.data.object_data import ObjectDataConfig, make_object_data

    config = settings(args, ObjectDataConfig, {"objects": args.objects})
    workers = args.workers or usable_cores()
    index = make_object_data(config, out, workers=workers, progress=listener(args))
    return show_index(args, index, "objects")
