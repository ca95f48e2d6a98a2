"""The readers of OBJ, OFF, PLY and STL, on strings written by hand."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import bumpy_sphere, grid, tetrahedron
from mesh_file_helpers import OBJ, code_of, codes

from geo3d.mesh.formats.ply import write_ply
from geo3d.mesh.formats.stl import write_stl
from geo3d.mesh.io import parse_bytes
from geo3d.mesh.mesh import Mesh


def test_obj_with_texture_and_normals_keeps_vertices_and_their_indices() -> None:
    text = b"mtllib ../secret.mtl\n" + OBJ + b"v 9 9 9\nvt 0 0\nvt 1 1\nvn 0 0 1\n"
    raw = parse_bytes(text + b"usemtl x\nf 1/2/1 2/1/1 3/2/1\nf 1//1 3//1 4//1\n", ".obj")
    assert raw.vertices.shape == (5, 3)
    assert raw.vertices[4].tolist() == [9, 9, 9]
    assert raw.faces.tolist() == [[0, 1, 2], [0, 2, 3]]
    assert raw.notes == ()


def test_obj_negative_indices_count_back_from_where_the_face_stands() -> None:
    text = b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf -3 -2 -1\nv 0 0 1\nf -1 -2 -3\nf -5 1 2\n"
    raw = parse_bytes(text, ".obj")
    assert raw.faces.tolist() == [[0, 1, 2], [3, 2, 1], [-1, 0, 1]]


def test_obj_zero_index_is_out_of_range_rather_than_the_last_vertex() -> None:
    assert parse_bytes(OBJ + b"f 0 1 2\n").faces.tolist() == [[-1, 0, 1]]


def test_convex_polygons_become_fans_in_file_order() -> None:
    raw = parse_bytes(OBJ + b"v 1 1 1\nf 1 2 3 4 5\nf 1 2 3\n", ".obj")
    assert raw.faces.tolist() == [[0, 1, 2], [0, 2, 3], [0, 3, 4], [0, 1, 2]]
    assert codes(raw.notes) == ["mesh_file.polygons"]


def test_obj_colours_are_read_as_fractions_or_bytes() -> None:
    fractions = parse_bytes(b"v 0 0 0 1 0 0.5\nv 1 0 0 0 1 0\n", ".obj")
    assert fractions.vertex_colors is not None
    assert fractions.vertex_colors.tolist() == [[255, 0, 128], [0, 255, 0]]
    whole = parse_bytes(b"v 0 0 0 255 0 7\nv 1 0 0 0 1 0\n", ".obj")
    assert whole.vertex_colors is not None
    assert whole.vertex_colors.tolist() == [[255, 0, 7], [0, 1, 0]]
    partial = parse_bytes(b"v 0 0 0 1 0 0\nv 1 0 0\n", ".obj")
    assert partial.vertex_colors is None
    assert codes(partial.notes) == ["mesh_file.bad_colors"]


def test_obj_continued_rows_comments_and_homogeneous_weight() -> None:
    raw = parse_bytes(b"v 0 0 0 1 # first\nv 1 0 \\\n 0 1\n\tv 0 1 0 1\nf 1 \\\r\n2 3\n#f 1 1 1\n")
    assert raw.vertices.tolist() == [[0, 0, 0], [1, 0, 0], [0, 1, 0]]
    assert raw.faces.tolist() == [[0, 1, 2]]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (OBJ + b"v 1 2\n", "mesh_file.bad_vertex"),
        (OBJ + b"v 1 2 x\n", "mesh_file.bad_number"),
        (OBJ + b"v 1 2 1_0\n", "mesh_file.bad_number"),
        (OBJ + b"v 0,5 1,0 0,25\n", "mesh_file.locale_comma"),
        (OBJ + b"f 1 2 3.5\n", "mesh_file.bad_number"),
        (OBJ + b"f 1 2 99999999999999999999\n", "mesh_file.bad_number"),
        (OBJ + b"f 1 2 /1\n", "mesh_file.bad_face"),
        (OBJ + b"f 1 2 3\nv 1 2", "mesh_file.truncated"),
        (OBJ + b"f 1 2 3\nf 1 2", "mesh_file.truncated"),
        (b"# nothing\nf 1 2 3\n", "mesh_file.not_a_mesh"),
    ],
)
def test_obj_malformations(data: bytes, code: str) -> None:
    assert code_of(data, ".obj") == code


OFF_BODY = b"0 0 0\n1 0 0\n0 1 0\n0 0 1\n3 0 1 2\n3 0 2 3\n"


@pytest.mark.parametrize(
    "head",
    [
        b"OFF\n4 2 0\n",
        b"OFF 4 2 0\n",
        b"OFF4 2 0\n",
        b"\xef\xbb\xbfOFF\r\n4 2 0\r\n",
        b"# made by hand\n\nOFF # keyword\n# counts\n4 2\n",
    ],
)
def test_off_header_variants(head: bytes) -> None:
    raw = parse_bytes(head + OFF_BODY, ".off")
    assert raw.format == "off"
    assert raw.vertices.tolist()[3] == [0, 0, 1]
    assert raw.faces.tolist() == [[0, 1, 2], [0, 2, 3]]
    assert raw.notes == ()


def test_off_with_carriage_returns_only() -> None:
    raw = parse_bytes((b"OFF\n4 2 0\n" + OFF_BODY).replace(b"\n", b"\r"), ".off")
    assert raw.faces.tolist() == [[0, 1, 2], [0, 2, 3]]


def test_off_colours_normals_and_coloured_faces() -> None:
    text = b"CNOFF\n3 1 0\n0 0 0 0 0 1 10 20 30 255\n1 0 0 0 0 1 1 2 3 255\n0 1 0 0 0 1 0 0 0 0\n"
    raw = parse_bytes(text + b"3 0 1 2 255 0 0\n", ".off")
    assert raw.vertices.tolist() == [[0, 0, 0], [1, 0, 0], [0, 1, 0]]
    assert raw.vertex_colors is not None
    assert raw.vertex_colors.tolist() == [[10, 20, 30], [1, 2, 3], [0, 0, 0]]
    assert raw.faces.tolist() == [[0, 1, 2]]
    fractions = parse_bytes(b"COFF\n1 0 0\n0 0 0 1.0 0.0 0.5 1.0\n", ".off")
    assert fractions.vertex_colors is not None
    assert fractions.vertex_colors.tolist() == [[255, 0, 128]]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"OFF\n", "mesh_file.bad_header"),
        (b"OFF\n-4 2 0\n" + OFF_BODY, "mesh_file.bad_header"),
        (b"OFF\n4 x 0\n" + OFF_BODY, "mesh_file.bad_number"),
        (b"OFF\n5 3 0\n" + OFF_BODY, "mesh_file.truncated"),
        (b"OFF\n4 2 0\n" + OFF_BODY.replace(b"1 0 0", b"1 0"), "mesh_file.bad_vertex"),
        (b"OFF\n4 4 0\n" + OFF_BODY, "mesh_file.truncated"),
        (b"OFF\n2000000000 4 0\n" + OFF_BODY, "mesh_file.lying_header"),
        (b"OFF\n4 2 0\n" + OFF_BODY.replace(b"3 0 1 2", b"4 0 1 2"), "mesh_file.bad_face"),
        (b"OFF\n4 2 0\n" + OFF_BODY.replace(b"3 0 1 2", b"-3 0 1 2"), "mesh_file.bad_face"),
        (b"OFF\n4 2 0\n" + OFF_BODY.replace(b"1 0 0", b"1,5 0 0"), "mesh_file.locale_comma"),
        (b"4OFF\n4 2 0\n" + OFF_BODY, "mesh_file.unsupported_format"),
        (b"OFF BINARY\n4 2 0\n" + OFF_BODY, "mesh_file.unsupported_format"),
    ],
)
def test_off_malformations(data: bytes, code: str) -> None:
    assert code_of(data, ".off") == code


def test_off_trailing_rows_are_noted() -> None:
    raw = parse_bytes(b"OFF\n4 1 0\n" + OFF_BODY, ".off")
    assert len(raw.faces) == 1
    assert codes(raw.notes) == ["mesh_file.trailing_data"]


PLY_HEAD = (
    "ply\nformat {0} 1.0\ncomment any order, any types, any elements\n"
    "element camera 1\nproperty list uchar float stuff\nproperty short id\n"
    "element vertex 3\nproperty uchar red\nproperty double z\nproperty uchar green\n"
    "property float x\nproperty int y\nproperty uchar blue\n"
    "element face 2\nproperty float quality\nproperty list ushort uint vertex_index\n"
    "property list uchar float texcoord\nend_header\n"
)


def odd_ply(encoding: str, endian: str, lengths: tuple[int, int] = (3, 3)) -> bytes:
    """Return a PLY that uses most of the format's freedom."""
    head = PLY_HEAD.format(encoding).encode()
    if encoding == "ascii":
        faces = [f"0.5 {n} " + " ".join(str(i % 3) for i in range(n)) + " 1 0.25" for n in lengths]
        rows = ["2 1.5 2.5 7", "1 0.5 2 3 -4 5", "6 1 7 1 0 8", "9 2 10 0 1 11", *faces]
        return head + "\n".join([*rows, ""]).encode()
    vertex = np.dtype(
        [("r", "u1"), ("z", endian + "f8"), ("g", "u1"), ("x", endian + "f4"),
         ("y", endian + "i4"), ("b", "u1")]
    )  # fmt: skip
    rows = [(1, 0.5, 2, 3, -4, 5), (6, 1, 7, 1, 0, 8), (9, 2, 10, 0, 1, 11)]
    camera = b"\x02" + np.array([1.5, 2.5], endian + "f4").tobytes()
    camera += np.array([7], endian + "i2").tobytes()
    faces = b""
    for n in lengths:
        faces += np.array([0.5], endian + "f4").tobytes() + np.array([n], endian + "u2").tobytes()
        faces += (np.arange(n) % 3).astype(endian + "u4").tobytes()
        faces += b"\x01" + np.array([0.25], endian + "f4").tobytes()
    return head + camera + np.array(rows, vertex).tobytes() + faces


