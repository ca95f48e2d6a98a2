"""A run as its folder tells it, finished or not, and the command that makes it again."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from apps.job_files import read_json
from geo3d.errors import InputError
from geo3d.runs import run_state

_OWN_AFFAIR = {"--out": 1, "--resume": 1, "--json": 0, "--quiet": 0}
"""Flags that say where and how, not what; with the number of values they take."""


@dataclass(frozen=True)
class RunRecord:
    """What a run folder says of itself; nothing in it may be trusted to be markup or a number."""

    folder: Path
    status: str
    """running, done, failed, cancelled or interrupted."""
    message: str
    """Why it failed."""
    record: Mapping[str, Any]
    """The manifest; of a run that is not done, what it will say of the beginning."""
    numbers: Mapping[str, Any]
    """The final numbers; empty before the end."""

    @property
    def verb(self) -> str:
        """The verb that made it."""
        return str(self.record.get("verb", ""))

    @property
    def name(self) -> str:
        """The run's name, for people."""
        return str(self.record.get("name", "") or self.folder.name)

    @property
    def created(self) -> datetime | None:
        """When it began."""
        return _moment(self.record.get("created"))

    @property
    def seconds(self) -> float | None:
        """From beginning to end, interruptions included; None where it has not ended."""
        end = _moment(self.record.get("finished"))
        return (end - self.created).total_seconds() if end and self.created else None

    @property
    def command(self) -> list[str]:
        """The command line that makes it again, beginning with ``geo3d``."""
        argv = self.record.get("argv")
        words = [str(word) for word in argv[1:]] if isinstance(argv, list) else []
        inputs = [str(entry.get("path")) for entry in _mappings(self.record.get("inputs"))]
        return ["geo3d", *(_full(word, inputs) for word in _without_own_affairs(words))]


def read_record(folder: str | os.PathLike[str]) -> RunRecord:
    """Read a run folder.

    Raises:
        InputError: ``run.not_a_run``.
    """
    state = run_state(folder)
    path = Path(folder).resolve()
    record = read_json(path / "manifest.json") or state["record"]
    if not isinstance(record, Mapping):
        raise InputError(
            "run.not_a_run",
            f"{folder} is not a run folder: what it says of itself cannot be read.",
            "Give the folder that the earlier command printed, e.g. runs/match/....",
        )
    numbers = read_json(path / "metrics.json") or {}
    return RunRecord(path, str(state["status"]), str(state.get("message", "")), record, numbers)


def shell_line(words: Sequence[str]) -> str:
    """Return a command as it is typed into a shell."""
    return " ".join(shlex.quote(word) for word in words)


def _mappings(value: Any) -> list[Mapping[str, Any]]:
    return [entry for entry in value if isinstance(entry, Mapping)] if type(value) is list else []


def _moment(text: Any) -> datetime | None:
    try:
        return datetime.fromisoformat(str(text))
    except ValueError:
        return None


def _without_own_affairs(words: Sequence[str]) -> list[str]:
    kept, skipped = [], 0
    for word in words:
        if skipped:
            skipped -= 1
        elif word.partition("=")[0] in _OWN_AFFAIR:
            skipped = 0 if "=" in word else _OWN_AFFAIR[word]
        else:
            kept.append(word)
    return kept


def _full(word: str, inputs: Sequence[str]) -> str:
    """Return the whole path of an input that was given by its end: the folder may be another."""
    end = os.path.normpath(word) if word and not word.startswith("-") else ""
    if not end or end == "." or os.path.isabs(end):
        return word
    return next((path for path in inputs if path.endswith(os.sep + end)), word)
