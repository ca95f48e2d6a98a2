"""Make the maps a spectral prior is trained on, from generated shapes; no scan is needed.

  geo3d prior-data --out DIR                           1500 families of shapes, 30,000 maps
  geo3d prior-data --out DIR --creatures 100 --seed 1 --workers 4
  geo3d prior-data --out DIR --set relatives=0.3       see PriorDataConfig for what can be set

The same command continues a broken-off run.  See docs/prior-data.md.
"""

from __future__ import annotations

import argparse
from typing import Any

from apps.commands import add_common, emit


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``geo3d prior-data``."""
    parser.add_argument("--creatures", metavar="N", type=int, help="families (default 1500)")
    parser.add_argument("--workers", metavar="N", type=int, help="processes (default: all cores)")
    add_common(parser, "config", "set", "seed", "out", "json", "quiet")


def run(args: argparse.Namespace) -> int:
    """Make the maps; exit code 5 when some shards could not be made."""
    from geo3d.errors import ConfigError

    if not args.out:
        raise ConfigError("prior_data.no_out", "There is no --out.", "Name a folder for the maps.")
    from geo3d.config import load_config
    from geo3d.listeners import tqdm_listener
    from shape_matching.pool import available_cores
    from shape_matching.prior_data import PriorDataConfig, make_prior_data

    given = [f"seed={args.seed}"] if args.seed else []
    given += [f"creatures={args.creatures}"] if args.creatures is not None else []
    config = load_config(PriorDataConfig, args.config, None, (*args.set, *given))
    index = make_prior_data(
        config,
        args.out,
        workers=args.workers or available_cores(),
        progress=tqdm_listener(disable=args.quiet or args.json),
    )
    emit(args, {**_counts(index), "folder": args.out}, _text(index, args.out))
    return 5 if index["lost_shards"] else 0


def _counts(index: dict[str, Any]) -> dict[str, Any]:
    names = ("maps", "failures", "lost_shards")
    return {name: index[name] for name in names} | {"shards": len(index["shards"])}


def _text(index: dict[str, Any], folder: str) -> str:
    lines = [f"{index['maps']} maps in {len(index['shards'])} shards: {folder}"]
    lines += [f"  creature {i} failed: {text}" for i, text in index["failures"].items()]
    lines += [f"  shard {i} is missing: {text}" for i, text in index["lost_shards"].items()]
    return "\n".join(lines)