@pytest.mark.parametrize("lengths", [(3, 3), (4, 3)])
@pytest.mark.parametrize(
    ("encoding", "endian"),
    [("ascii", ""), ("binary_little_endian", "<"), ("binary_big_endian", ">")],
)
def test_ply_any_order_types_and_elements(
    encoding: str, endian: str, lengths: tuple[int, int]
) -> None:
    raw = parse_bytes(odd_ply(encoding, endian, lengths), ".ply")
    assert raw.vertices.tolist() == [[3, -4, 0.5], [1, 0, 1], [0, 1, 2]]
    assert raw.vertex_colors is not None
    assert raw.vertex_colors.tolist() == [[1, 2, 5], [6, 7, 8], [9, 10, 11]]
    expected = [[0, 1, 2]] * 2 if lengths == (3, 3) else [[0, 1, 2], [0, 2, 0], [0, 1, 2]]
    assert raw.faces.tolist() == expected


@pytest.mark.parametrize("encoding", ["ascii", "binary_little_endian", "binary_big_endian"])
def test_ply_keeps_the_declared_precision(encoding: str) -> None:
    for dtype in (np.float32, np.float64):
        mesh = bumpy_sphere(1)
        mesh = Mesh(mesh.vertices.astype(dtype), mesh.faces)
        raw = parse_bytes(write_ply(mesh, encoding), ".ply")  # type: ignore[arg-type]
        assert raw.vertices.dtype == dtype
        assert raw.vertices.tobytes() == mesh.vertices.tobytes()
        assert np.array_equal(raw.faces, mesh.faces)


