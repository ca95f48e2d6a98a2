"""Make procedural objects with their voxels and views: training data for image-to-3D.

  geo3d objects-data --out DIR                          1000 objects, 8 views each
  geo3d objects-data --out DIR --objects 4000 --seed 1 --workers 4
  geo3d objects-data --out DIR --set views=24 --set view_size=128
  geo3d objects-data --picture FILE.png                 draw some of every kind, make nothing

The same command continues a broken-off run.  See docs/objects.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from apps.commands import add_common, emit


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``geo3d objects-data``."""
    parser.add_argument("--objects", metavar="N", type=int, help="how many (default 1000)")
    parser.add_argument("--workers", metavar="N", type=int, help="processes (default: all cores)")
    parser.add_argument("--picture", metavar="FILE", help="draw a sheet of all kinds into FILE")
    add_common(parser, "config", "set", "seed", "out", "json", "quiet")


def run(args: argparse.Namespace) -> int:
    """Make or draw; exit code 5 when some shards could not be made."""
    from geo3d.errors import ConfigError

    if args.picture:
        from scenes.objects.data.views import draw_sheet

        path = draw_sheet(args.picture, seed=args.seed)
        emit(args, {"picture": str(path)}, str(path))
        return 0
    if not args.out:
        raise ConfigError(
            "objects_data.no_out", "There is no --out.", "Name the folder of the objects."
        )
    index = _make(args)
    payload = {name: index[name] for name in ("objects", "failures", "lost_shards")}
    emit(args, {**payload, "folder": args.out}, _text(index, args.out))
    return 5 if index["lost_shards"] else 0


def _make(args: argparse.Namespace) -> dict[str, Any]:
    from geo3d.config import load_config
    from geo3d.listeners import tqdm_listener
    from geo3d.threads import usable_cores
    from scenes.objects.data.object_data import ObjectDataConfig, make_object_data

    given = [(name, getattr(args, name)) for name in ("objects", "seed")]
    overrides = [*args.set, *(f"{name}={value}" for name, value in given if value)]
    config = load_config(ObjectDataConfig, args.config, None, overrides)
    listener = tqdm_listener(disable=args.quiet or args.json)
    workers = args.workers or usable_cores()
    return make_object_data(config, args.out, workers=workers, progress=listener)


def _text(index: Mapping[str, Any], folder: str) -> str:
    lines = [f"{index['objects']} objects in {len(index['shards'])} shards: {folder}"]
    lines += [f"  object {i} failed: {text}" for i, text in index["failures"].items()]
    lines += [f"  shard {i} is missing: {text}" for i, text in index["lost_shards"].items()]
    return "\n".join(lines)
