"""Make the maps a spectral prior is trained on, from generated shapes; no scan is needed.

  geo3d data prior --out DIR                           1500 families of shapes, 30,000 maps
  geo3d data prior --out DIR --creatures 100 --seed 1 --workers 4
  geo3d data prior --out DIR --set relatives=0.3       see PriorDataConfig for what can be set
  geo3d data prior --out DIR --dfaust registrations_f.hdf5 registrations_m.hdf5
  geo3d data prior --out DIR --pictures docs/images    draw a finished folder, make nothing
  geo3d data prior --out DIR --compare FAUST TOSCA     its mean |C| beside that of real shapes

The same command continues a broken-off making.  See docs/prior-data.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from apps.commands import add_common, emit
from apps.commands.data import show_index
from apps.running import listener, require_files, require_flag, require_folders, settings
from geo3d.threads import usable_cores
from geo3d.work.tables import markdown_table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``geo3d data prior``."""
    parser.add_argument("--creatures", metavar="N", type=int, help="families (default 1500)")
    parser.add_argument("--workers", metavar="N", type=int, help="processes (default: all cores)")
    parser.add_argument("--dfaust", metavar="FILE", nargs="+", help="registered scans instead")
    parser.add_argument("--template", metavar="MESH", help="with --dfaust: the template")
    parser.add_argument("--stride", metavar="N", type=int, help="with --dfaust: every N-th frame")
    parser.add_argument("--pictures", metavar="DIR", help="draw the finished folder into DIR")
    parser.add_argument(
        "--compare", metavar="DATA", nargs="+", help="folders of shapes with ground truth"
    )
    add_common(parser, "config", "set", "seed", "out", "threads", "json", "quiet")


def run(args: argparse.Namespace) -> int:
    """Make, draw or compare; exit code 5 when some shards could not be made."""
    out = require_flag(args, "out", "Name the folder of the data.")
    require_files(*(args.dfaust or ()), args.template)
    require_folders(*(args.compare or ()))
    if args.pictures or args.compare:
        return _look(args)

    how: dict[str, Any] = {"workers": args.workers or usable_cores(), "progress": listener(args)}
    if args.dfaust:
        from shape_matching.prior.dfaust import DfaustConfig, make_dfaust_data

        # Scans are not drawn at random.
        unseeded = argparse.Namespace(**{**vars(args), "seed": None})
        given = {"files": args.dfaust, "template": args.template, "stride": args.stride}
        index = make_dfaust_data(settings(unseeded, DfaustConfig, given), out, **how)
    else:
        from shape_matching.prior.data import PriorDataConfig, make_prior_data

        config = settings(args, PriorDataConfig, {"creatures": args.creatures})
        index = make_prior_data(config, out, **how)
    return show_index(args, index, "maps")


def _look(args: argparse.Namespace) -> int:
    from apps.bench.prior_maps import compare_folder
    from shape_matching.prior.figures import draw_figures

    progress, payload, lines = listener(args), {}, []
    if args.pictures:
        files = draw_figures(args.out, args.pictures, progress)
        payload["pictures"] = [str(path) for path in files]
        lines += payload["pictures"]
    if args.compare:
        payload["comparison"] = compare_folder(args.out, args.compare, progress=progress)
        lines.append(_table(payload["comparison"]))
    emit(args, payload, "\n".join(lines))
    return 0


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the comparison as a Markdown table."""
    columns = ("maps", "n", "diagonal 1-10 / 11-20 / 21-30", "near", "rms")
    lines = []
    for row in rows:
        thirds = " / ".join(f"{row[f'diagonal_{i}']:.2f}" for i in (1, 2, 3))
        fit = "correlation" in row and f"{row['correlation']:.3f} ({row['off_diagonal']:.2f})"
        numbers = (thirds, f"{row['near_diagonal']:.2f}", f"{row['rms']:.3f}", fit or "")
        lines.append([row["maps"], row["n"], *numbers])
    return markdown_table((*columns, "correlation (off-diagonal)"), lines)