def _ply(old: str, new: str, encoding: str = "binary_little_endian") -> bytes:
    data = write_ply(grid(5), encoding)  # type: ignore[arg-type]
    assert old.encode() in data
    return data.replace(old.encode(), new.encode(), 1)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (_ply("vertex 25", "vertex 2000000000"), "mesh_file.lying_header"),
        (_ply("vertex 25", "vertex -3"), "mesh_file.bad_header"),
        (_ply("vertex 25", "vertex 9" + "9" * 30), "mesh_file.bad_header"),
        (_ply("double x", "quaternion x"), "mesh_file.bad_header"),
        (_ply("double x", "double y"), "mesh_file.bad_header"),
        (_ply("double x", "double w"), "mesh_file.bad_header"),
        (_ply("list uchar int", "list float int"), "mesh_file.bad_header"),
        (_ply("list uchar int", "list uchar float"), "mesh_file.bad_face"),
        (_ply("format binary_little_endian 1.0\n", ""), "mesh_file.bad_header"),
        (_ply("element face", "element vertex"), "mesh_file.bad_header"),
        (_ply("end_header", "end_of_it"), "mesh_file.truncated"),
        (_ply("little", "big"), "mesh_file.mixed_endianness"),
        (write_ply(grid(5))[:-5], "mesh_file.truncated"),
        (write_ply(grid(5), "ascii")[:-25], "mesh_file.truncated"),
        (_ply("\n1.0 0.0 0.0", "\n1,0 0,0 0,0", "ascii"), "mesh_file.locale_comma"),
    ],
)
def test_ply_malformations(data: bytes, code: str) -> None:
    assert code_of(data, ".ply") == code


