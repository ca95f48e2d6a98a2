"""Make the maps a spectral prior is trained on, from generated shapes; no scan is needed.

  geo3d prior-data --out DIR                           1500 families of shapes, 30,000 maps
  geo3d prior-data --out DIR --creatures 100 --seed 1 --workers 4
  geo3d prior-data --out DIR --set relatives=0.3       see PriorDataConfig for what can be set
  geo3d prior-data --out DIR --dfaust registrations_f.hdf5 registrations_m.hdf5
  geo3d prior-data --out DIR --pictures docs/images    draw a finished folder, make nothing
  geo3d prior-data --out DIR --compare FAUST TOSCA     its mean |C| beside that of real shapes

The same command continues a broken-off run.  See docs/prior-data.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from apps.commands import add_common, emit


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``geo3d prior-data``."""
    parser.add_argument("--creatures", metavar="N", type=int, help="families (default 1500)")
    parser.add_argument("--workers", metavar="N", type=int, help="processes (default: all cores)")
    parser.add_argument("--dfaust", metavar="FILE", nargs="+", help="registered scans instead")
    parser.add_argument("--template", metavar="MESH", help="with --dfaust: the template")
    parser.add_argument("--stride", metavar="N", type=int, help="with --dfaust: every N-th frame")
    parser.add_argument("--pictures", metavar="DIR", help="draw the finished folder into DIR")
    parser.add_argument(
        "--compare", metavar="DATA", nargs="+", help="folders of shapes with ground truth"
    )
    add_common(parser, "config", "set", "seed", "out", "json", "quiet")


def run(args: argparse.Namespace) -> int:
    """Make, draw or compare; exit code 5 when some shards could not be made."""
    from geo3d.errors import ConfigError

    if not args.out:
        raise ConfigError("prior_data.no_out", "There is no --out.", "Name the folder of the maps.")
    if args.pictures or args.compare:
        return _look(args)
    index = _make(args)
    payload = {name: index[name] for name in ("maps", "failures", "lost_shards")}
    emit(args, {**payload, "folder": args.out}, _text(index, args.out))
    return 5 if index["lost_shards"] else 0


def _make(args: argparse.Namespace) -> dict[str, Any]:
    from geo3d.config import load_config
    from geo3d.threads import usable_cores

    workers, progress = args.workers or usable_cores(), _listener(args)
    if args.dfaust:
        from shape_matching.prior.dfaust import DfaustConfig, make_dfaust_data

        config = load_config(DfaustConfig, args.config, None, _overrides(args, "template stride"))
        config = DfaustConfig(tuple(args.dfaust), config.template, config.stride, config.k)
        return make_dfaust_data(config, args.out, workers=workers, progress=progress)
    from shape_matching.prior.data import PriorDataConfig, make_prior_data

    config = load_config(PriorDataConfig, args.config, None, _overrides(args, "creatures seed"))
    return make_prior_data(config, args.out, workers=workers, progress=progress)


def _overrides(args: argparse.Namespace, names: str) -> list[str]:
    """Return the settings given as flags; a seed of 0 leaves that of --config."""
    given = [(name, getattr(args, name)) for name in names.split()]
    return [*args.set, *(f"{name}={value}" for name, value in given if value)]


def _look(args: argparse.Namespace) -> int:
    from apps.bench.prior_maps import compare_folder
    from shape_matching.prior.figures import draw_pictures

    progress, payload, lines = _listener(args), {}, []
    if args.pictures:
        files = draw_pictures(args.out, args.pictures, progress)
        payload["pictures"] = [str(path) for path in files]
        lines += payload["pictures"]
    if args.compare:
        payload["comparison"] = compare_folder(args.out, args.compare, progress=progress)
        lines.append(_table(payload["comparison"]))
    emit(args, payload, "\n".join(lines))
    return 0


def _listener(args: argparse.Namespace) -> Any:
    from geo3d.listeners import tqdm_listener

    return tqdm_listener(disable=args.quiet or args.json)


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the comparison as a Markdown table."""
    from geo3d.work.tables import markdown_table

    columns = ("maps", "n", "diagonal 1-10 / 11-20 / 21-30", "near", "rms")
    lines = []
    for row in rows:
        thirds = " / ".join(f"{row[f'diagonal_{i}']:.2f}" for i in (1, 2, 3))
        fit = "correlation" in row and f"{row['correlation']:.3f} ({row['off_diagonal']:.2f})"
        numbers = (thirds, f"{row['near_diagonal']:.2f}", f"{row['rms']:.3f}", fit or "")
        lines.append([row["maps"], row["n"], *numbers])
    return markdown_table((*columns, "correlation (off-diagonal)"), lines)


def _text(index: Mapping[str, Any], folder: str) -> str:
    lines = [f"{index['maps']} maps in {len(index['shards'])} shards: {folder}"]
    lines += [f"  item {i} failed: {text}" for i, text in index["failures"].items()]
    lines += [f"  shard {i} is missing: {text}" for i, text in index["lost_shards"].items()]
    return "\n".join(lines)
