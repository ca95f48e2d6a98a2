"""Make training data from nothing: ``geo3d data WHAT --help`` tells more about each.

The same command continues a broken-off making.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from apps.commands import add_parts, emit

PARTS = {
    "prior": "functional maps of generated shapes, for `geo3d train prior`",
    "objects": "procedural objects with voxels and views, for `geo3d train objects`",
    "streets": "images of procedural streets, for `geo3d train street-teacher`",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what can be made, each with its flags."""
    add_parts(parser, "data", PARTS)


def run(args: argparse.Namespace) -> int:
    """Make it."""
    return args.run_part(args)


def show_index(args: argparse.Namespace, index: Mapping[str, Any], what: str) -> int:
    """Print what a folder of ``what`` holds now; return 5 when shards could not be made."""
    payload = {name: index[name] for name in (what, "failures", "lost_shards") if name in index}
    lines = [f"{index[what]} {what} in {len(index['shards'])} shards: {args.out}"]
    lines += [f"  number {i} failed: {text}" for i, text in index.get("failures", {}).items()]
    lines += [f"  shard {i} is missing: {text}" for i, text in index["lost_shards"].items()]
    emit(args, {**payload, "folder": args.out}, "\n".join(lines))
    return 5 if index["lost_shards"] else 0
