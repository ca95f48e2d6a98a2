"""Files that are either whole or not there, and where the package's own files live.

Everything geo3d writes goes to a temporary name in the target's folder, is flushed to disk, and is
then renamed over the target.  A reader, or a process killed at any moment, sees the old content or
the new one and nothing between.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import json
import logging
import os
import re
import secrets
import shutil
import tempfile
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from geo3d.errors import CheckpointError, InputError

_PACKAGE = Path(__file__).resolve().parent
_log = logging.getLogger(__name__)


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path that becomes ``path`` on success and is removed on failure.

    It has the suffix of ``path``, whose folders are made.  The writer must have closed the file
    when the block ends.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    # A short stem: the target's own name may already be as long as the file system allows.
    temporary = target.parent / f".tmp-{secrets.token_hex(8)}{target.suffix[:16]}"
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, target)
        _sync(target.parent)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def atomic_write_bytes(path: str | os.PathLike[str], data: bytes) -> Path:
    """Write ``data`` to ``path`` atomically and return the path."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)
    return Path(path)


def atomic_write_text(path: str | os.PathLike[str], text: str) -> Path:
    """Write UTF-8 ``text`` to ``path`` atomically, with newlines as given, and return the path."""
    return atomic_write_bytes(path, text.encode())


def atomic_write_json(path: str | os.PathLike[str], value: Any) -> Path:
    """Write ``value`` as indented JSON to ``path`` atomically and return the path."""
    return atomic_write_text(path, json.dumps(value, indent=2, default=str) + "\n")


def sha256_file(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 hex digest of a file's content."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def refuse_pointer(path: str | os.PathLike[str]) -> bytes:
    """Return the first bytes of a weight file that is no note of git-lfs.

    Raises:
        CheckpointError: ``checkpoint.pointer``.
    """
    with open(path, "rb") as stream:
        head = stream.read(64)
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError(
            "checkpoint.pointer",
            f"{path} is a git-lfs pointer, not the weights.",
            "Run `git lfs pull` in its folder, or download the file itself.",
        )
    return head


def slug(text: str, limit: int = 48) -> str:
    """Return ``text`` as a harmless file name: lower-case letters, digits, ``-``; never empty."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain)[:limit].strip("-") or "unnamed"


def new_id() -> str:
    """Return 128 random bits as 32 hex digits: a name nobody can guess."""
    return secrets.token_hex(16)


def is_id(text: str) -> bool:
    """Return whether ``text`` has the form of `new_id`, so that it is safe in a path."""
    return re.fullmatch(r"[0-9a-f]{32}", text) is not None


def cache_dir() -> Path:
    """Return the cache folder (``GEO3D_CACHE``, else ``~/.cache/geo3d``), made if needed.

    Where it cannot be written (no home, a full or read-only disk), it is a temporary folder of
    this process, and a warning says so once.
    """
    try:
        base = os.environ.get("GEO3D_CACHE")
        xdg = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        folder = Path(base) if base else Path(xdg) / "geo3d"
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except (OSError, RuntimeError) as error:  # RuntimeError: this user has no home
        return _temporary_cache(str(error))


@functools.cache
def _temporary_cache(reason: str) -> Path:
    folder = tempfile.mkdtemp(prefix="geo3d-cache-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    _log.warning("nothing is kept in the cache (%s); GEO3D_CACHE names another folder", reason)
    return Path(folder)


def asset(name: str) -> Path:
    """Return the path of a shipped file, e.g. ``asset("creatures/cat_a.ply")``.

    Files lie in ``assets/`` at the top of a checkout and in ``geo3d/_assets`` once installed.

    Raises:
        InputError: ``asset.missing``.
    """
    for root in asset_roots():
        path = (root / name).resolve()
        if path.is_relative_to(root) and path.exists():
            return path
    raise InputError(
        "asset.missing",
        f"There is no shipped file {name!r}.",
        "Reinstall geo3d; `geo3d doctor` shows where it looks for its assets.",
    )


def asset_roots() -> tuple[Path, ...]:
    """Return the folders `asset` looks in: the checkout's first, then the installed package's."""
    checkout = _PACKAGE.parent / "assets"
    # A folder named assets beside an installed package is somebody else's.
    is_checkout = (_PACKAGE.parent / "pyproject.toml").is_file()
    return ((checkout,) if is_checkout else ()) + (_PACKAGE / "_assets",)


def _sync(path: Path) -> None:
    """Flush a file or folder to disk; file systems that cannot sync a folder are let off."""
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0)
    if path.is_dir():
        with suppress(OSError):
            _fsync(path, flags)
    else:
        _fsync(path, flags)


def _fsync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def append_line(path: Path, text: str) -> None:
    """Append a line to a file, made if it is not there; a kill leaves at most one torn last line.

    One write call on an O_APPEND descriptor.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        os.write(descriptor, f"{text}\n".encode())
    finally:
        os.close(descriptor)