def test_ply_trailing_bytes_are_noted() -> None:
    assert codes(parse_bytes(write_ply(grid(3)) + b"x", ".ply").notes) == [
        "mesh_file.trailing_data"
    ]


@pytest.mark.parametrize("ascii_text", [False, True])
def test_stl_joins_equal_corners_in_order_of_first_occurrence(ascii_text: bool) -> None:
    vertices = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [7, 7, 7]], np.float32)
    mesh = Mesh(vertices, np.array([[2, 3, 0], [0, 1, 2]]))
    raw = parse_bytes(write_stl(mesh, ascii_text=ascii_text), ".stl")
    assert raw.vertices.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 0], [1, 0, 0]]
    assert raw.faces.tolist() == [[0, 1, 2], [2, 3, 0]]
    assert codes(raw.notes) == ["mesh_file.stl_merged"]


def test_stl_negative_zero_equals_zero() -> None:
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [-0.0, 0, 0], [0, -1, 0]], np.float32)
    mesh = Mesh(vertices, np.array([[0, 1, 2], [3, 4, 1]]))
    assert parse_bytes(write_stl(mesh), ".stl").faces.tolist() == [[0, 1, 2], [0, 3, 1]]


def test_stl_that_says_solid_in_a_binary_header_is_binary() -> None:
    data = b"solid oops".ljust(80) + write_stl(tetrahedron())[80:]
    assert parse_bytes(data, ".stl").faces.shape == (4, 3)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (bytes(80) + b"\xff\xff\xff\xff", "mesh_file.lying_header"),
        (write_stl(grid(9))[:-60], "mesh_file.truncated"),
        (bytes(70), "mesh_file.truncated"),
        (bytes(80) + b"\0\0\0\x01" + bytes(50), "mesh_file.mixed_endianness"),
        (write_stl(tetrahedron(), ascii_text=True)[:-14], "mesh_file.truncated"),
        (
            write_stl(tetrahedron(), ascii_text=True).replace(b"vertex 1.0", b"vertex 1,0"),
            "mesh_file.locale_comma",
        ),
    ],
)
def test_stl_malformations(data: bytes, code: str) -> None:
    assert code_of(data, ".stl") == code
