"""Which files of a run folder a page may show: regular files that lie in it, links out excluded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

_DEEPEST = 3
"""Folders below ``outputs`` that are looked into."""
_MOST_SEEN = 5000
"""Files that are looked at; a batch may have made very many."""
_PARTS = frozenset({"scene", "sparse", "cells", "items", "results"})
"""Folders that hold what a verb goes on with, not what it came to."""


def own_files(run: Path, folder: str, *suffixes: str) -> list[Path]:
    """Return the files of one folder of a run with these suffixes, in the order of their names."""
    root = run.resolve()
    found = [path for path in _walk(root / folder, 0) if path.suffix.lower() in suffixes]
    return [path for path in found if path.is_file() and path.resolve().is_relative_to(root)]


def _walk(folder: Path, depth: int) -> Iterator[Path]:
    if folder.is_symlink() or not folder.is_dir():
        return
    entries = sorted(folder.iterdir(), key=lambda path: path.name)[:_MOST_SEEN]
    yield from (path for path in entries if not path.is_dir())
    if depth < _DEEPEST:
        for path in entries:
            if path.is_dir() and path.name not in _PARTS:
                yield from _walk(path, depth + 1)
