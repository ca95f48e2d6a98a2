"""Files are whole or absent; names are harmless."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest

from geo3d import files
from geo3d.errors import InputError


def test_atomic_path_replaces_only_on_success(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "er" / "a.txt"
    files.atomic_write_text(target, "old")
    with pytest.raises(RuntimeError), files.atomic_path(target) as temporary:
        assert temporary.suffix == ".txt" and temporary.parent == target.parent
        temporary.write_text("half")
        raise RuntimeError("killed")
    assert target.read_text() == "old" and os.listdir(target.parent) == ["a.txt"]
    files.atomic_write_text(target, "new\r\n")
    assert target.read_bytes() == b"new\r\n" and os.listdir(target.parent) == ["a.txt"]


def test_a_reader_never_sees_a_part(tmp_path: Path) -> None:
    target = tmp_path / "a.bin"
    files.atomic_write_bytes(target, b"1" * 100)
    with files.atomic_path(target) as temporary:
        temporary.write_bytes(b"2" * 50)
        assert target.read_bytes() == b"1" * 100
    assert target.read_bytes() == b"2" * 50


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "a.bin"
    files.atomic_write_bytes(target, b"old")

    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        files.atomic_write_bytes(target, b"new")
    assert target.read_bytes() == b"old" and os.listdir(tmp_path) == ["a.bin"]


def test_files_get_the_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    atomic = files.atomic_write_text(tmp_path / "atomic", "x")
    assert atomic.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_names_as_long_as_the_file_system_allows(tmp_path: Path) -> None:
    name = "n" * 250 + ".txt"
    assert files.atomic_write_text(tmp_path / name, "x").read_text() == "x"


def test_sha256(tmp_path: Path) -> None:
    data = os.urandom(3 << 20)
    (tmp_path / "a").write_bytes(data)
    assert files.sha256_file(tmp_path / "a") == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Cat 01 -> Dog", "cat-01-dog"),
        ("../../etc/passwd", "etc-passwd"),
        ("", "unnamed"),
        ("形", "unnamed"),
        ("Éléphant", "elephant"),
        ("-x-", "x"),
        ("a" * 47 + " b", "a" * 47),
        ("CON\0.txt", "con-txt"),
    ],
)
def test_slug(text: str, expected: str) -> None:
    assert files.slug(text) == expected


def test_ids() -> None:
    names = {files.new_id() for _ in range(100)}
    assert len(names) == 100 and all(map(files.is_id, names))
    bad = ("", "../" + "0" * 29, "0" * 31, "0" * 33, "G" * 32, "0" * 32 + "\n", "A" * 32)
    assert not any(map(files.is_id, bad))


def test_cache_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEO3D_CACHE", str(tmp_path / "c"))
    assert files.cache_dir() == tmp_path / "c" and (tmp_path / "c").is_dir()
    monkeypatch.delenv("GEO3D_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert files.cache_dir() == tmp_path / "x" / "geo3d"


@pytest.mark.parametrize("name", ["GEO3D_CACHE", "XDG_CACHE_HOME", "HOME"])
def test_without_a_cache_folder_work_goes_on(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    name: str,
) -> None:
    for other in ("GEO3D_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(other, raising=False)
    taken = tmp_path / name
    taken.write_text("no folder")
    monkeypatch.setenv(name, str(taken / "cache"))
    folders = {files.cache_dir() for _ in range(3)}
    (folder,) = folders
    assert folder.is_dir() and tmp_path not in folder.parents
    assert [r.levelname for r in caplog.records] == ["WARNING"] and name in caplog.text
    (folder / "entry").touch()


def test_assets_in_checkout_and_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site" / "geo3d"
    (package / "_assets").mkdir(parents=True)
    (package / "_assets" / "a.ply").touch()
    (package / "secret.py").touch()
    (tmp_path / "site" / "assets").mkdir()
    (tmp_path / "site" / "assets" / "b.ply").touch()
    monkeypatch.setattr(files, "_PACKAGE", package)
    assert files.asset("a.ply") == package / "_assets" / "a.ply"
    for name in ("b.ply", "../secret.py", "none", "/etc/hostname"):
        with pytest.raises(InputError) as caught:
            files.asset(name)
        assert caught.value.code == "asset.missing"
    (tmp_path / "site" / "pyproject.toml").touch()
    assert files.asset("b.ply") == tmp_path / "site" / "assets" / "b.ply"


def test_lines_are_appended(tmp_path: Path) -> None:
    for text in ("one", "zwei, ü"):
        files.append_line(tmp_path / "lines.txt", text)
    assert (tmp_path / "lines.txt").read_text(encoding="utf-8") == "one\nzwei, ü\n"
