"""The verbs of the command line, one module each.

A verb module has two functions: ``add_arguments(parser)`` and ``run(args) -> int | None`` (the exit
code; None means 0).  It is imported only when its verb is chosen, and imports torch and everything
else heavy inside its functions.  User mistakes are raised as `Geo3dError`; `apps.cli` prints them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

_C = TypeVar("_C")
_FLAGS: dict[str, dict[str, Any]] = {
    "config": {"metavar": "FILE", "help": "YAML file with settings"},
    "preset": {"metavar": "NAME", "help": "named set of settings, applied before --config"},
    "set": {
        "metavar": "KEY=VALUE",
        "action": "append",
        "default": [],
        "help": "override one setting, e.g. zoomout.k_final=100; may be repeated",
    },
    "seed": {"metavar": "N", "type": int, "default": 0, "help": "random seed (default 0)"},
    "device": {
        "metavar": "DEVICE",
        "default": "auto",
        "help": "auto, cpu, cuda, cuda:N or mps (default auto)",
    },
    "out": {"metavar": "DIR", "help": "folder for the results (default runs/)"},
    "resume": {"metavar": "RUN", "help": "continue the run in this folder"},
    "json": {"action": "store_true", "help": "print JSON, and nothing else, on stdout"},
    "quiet": {"action": "store_true", "help": "no progress bars"},
}


def add_common(parser: argparse.ArgumentParser, *names: str) -> None:
    """Add the flags that mean the same in every verb, by name (``"seed"`` adds ``--seed``)."""
    for name in names:
        parser.add_argument(f"--{name}", **_FLAGS[name])


def with_seed(config: _C, seed: int | None) -> _C:
    """Return settings whose ``seed`` is that of the flag, if the flag was given."""
    return config if seed is None else replace(config, seed=seed)  # type: ignore[type-var]


def emit(args: argparse.Namespace, payload: Mapping[str, Any], text: str) -> None:
    """Print the result of a verb: ``payload`` as JSON under ``--json``, else ``text``."""
    print(json.dumps(payload, indent=2, default=str) if getattr(args, "json", False) else text)
