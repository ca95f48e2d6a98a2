"""Saving and loading gives the same bits back, for any coordinates and any faces."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from geo3d.mesh.formats.ply import write_ply
from geo3d.mesh.io import WRITERS, load_mesh, parse_bytes, save_mesh
from geo3d.mesh.mesh import Mesh


@st.composite
def meshes(draw: st.DrawFn) -> Mesh:
    """Draw meshes with extreme coordinates, unreferenced vertices, repeated and odd faces."""
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    n = draw(st.integers(1, 12))
    width = 32 if dtype == np.float32 else 64
    numbers = st.floats(allow_nan=False, allow_infinity=False, width=width)
    vertices = draw(hnp.arrays(dtype, (n, 3), elements=numbers))
    indices = st.integers(0, n - 1)
    faces = draw(hnp.arrays(np.int64, (draw(st.integers(0, 12)), 3), elements=indices))
    colors = draw(st.none() | hnp.arrays(np.uint8, (n, 3)))
    return Mesh(vertices, faces, colors)


def assert_same(mesh: Mesh, data: bytes, suffix: str, keeps_dtype: bool) -> None:
    raw = parse_bytes(data, suffix)
    if keeps_dtype:
        assert raw.vertices.dtype == mesh.vertices.dtype
    # The cast is exact: what was read is the written number, if wider.
    assert np.array_equal(raw.vertices, mesh.vertices.astype(np.float64))
    assert raw.vertices.astype(mesh.vertices.dtype).tobytes() == mesh.vertices.tobytes()
    assert raw.faces.tobytes() == mesh.faces.tobytes()
    if mesh.vertex_colors is None:
        assert raw.vertex_colors is None
    else:
        assert raw.vertex_colors is not None
        assert raw.vertex_colors.tobytes() == mesh.vertex_colors.tobytes()
    assert raw.notes == ()


def check_all_formats(mesh: Mesh) -> None:
    for suffix in ("obj", "off"):
        assert_same(mesh, WRITERS[suffix](mesh), suffix, keeps_dtype=False)
    for encoding in ("ascii", "binary_little_endian", "binary_big_endian"):
        data = write_ply(mesh, encoding)  # type: ignore[arg-type]
        assert_same(mesh, data, "ply", keeps_dtype=True)


@given(meshes())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_round_trip(mesh: Mesh) -> None:
    check_all_formats(mesh)


@pytest.mark.slow
@given(meshes())
@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_round_trip_of_many(mesh: Mesh) -> None:
    check_all_formats(mesh)


@pytest.mark.parametrize("extension", ["obj", "off", "ply"])
def test_content_hash_survives_a_file(extension: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for dtype in (np.float32, np.float64):
        vertices = rng.standard_normal((50, 3)).astype(dtype)
        mesh = Mesh(vertices, rng.integers(0, 50, (80, 3)))
        again = load_mesh(save_mesh(mesh, tmp_path / f"mesh.{extension}"))
        assert again.content_hash() == mesh.content_hash()


def test_glb_keeps_order_faces_and_colours(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    # The last vertices belong to no face, and two coincide: a careless loader drops or joins them.
    vertices = rng.standard_normal((40, 3)).astype(np.float32)
    vertices[7] = vertices[3]
    faces = np.stack([rng.permutation(30)[:3] for _ in range(60)])
    colors = rng.integers(0, 256, (40, 3)).astype(np.uint8)
    again = load_mesh(save_mesh(Mesh(vertices, faces, colors), tmp_path / "mesh.glb"))
    assert np.array_equal(again.vertices, vertices)
    assert np.array_equal(again.faces, faces)
    assert again.vertex_colors is not None
    # eight bits of linear light are coarse in the dark
    drift = np.abs(again.vertex_colors.astype(int) - colors)
    assert drift.max() <= 13
    assert drift[colors >= 100].max() <= 1


def test_blocks_join_seamlessly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("geo3d.mesh.formats.text.BLOCK", 3)
    rng = np.random.default_rng(2)
    mesh = Mesh(rng.standard_normal((10, 3)), rng.integers(0, 10, (11, 3)),
                rng.integers(0, 256, (10, 3)).astype(np.uint8))  # fmt: skip
    check_all_formats(mesh)
