"""Make images of procedural streets with their labels, depths and styles.

  geo3d data streets --out streets                        8000 images
  geo3d data streets --out streets --images 20000 --workers 8
  geo3d data streets --out held-out --seed 1              streets that training never sees
  geo3d data streets --out large --set size=64            see StreetDataConfig for what can be set

The same command continues a broken-off making, or enlarges a folder.
"""

from __future__ import annotations

import argparse

from apps.commands import add_common
from apps.commands.data import show_index
from apps.running import listener, require_flag, settings
from geo3d.threads import usable_cores


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``geo3d data streets``."""
    parser.add_argument("--images", metavar="N", type=int, help="how many (default 8000)")
    parser.add_argument("--workers", metavar="N", type=int, help="processes (default: all cores)")
    add_common(parser, "config", "set", "seed", "out", "threads", "json", "quiet")


def run(args: argparse.Namespace) -> int:
    """Draw the images; exit code 5 when some shards could not be made."""
    out = require_flag(args, "out", "Name the folder of the data.")
    from scenes.urban.street_data import StreetDataConfig, make_street_data

    config = settings(args, StreetDataConfig, {"pictures": args.images})
    workers = args.workers or usable_cores()
    index = make_street_data(config, out, workers=workers, progress=listener(args))
    return show_index(args, {**index, "images": config.pictures}, "images")
