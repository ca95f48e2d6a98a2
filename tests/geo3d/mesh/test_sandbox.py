"""The child process that reads uploads: same results, and no way to hurt the parent."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import grid, icosphere

from geo3d.errors import FileFormatError, InputError, LimitError, MeshError
from geo3d.mesh import sandbox
from geo3d.mesh.io import FORMATS, load_mesh, save_mesh
from geo3d.mesh.mesh import Limits, Mesh
from geo3d.mesh.sandbox import load_untrusted

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux resource limits")


@pytest.mark.parametrize("extension", FORMATS)
def test_same_mesh_as_without_the_sandbox(extension: str, tmp_path: Path) -> None:
    ball = icosphere(2)
    colors = np.arange(3 * ball.n_vertices).reshape(-1, 3).astype(np.uint8)
    path = save_mesh(Mesh(ball.vertices, ball.faces, colors), tmp_path / f"ball.{extension}")
    direct, boxed = load_mesh(path), load_untrusted(path)
    assert boxed.content_hash() == direct.content_hash()
    assert boxed.name == direct.name == "ball"
    assert boxed.vertices.dtype == direct.vertices.dtype
    assert (boxed.vertex_colors is None) == (direct.vertex_colors is None)
    if boxed.vertex_colors is not None:
        assert np.array_equal(boxed.vertex_colors, direct.vertex_colors)


def test_errors_cross_the_process_boundary(tmp_path: Path) -> None:
    path = tmp_path / "page.obj"
    path.write_bytes(b"<html>")
    with pytest.raises(FileFormatError) as caught:
        load_untrusted(path)
    assert caught.value.code == "mesh_file.not_a_mesh"
    assert caught.value.hint
    big = save_mesh(grid(6), tmp_path / "grid.off")
    with pytest.raises(LimitError) as limit:
        load_untrusted(big, Limits(max_vertices=10))
    assert limit.value.code == "mesh_file.too_many_vertices"


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"v 0 0 0\nv 1 0 0\nv 0 1 0\nv nan 0 0\nf 1 2 3\n", "mesh.non_finite"),
        (b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 4\n", "mesh.index_out_of_range"),
        (b"v 0 0 0\nv 1e9 0 0\nv 0 1 0\nf 1 2 3\n", "mesh.extreme_scale"),
        (b"v 0 0 0\nv 1 0 0\nv 2 0 0\nf 1 2 3\n", "mesh.zero_area"),
    ],
)
def test_errors_in_the_report_refuse_the_mesh(content: bytes, code: str, tmp_path: Path) -> None:
    path = tmp_path / "mesh.obj"
    path.write_bytes(content)
    with pytest.raises(MeshError) as caught:
        load_untrusted(path)
    assert caught.value.code == code


def test_uploads_are_at_most_64_mib(tmp_path: Path) -> None:
    path = tmp_path / "zeros.obj"
    with open(path, "wb") as file:
        file.truncate(64 * 2**20 + 1)
    with pytest.raises(LimitError) as caught:
        load_untrusted(path)
    assert caught.value.code == "mesh_file.too_many_bytes"


def child_code(body: str) -> str:
    """Return code for a child that limits itself as the real one does, then misbehaves."""
    return (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from geo3d.mesh.sandbox_child import limit_this_process\n"
        f"limit_this_process(cpu_seconds=1)\n{body}\n"
    )


def misbehave(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, body: str, wall: float
) -> InputError:
    monkeypatch.setattr(sandbox, "_BOOT", child_code(body))
    path = save_mesh(grid(3), tmp_path / "mesh.off")
    with pytest.raises(InputError) as caught:
        load_untrusted(path, wall_seconds=wall)
    return caught.value


@pytest.mark.parametrize("body", [
    "import os; os.abort()",
    "sys.exit(3)",
    "print('no json')",
    "print('{}')",
    "print('[1, 2]')",
    "print('{\"format\": \"off\", \"notes\": [], \"arrays\": 2, \"limits_missing\": []}')",
    "print('{\"error\": \"SystemExit\", \"code\": \"x\"}')",
])  # fmt: skip
def test_a_child_that_answers_nonsense(
    body: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    error = misbehave(monkeypatch, tmp_path, body, wall=60.0)
    assert error.code == "mesh_file.reader_crashed"


@pytest.mark.parametrize("arrays", [
    [np.zeros((3, 2)), np.zeros((0, 3), np.int64)],
    [np.zeros((3, 3), np.complex128), np.zeros((0, 3), np.int64)],
    [np.zeros((3, 3)), np.zeros((1, 3), np.int32)],
    [np.zeros((3, 3)), np.zeros((0, 3), np.int64), np.zeros((2, 3), np.uint8)],
    [np.zeros(3)],
])  # fmt: skip
def test_arrays_from_the_child_are_not_trusted(arrays: list[np.ndarray], tmp_path: Path) -> None:
    head = {"format": "off", "notes": [], "arrays": len(arrays), "limits_missing": []}
    with open(tmp_path / "answer", "w+b") as file:
        file.write(json.dumps(head).encode() + b"\n")
        for array in arrays:
            np.save(file, array)
        file.seek(0)
        with pytest.raises(FileFormatError) as caught:
            sandbox._received(file, 0)
    assert caught.value.code == "mesh_file.reader_crashed"


def test_a_child_that_sleeps_is_killed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    error = misbehave(monkeypatch, tmp_path, "import time; time.sleep(600)", wall=2.0)
    assert error.code == "mesh_file.timeout"
    assert error.exit_code == 6


@linux_only
def test_a_child_that_computes_for_ever_is_killed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    error = misbehave(monkeypatch, tmp_path, "while True: pass", wall=60.0)
    assert error.code == "mesh_file.timeout"


@linux_only
def test_a_child_cannot_fill_the_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    body = (
        "import resource; assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == 2**30\n"
        "limit_this_process(cpu_seconds=None, output=2**20)\n"
        "while True: sys.stdout.write('x' * 2**16)"
    )
    error = misbehave(monkeypatch, tmp_path, body, wall=60.0)
    assert error.code == "mesh_file.reader_crashed"
