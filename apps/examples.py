"""Verbs that make a folder of examples, then train on it.

The flag that names the folder and the setting that keeps it are called by what is in it: examples,
outcomes.  An interrupted making is continued by the same command.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from apps.commands import add_common
from apps.running import Beginning, full_path, listener, require_flag, run_training, settings
from geo3d.runs import Run
from geo3d.threads import usable_cores


def add_example_arguments(
    parser: argparse.ArgumentParser, what: str, source: str = "pairs"
) -> None:
    """Add the flags of a training on a folder of ``what``."""
    parser.add_argument(f"--{what}", metavar="DIR", help=f"folder of {what}; made if missing")
    parser.add_argument(f"--{source}", metavar="N", type=int, help="how many they come from")
    parser.add_argument("--workers", metavar="N", type=int, help=f"processes that make {what}")
    add_common(parser, "config", "set", "seed", "out", "resume", "threads", "json", "quiet")


def train_on_examples(
    args: argparse.Namespace,
    verb: str,
    what: str,
    cls: type[Any],
    make: Callable[..., Any],
    train: Callable[..., dict[str, Any]],
    show: Callable[[argparse.Namespace, Run], None],
    source: str = "pairs",
) -> int:
    """Make what is missing of the folder, train in a run and show it (see `run_training`)."""

    def begin() -> Beginning:
        given = {what: full_path(getattr(args, what)), f"data.{source}": getattr(args, source)}
        config = settings(args, cls, given)
        folder = getattr(config, what)
        if not folder:
            require_flag(args, what, "Name a folder; it is made if it is missing.")
        workers = args.workers or usable_cores()
        make(config.data, folder, workers=workers, progress=listener(args))
        return Beginning(Path(folder).name, config, [folder])

    def train_here(config: Any, out: Path, *, device: str, **how: Any) -> dict[str, Any]:
        return train(config, out, **how)

    return run_training(args, verb, cls, begin, train_here, show, f"{what} {source}")
