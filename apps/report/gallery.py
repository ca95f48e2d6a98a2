"""All runs below one folder: found, filtered, tagged, deleted.

    ROOT/<verb>/<run>/                      of the command line
    ROOT/jobs/<id>/run/<verb>/<run>/        of the workbench

Nothing outside of ROOT is read or written: folders that lead out of it by links are not seen.
"""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from apps.report.records import RunRecord, read_record, shell_line
from geo3d.errors import ConfigError, InputError
from geo3d.files import atomic_write_json

_PLACES = ("*/*/state.json", "jobs/*/run/*/*/state.json")
_TAGS = "tags.json"
_LONGEST_TAG = 40
_MOST_TAGS = 20


def find_runs(root: Path) -> list[RunRecord]:
    """Return all runs below a folder, newest first."""
    found = []
    for place in _PLACES:
        for state in root.glob(place):
            try:
                found.append(_inside(root, state.parent))
            except InputError:
                # What cannot be read, or lies elsewhere, is no run of this folder.
                continue
    return sorted(found, key=lambda run: str(run.record.get("created", "")), reverse=True)


def filtered(
    runs: Sequence[RunRecord], verb: str = "", words: str = "", tag: str = ""
) -> list[RunRecord]:
    """Return the runs of a verb, or method, that have a tag and say all these words somewhere."""
    wanted = words.lower().split()
    return [
        run
        for run in runs
        if (not verb or verb in (run.verb, method_of(run)))
        and (not tag or tag in tags_of(run))
        and all(word in _said(run) for word in wanted)
    ]


def method_of(run: RunRecord) -> str:
    """Return the method that a run used, "" where its verb has but one."""
    config = run.record.get("config")
    named = run.numbers.get("method") or (config.get("method") if type(config) is dict else "")
    return str(named or "")


def tags_of(run: RunRecord) -> list[str]:
    """Return the tags that people gave a run."""
    path = run.folder / _TAGS
    if path.is_symlink():
        return []
    try:
        value: Any = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return []
    return [str(tag) for tag in value] if isinstance(value, list) else []


def set_tag(root: Path, folder: Path, tag: str, present: bool = True) -> list[str]:
    """Give a run a tag, or take it away, and return its tags.

    Raises:
        InputError: ``runs.bad_tag``, ``runs.outside``, ``run.not_a_run``.
    """
    name = " ".join(tag.split())
    if not name or len(name) > _LONGEST_TAG or not name.isprintable():
        raise InputError(
            "runs.bad_tag",
            f"A tag has 1 to {_LONGEST_TAG} letters.",
            "Give a short word, such as good.",
        )
    run = _inside(root, folder)
    tags = [kept for kept in tags_of(run) if kept != name] + ([name] if present else [])
    if len(tags) > _MOST_TAGS:
        raise InputError("runs.bad_tag", f"{_MOST_TAGS} tags are enough.", "Take one away first.")
    atomic_write_json(run.folder / _TAGS, tags)
    return tags


def delete_run(root: Path, folder: Path) -> Path:
    """Delete a run, with the job that made it, and return the folder that is gone.

    Raises:
        InputError: ``runs.outside``, ``run.not_a_run``.
        ConfigError: ``runs.still_running``.
    """
    run = _inside(root, folder)
    if run.status == "running":
        raise ConfigError(
            "runs.still_running",
            f"The run {run.folder.name} still goes on.",
            "Cancel it first, or wait for its end.",
        )
    parts = run.folder.relative_to(root.resolve()).parts
    gone = root.resolve().joinpath(*parts[:2]) if parts[0] == "jobs" else run.folder
    # Out of the way at once: what is half deleted must not look like a run.
    away = root.resolve() / f".deleted-{secrets.token_hex(8)}"
    gone.rename(away)
    shutil.rmtree(away)
    return gone


def _inside(root: Path, folder: Path) -> RunRecord:
    """Read a run that lies where runs of this root lie, links out excluded."""
    top, path = root.resolve(), folder.resolve()
    run_like = path.is_relative_to(top) and len(path.relative_to(top).parts) in (2, 5)
    if not run_like or folder.is_symlink():
        raise InputError(
            "runs.outside",
            f"{folder} is no run below {root}.",
            "Name a folder that `geo3d runs` lists, or the folder of runs by --root.",
        )
    return read_record(path)


def _said(run: RunRecord) -> str:
    config = json.dumps(run.record.get("config") or {}, default=str)
    told = (run.verb, run.folder.name, run.status, shell_line(run.command), config, *tags_of(run))
    return " ".join(told).lower()
