"""The verbs of the command line, one module each.

A verb module has two functions: ``add_arguments(parser)`` and ``run(args) -> int | None`` (the exit
code; None means 0).  It is imported only when its verb is chosen, and imports torch and everything
else heavy inside its functions.  User mistakes are raised as `Geo3dError`; `apps.cli` prints them.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geo3d.errors import printable

if TYPE_CHECKING:
    from geo3d.runs import Run

RUN_FLAGS = tuple("config preset set seed device out resume threads json quiet".split())
"""Common flags of a verb whose run can be resumed."""
_FLAGS: dict[str, dict[str, Any]] = {
    "config": {"metavar": "FILE", "help": "YAML file with settings"},
    "preset": {"metavar": "NAME", "help": "named set of settings, applied before --config"},
    "set": {
        "metavar": "KEY=VALUE",
        "action": "append",
        "default": [],
        "help": "override one setting, e.g. zoomout.k_final=100; may be repeated",
    },
    "seed": {
        "metavar": "N",
        "type": int,
        "help": "random seed (default: that of the settings, else 0)",
    },
    "device": {
        "metavar": "DEVICE",
        "default": "auto",
        "help": "auto, cpu, cuda, cuda:N or mps (default auto)",
    },
    "out": {"metavar": "DIR", "help": "folder for the results (default runs/)"},
    "resume": {"metavar": "RUN", "help": "continue the run in this folder"},
    "engine": {"choices": ("local", "slurm"), "help": "this machine or a cluster (default local)"},
    "slurm": {
        "metavar": "KEY=VALUE",
        "nargs": "+",
        "help": "what to ask the cluster for: partition, minutes, cpus, memory_gb, gpus",
    },
    "threads": {"metavar": "N", "type": int, "help": "processor threads (default: all cores)"},
    "json": {"action": "store_true", "help": "print JSON, and nothing else, on stdout"},
    "quiet": {"action": "store_true", "help": "no progress bars"},
}


def add_common(parser: argparse.ArgumentParser, *names: str) -> None:
    """Add the flags that mean the same in every verb, by name (``"seed"`` adds ``--seed``)."""
    for name in names:
        parser.add_argument(f"--{name}", **_FLAGS[name])


def add_parts(parser: argparse.ArgumentParser, verb: str, parts: Mapping[str, str]) -> None:
    """Add a verb's parts (name: help); ``args.run_part(args)`` runs the one that is chosen."""
    choices = parser.add_subparsers(dest="what", metavar="WHAT", required=True)
    for name, help in parts.items():
        add_part(choices, verb, name, help)


def add_part(choices: Any, verb: str, name: str, help: str) -> None:
    """Add one part of a verb: the module ``VERB_NAME`` beside the verb's, with its own flags."""
    module = importlib.import_module(f"apps.commands.{verb}_{name.replace('-', '_')}")
    part = choices.add_parser(
        name,
        help=help,
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(part)
    part.set_defaults(run_part=module.run)


def emit(args: argparse.Namespace, payload: Mapping[str, Any], text: str) -> None:
    """Print the result of a verb: ``payload`` as JSON under ``--json``, else ``text``."""
    if getattr(args, "json", False):
        print(json.dumps(payload, indent=2, default=str))
    else:
        print("\n".join(map(printable, text.split("\n"))))


def show_run(args: argparse.Namespace, done: Run, text: str, **more: Any) -> None:
    """Print the result of a run: its numbers, its folder and ``more``, or ``text``."""
    emit(args, {**done.numbers, **more, "run": str(done.path)}, text)


def failed_lines(failed: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return a line for each image that could not be used."""
    return [f"{row['image']}: [{row['code']}] {row['message']}" for row in failed]


def unique_names(paths: Iterable[str | os.PathLike[str]]) -> list[str]:
    """Return a harmless name per file; equal ones get a number."""
    from geo3d.files import slug

    names: list[str] = []
    for path in paths:
        stem = slug(Path(path).stem)
        numbered = (f"{stem}-{number}" for number in itertools.count(2))
        names.append(next(n for n in itertools.chain([stem], numbered) if n not in names))
    return names
