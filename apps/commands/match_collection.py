"""`geo3d match FOLDER`: the maps of a collection, in a run folder, with a page.

outputs/maps/A--B.npz holds the consistent maps of every pair (p2p_21: a vertex of A for each of B;
p2p_12 the reverse), outputs/pairs those that were matched, outputs/pairs.csv a line for each, and
outputs/index.html shows all shapes in matched colours.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

from apps.commands import show_run
from apps.running import (
    Beginning,
    full_path,
    remember,
    request_of,
    run_verb,
    settings,
    with_engine,
)
from geo3d.errors import ConfigError
from geo3d.progress import ProgressCallback
from geo3d.runs import Run
from geo3d.threads import usable_cores

PAIR_FLAGS = ("target", "landmarks", "initial_map", "save_map", "one_based")


def is_collection(args: argparse.Namespace) -> bool:
    """Tell whether a folder is to be matched, or the run to be resumed is one of a folder."""
    if args.resume:
        try:
            text = (Path(args.resume) / "request.json").read_text(encoding="utf-8")
            return "folder" in json.loads(text)
        except (OSError, ValueError):
            return False
    return bool(args.source) and Path(args.source).is_dir()


def run_collection(args: argparse.Namespace) -> int:
    """Match the shapes of a folder, write the run folder, print the summary."""
    fixed = "source target template"
    begin, work = partial(_begin, args), partial(_match, args)
    done = run_verb(args, "match", begin, work, fixed, redo=_has_failures(args))
    page = done.outputs / "index.html"
    show_run(args, done, _text(done.numbers, page), page=str(page))
    return 0


def _has_failures(args: argparse.Namespace) -> bool:
    """Tell whether a run that is resumed has pairs that may be tried again."""
    from geo3d.work.runner import FAILURES

    folder = Path(args.resume or "") / "outputs" / FAILURES
    return bool(args.resume) and folder.is_dir() and any(folder.iterdir())


def _begin(args: argparse.Namespace) -> Beginning:
    given = [name for name in PAIR_FLAGS if getattr(args, name)]
    if given:
        flags = ", ".join(name.replace("_", "-") for name in given)
        raise ConfigError(
            "match.flags_do_not_fit",
            f"A folder is matched without {flags}.",
            "geo3d match FOLDER [--template NAME] [--workers N]",
        )
    from shape_matching.collection import CollectionConfig, collection_files, collection_pairs
    from shape_matching.config import MatchConfig

    folder = Path(args.source)
    config = CollectionConfig(
        method=args.method,
        template=args.template or "",
        workers=args.workers or min(8, usable_cores()),
        match=settings(args, MatchConfig, {"partial": args.partial}),
    )
    collection_pairs(list(collection_files(folder)), config.template)
    request = {"folder": full_path(folder), "up": args.up}
    config = with_engine(args, config)
    # Nodes of a cluster have other devices than the machine that hands out the jobs.
    device = args.device if config.engine == "slurm" else None
    prepare = remember(request)
    return Beginning(folder.resolve().name, config, [folder], prepare, device=device)


def _match(args: argparse.Namespace, run_folder: Run, progress: ProgressCallback) -> None:
    from shape_matching.collection import CollectionConfig, collection_files, match_collection
    from shape_matching.collection_page import write_page

    request = request_of(run_folder)
    config = with_engine(args, run_folder.load_config(CollectionConfig))
    files = collection_files(Path(request["folder"]))
    device = run_folder.record["device"]
    numbers = match_collection(files, config, run_folder.outputs, device=device, progress=progress)
    write_page(files, numbers, run_folder.outputs, config.template, request["up"])
    run_folder.finish(numbers)


def _text(numbers: dict[str, Any], page: Path) -> str:
    pairs, failed = numbers["pairs"], numbers["failed"]
    moved = [row for row in pairs if row.get("moved", 0.0) > numbers["wrong_from"]]
    lines = [f"matched {len(pairs)} pairs of {numbers['shapes']} shapes, {len(failed)} failed"]
    if numbers["cycle_error"] is not None and numbers["cycle_error_pairwise"] is not None:
        lines.append(
            f"  cycles of three lead {numbers['cycle_error_pairwise']:.2f} % of the size away as "
            f"matched, {numbers['cycle_error']:.2f} % made consistent"
        )
    lines.append(f"  maps that contradicted the others and were replaced: {len(moved)}")
    lines += [f"  {name}: {failure['message']}" for name, failure in failed.items()]
    if numbers["left_out"]:
        lines.append(f"  not connected with the others: {', '.join(numbers['left_out'])}")
    return "\n".join([*lines, f"  page: {page}", f"  maps: {page.parent / 'maps'}"])
