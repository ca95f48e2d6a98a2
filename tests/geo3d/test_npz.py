"""Archives of arrays: what was written comes back, everything else is a ValueError."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from geo3d.npz import read_npy, read_npz


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, a=np.arange(5), b=np.eye(2), c=np.zeros(9))
    found = read_npz(path, ["b", "a"], 10_000)
    assert list(found) == ["b", "a"]
    np.testing.assert_array_equal(found["a"], np.arange(5))
    np.testing.assert_array_equal(found["b"], np.eye(2))


def _npy() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.arange(3))
    return stream.getvalue()


def _archive(member: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", member)
    return stream.getvalue()


def _objects() -> bytes:
    stream = io.BytesIO()
    np.savez(stream, a=np.array([{"x": 1}], dtype=object))
    return stream.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no archive",
        _npy(),
        _archive(_npy())[:60],
        _archive(b""),
        _archive(b"\x93NUMPY\x01\x00"),
        _archive(_npy()).replace(b"a.npy", b"b.npy"),
        _archive(bytes(20_000)),
        _objects(),
    ],
    ids=["empty", "text", "npy", "torn", "hollow", "headless", "other_name", "bomb", "objects"],
)
def test_everything_else_is_a_value_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError):
        read_npz(path, ["a"], 10_000)


def test_every_torn_and_flipped_byte_is_survived(tmp_path: Path) -> None:
    path, content = tmp_path / "a.npz", _archive(_npy())
    rng = np.random.default_rng(0)
    for position in range(len(content)):
        flipped = bytearray(content)
        flipped[position] ^= int(rng.integers(1, 256))
        for damaged in (bytes(flipped), content[:position]):
            path.write_bytes(damaged)
            try:
                found = read_npz(path, ["a"], 10_000)
            except ValueError:
                continue
            np.testing.assert_array_equal(found["a"], np.arange(3))


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_npz(tmp_path / "none.npz", ["a"], 10)


def test_files_of_python_2_are_read_without_a_word(tmp_path: Path) -> None:
    """Their headers write whole numbers with an L; numpy warns, which here would be an error."""
    stream = io.BytesIO()
    np.save(stream, np.arange(7))
    old = stream.getvalue().replace(b"(7,), } ", b"(7L,), }")
    assert old != stream.getvalue()
    (tmp_path / "old.npy").write_bytes(old)
    assert np.array_equal(read_npy(tmp_path / "old.npy"), np.arange(7))
    with zipfile.ZipFile(tmp_path / "old.npz", "w") as archive:
        archive.writestr("a.npy", old)
    assert np.array_equal(read_npz(tmp_path / "old.npz", ["a"], 10**6)["a"], np.arange(7))
