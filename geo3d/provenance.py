"""Where a result comes from: hashes of files, versions of libraries, the commit of the checkout."""

from __future__ import annotations

import hashlib
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from geo3d import __version__
from geo3d.files import sha256_file

_LIBRARIES = (
    "numpy",
    "scipy",
    "torch",
    "trimesh",
    "robust-laplacian",
    "potpourri3d",
    "embreex",
    "safetensors",
    "gradio",
)


def versions() -> dict[str, str]:
    """Return the versions of geo3d, Python and the libraries that shape results."""
    found = {"geo3d": __version__, "python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def describe(path: Path, relative_to: Path | None = None) -> dict[str, Any]:
    """Return path, size and SHA-256 of a file; of a folder, the hash of its names and sizes.

    A folder's content is not read: a data set may be large.
    """
    shown = str(path.resolve() if relative_to is None else path.relative_to(relative_to))
    if not path.is_dir():
        return {"path": shown, "bytes": path.stat().st_size, "sha256": sha256_file(path)}
    files = sorted(p for p in path.rglob("*") if p.is_file())
    listing = "".join(f"{p.relative_to(path).as_posix()}\0{p.stat().st_size}\n" for p in files)
    return {
        "path": shown,
        "files": len(files),
        "bytes": sum(p.stat().st_size for p in files),
        "sha256": hashlib.sha256(listing.encode()).hexdigest(),
    }


def git_state() -> dict[str, Any] | None:
    """Return commit and cleanness of the checkout geo3d runs from, or None outside of one."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return {"commit": commit, "clean": _git(root, "status", "--porcelain") == ""}
    except (OSError, subprocess.SubprocessError):
        return None


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.strip()
