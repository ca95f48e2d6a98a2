"""A corpus of generated defects: each file must be reported with its documented code.

Also: each code that the sources can raise is documented in docs/errors.md, and the other way round.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import grid, icosphere, tetrahedron

from geo3d.mesh.check import check_file
from geo3d.mesh.formats.glb import write_glb
from geo3d.mesh.formats.obj import write_obj
from geo3d.mesh.formats.off import write_off
from geo3d.mesh.formats.ply import write_ply
from geo3d.mesh.formats.stl import write_stl
from geo3d.mesh.mesh import Mesh

ROOT = Path(__file__).resolve().parents[3]


def off(vertices: object, faces: object) -> bytes:
    """Write arrays as OFF without asking whether they are a mesh."""
    rows = [" ".join(map(str, row)) for row in np.asarray(vertices).tolist()]
    rows += [f"{len(face)} " + " ".join(map(str, face)) for face in np.asarray(faces).tolist()]
    head = f"OFF\n{len(np.asarray(vertices))} {len(np.asarray(faces))} 0\n"
    return (head + "\n".join(rows) + "\n").encode()


def _ball_with(vertices: object = (), faces: object = (), first: int = 0) -> bytes:
    ball = icosphere(1)
    extra_vertices = np.asarray(vertices, float).reshape(-1, 3)
    extra_faces = np.asarray(faces, int).reshape(-1, 3)
    return off(np.r_[ball.vertices, extra_vertices], np.r_[ball.faces[first:], extra_faces])


BALL = icosphere(1)
N = BALL.n_vertices


def _flipped() -> bytes:
    faces = BALL.faces.copy()
    faces[5] = faces[5][::-1]
    return off(BALL.vertices, faces)


def _fan_of_three() -> bytes:
    vertices = [[0, 0, 0], [0, 0, 1], [1, 0, 0], [-1, 1, 0], [-1, -1, 0]]
    return off(vertices, [[0, 1, 2], [1, 0, 3], [0, 1, 4]])


def _two_balls(shift: float) -> bytes:
    return off(np.r_[BALL.vertices, BALL.vertices + shift], np.r_[BALL.faces, BALL.faces + N])


def _moebius() -> bytes:
    i = np.arange(8)
    angle = 2 * np.pi * i / 8
    ring = np.stack([np.cos(angle), np.sin(angle), 0 * angle], axis=1)
    arm = 0.3 * (np.cos(angle / 2)[:, None] * ring + np.sin(angle / 2)[:, None] * [0, 0, 1])
    c, d = np.where(i < 7, i + 1, 8), np.where(i < 7, i + 9, 0)
    faces = np.r_[np.stack([i, c, i + 8], axis=1), np.stack([i + 8, c, d], axis=1)]
    return off(np.r_[ring + arm, ring - arm], faces)


def _big_endian_data_with_little_endian_header() -> bytes:
    return write_ply(BALL, "binary_big_endian").replace(b"big", b"little", 1)


def _stl_with_big_endian_count() -> bytes:
    data = write_stl(BALL)
    return data[:80] + data[80:84][::-1] + data[84:]


PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(64)

# name -> (file name, content, codes that must be among those reported)
CORPUS: dict[str, tuple[str, bytes | Callable[[], bytes], str]] = {
    "nan": ("a.off", _ball_with([["nan", 0, 0]]), "mesh.non_finite"),
    "infinity": ("a.off", _ball_with([["inf", 0, 0]]), "mesh.non_finite"),
    "overflowing number": (
        "a.obj", write_obj(BALL) + b"v 1e999 0 0\n", "mesh.non_finite"),
    "index out of range": ("a.off", _ball_with([], [[0, 1, N]]), "mesh.index_out_of_range"),
    "negative index": ("a.off", _ball_with([], [[0, 1, -1]]), "mesh.index_out_of_range"),
    "zero index in OBJ": ("a.obj", write_obj(BALL) + b"f 0 1 2\n", "mesh.index_out_of_range"),
    "duplicate vertex": ("a.off", _ball_with([BALL.vertices[3]]), "mesh.duplicate_vertices"),
    "duplicate face": ("a.off", _ball_with([], [BALL.faces[3]]), "mesh.duplicate_faces"),
    "turned duplicate face": (
        "a.off", _ball_with([], [BALL.faces[3][::-1]]), "mesh.duplicate_faces"),
    "repeated index": ("a.off", _ball_with([], [[0, 1, 1]]), "mesh.repeated_index"),
    "zero area": (
        "a.off", _ball_with([[3, 0, 0], [4, 0, 0], [5, 0, 0]], [[N, N + 1, N + 2]]),
        "mesh.zero_area"),
    "sliver": (
        "a.off", _ball_with([[3, 0, 0], [4, 0, 0], [3.5, 1e-4, 0]], [[N, N + 1, N + 2]]),
        "mesh.sliver"),
    "no area at all": ("a.off", off(np.zeros((3, 3)), [[0, 1, 2]]), "mesh.zero_area"),
    "edge of three faces": ("a.off", _fan_of_three, "mesh.non_manifold_edge"),
    "vertex of two fans": ("a.off", _ball_with([[3, 0, 0], [3, 1, 0]], [[0, N, N + 1]]),
                           "mesh.non_manifold_vertex"),
    "boundary": ("a.off", off(grid(4).vertices, grid(4).faces), "mesh.boundary"),
    "hole": ("a.off", _ball_with(first=1), "mesh.boundary"),
    "flipped face": ("a.off", _flipped, "mesh.flipped"),
    "inside out": ("a.off", off(BALL.vertices, BALL.faces[:, ::-1]), "mesh.inward"),
    "one-sided": ("a.off", _moebius, "mesh.non_orientable"),
    "two pieces": ("a.off", lambda: _two_balls(5.0), "mesh.disconnected"),
    "unreferenced vertex": ("a.off", _ball_with([[3, 3, 3]]), "mesh.unreferenced"),
    "through itself": ("a.off", lambda: _two_balls(0.4), "mesh.self_intersection"),
    "huge": ("a.off", off(BALL.vertices * 1e7, BALL.faces), "mesh.extreme_scale"),
    "tiny": ("a.off", off(BALL.vertices * 1e-8, BALL.faces), "mesh.extreme_scale"),
    "point cloud": ("a.off", off(BALL.vertices, np.zeros((0, 3))), "mesh.no_faces"),
    "no vertices": ("a.off", b"OFF\n0 0 0\n", "mesh.no_vertices"),
    "polygons": ("a.off", b"OFF\n4 1 0\n0 0 0\n1 0 0\n1 1 0\n0 1 0\n4 0 1 2 3\n",
                 "mesh_file.polygons"),
    "faces of two corners": ("a.off", b"OFF\n2 1 0\n0 0 0\n1 0 0\n2 0 1\n",
                             "mesh_file.short_faces"),
    "lying OFF header": ("a.off", b"OFF\n2000000000 4 0\n0 0 0\n", "mesh_file.lying_header"),
    "lying PLY header": (
        "a.ply", write_ply(BALL).replace(b"vertex 42", b"vertex 2000000000"),
        "mesh_file.lying_header"),
    "lying STL header": ("a.stl", bytes(80) + b"\xff" * 4 + bytes(50), "mesh_file.lying_header"),
    "header that says less": ("a.ply", write_ply(BALL) + b"more", "mesh_file.trailing_data"),
    "cut OFF": ("a.off", write_off(BALL)[:1500], "mesh_file.truncated"),
    "cut PLY": ("a.ply", write_ply(BALL)[:-1], "mesh_file.truncated"),
    "cut STL": ("a.stl", write_stl(BALL)[:-1], "mesh_file.truncated"),
    "cut text STL": ("a.stl", write_stl(BALL, ascii_text=True)[:-20], "mesh_file.truncated"),
    "cut OBJ": ("a.obj", write_obj(BALL)[:-4], "mesh_file.truncated"),
    "cut GLB": ("a.glb", lambda: write_glb(BALL)[:-1], "mesh_file.truncated"),
    "other byte order in PLY": (
        "a.ply", _big_endian_data_with_little_endian_header, "mesh_file.mixed_endianness"),
    "other byte order in STL": (
        "a.stl", _stl_with_big_endian_count, "mesh_file.mixed_endianness"),
    "wrong extension": ("a.stl", write_ply(BALL), "mesh_file.wrong_extension"),
    "STL": ("a.stl", write_stl(BALL), "mesh_file.stl_merged"),
    "empty": ("a.obj", b"", "mesh_file.empty"),
    "blank": ("a.ply", b" \r\n\t", "mesh_file.empty"),
    "web page": ("a.obj", b"<!DOCTYPE html>\n<html>", "mesh_file.not_a_mesh"),
    "picture": ("a.obj", PNG, "mesh_file.not_a_mesh"),
    "zip": ("a.obj", b"PK\x03\x04" + bytes(30), "mesh_file.archive"),
    "UTF-16": ("a.obj", "v 0 0 0\n".encode("utf-16"), "mesh_file.bad_encoding"),
    "COLLADA": ("a.dae", b'<?xml version="1.0"?><COLLADA/>', "mesh_file.unsupported_format"),
    "text glTF": ("a.gltf", b'{"asset": {}}', "mesh_file.unsupported_format"),
    "decimal commas": ("a.obj", b"v 0,5 1,5 2,5\n", "mesh_file.locale_comma"),
    "word for a number": ("a.obj", b"v 0 1 two\n", "mesh_file.bad_number"),
    "two coordinates": ("a.obj", b"v 0 1\n", "mesh_file.bad_vertex"),
    "face without corners": ("a.off", b"OFF\n1 1 0\n0 0 0\n3\n", "mesh_file.bad_face"),
    "PLY without x": ("a.ply", write_ply(BALL).replace(b"double x", b"double w"),
                      "mesh_file.bad_header"),
    "GLB without JSON": ("a.glb", b"glTF\2\0\0\0\x14\0\0\0\0\0\0\0JSON", "mesh_file.bad_structure"),
}  # fmt: skip


@pytest.mark.parametrize("name", list(CORPUS))
def test_each_defect_has_its_code(name: str, tmp_path: Path) -> None:
    file_name, content, code = CORPUS[name]
    path = tmp_path / file_name
    path.write_bytes(content if isinstance(content, bytes) else content())
    report = check_file(path, self_intersections=True)
    assert code in report.codes(), report.summary()


def test_repair_hints_name_repairs_that_exist() -> None:
    from geo3d.mesh.repair import REPAIRS

    sources = "".join(path.read_text() for path in (ROOT / "geo3d" / "mesh").rglob("*.py"))
    named = set(re.findall(r"`--repair (\w+)", sources))
    assert len(named) > 8
    assert named <= set(REPAIRS)


@pytest.mark.parametrize("content", [
    b"\xef\xbb\xbf" + write_off(tetrahedron()),
    write_off(tetrahedron()).replace(b"\n", b"\r\n"),
    write_obj(tetrahedron()).replace(b"\n", b"\r"),
    write_ply(Mesh(tetrahedron().vertices, tetrahedron().faces), "ascii").replace(b"\n", b"\r\n"),
    b"\xef\xbb\xbf" + write_stl(tetrahedron(), ascii_text=True),
])  # fmt: skip
def test_harmless_oddities_are_read(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "mesh"
    path.write_bytes(content)
    report = check_file(path)
    assert report.healthy, report.summary()
    assert (report.n_vertices, report.n_faces) == (4, 4)


def test_codes_and_documentation_agree() -> None:
    files = [*(ROOT / "geo3d" / "mesh").glob("*.py"), *(ROOT / "geo3d/mesh/formats").glob("*.py")]
    pattern = r"""["'`]((?:mesh_file|repair)\.[a-z_]+)[:"'`]"""
    raised = {code for path in files for code in re.findall(pattern, path.read_text())}
    raised |= {"mesh_file.too_many_vertices", "mesh_file.too_many_faces"}
    pages = (ROOT / "docs" / "errors.md").read_text()
    documented = set(re.findall(r'<a id="((?:mesh_file|repair)\.[a-z_]+)"', pages))
    assert len(documented) > 30
    assert raised == documented
    defects = (ROOT / "geo3d" / "mesh" / "findings.py").read_text()
    for code in re.findall(r'"(mesh\.[a-z_]+)"', defects):
        assert f'<a id="{code}"' in pages
