"""STL: a soup of triangles, binary (float32) or text.

The file has no vertex list.  Corners with equal coordinates become one vertex (-0.0 counts as 0.0),
numbered in order of first occurrence; a note says so.
"""

from __future__ import annotations

import numpy as np

from geo3d.errors import FileFormatError
from geo3d.mesh.formats import text
from geo3d.mesh.mesh import Limits, Mesh, RawMesh, require_bytes, require_counts
from geo3d.mesh.ops import group_equal_points

HEADER = 84
RECORD = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])


def binary_triangles(data: bytes, order: str = "<") -> int:
    """Return the number of triangles the header of a binary STL announces (0 if too short)."""
    return int(np.frombuffer(data, order + "u4", 1, 80)[0]) if len(data) >= HEADER else 0


def is_binary_stl(data: bytes) -> bool:
    """Whether the length is exactly what a binary STL header announces."""
    return len(data) > HEADER and len(data) == HEADER + RECORD.itemsize * binary_triangles(data)


def read_stl(data: bytes, limits: Limits) -> RawMesh:
    """Read a binary or text STL file.

    Raises:
        FileFormatError: ``mesh_file.lying_header``, ``.truncated``, ``.mixed_endianness``,
            ``.bad_vertex``, ``.bad_number``, ``.locale_comma``.
        LimitError: ``mesh_file.too_many_vertices``, ``mesh_file.too_many_faces``.
    """
    data = data if is_binary_stl(data) else data.removeprefix(b"\xef\xbb\xbf")
    is_text = data.lstrip()[:5].lower() == b"solid" and b"\0" not in data
    if is_text and not is_binary_stl(data):
        corners, notes = _text_corners(data, limits), []
    else:
        corners, notes = _binary_corners(data, limits)
    first, group = group_equal_points(corners)
    notes.append(
        f"mesh_file.stl_merged: STL has no vertex list; {len(corners):,} corners became "
        f"{len(first):,} vertices, numbered in order of first occurrence."
    )
    return RawMesh(corners[first], group.reshape(-1, 3), None, "stl", tuple(notes))


def _binary_corners(data: bytes, limits: Limits) -> tuple[np.ndarray, list[str]]:
    count = binary_triangles(data)
    present = len(data) - HEADER
    swapped = binary_triangles(data, ">")
    if count != swapped and present == swapped * RECORD.itemsize > 0:
        raise FileFormatError(
            "mesh_file.mixed_endianness",
            "The triangle count fits the file only in big-endian byte order; STL is little-endian.",
            "Export it again as STL or PLY.",
        )
    require_bytes(count * RECORD.itemsize, max(present, 0), f"{count:,} triangles")
    if present < 0:
        raise text.truncated(f"A binary STL has at least {HEADER} bytes.")
    require_counts(3 * count, count, limits)
    rows = np.frombuffer(data, RECORD, count, HEADER)
    notes = []
    if present > count * RECORD.itemsize:
        notes.append("mesh_file.trailing_data: more data follows than the header announces.")
    return rows["corners"].reshape(-1, 3).astype(np.float32), notes


def _text_corners(data: bytes, limits: Limits) -> np.ndarray:
    blocks, rows, n_rows, ended = [np.zeros((0, 3))], [], 0, False
    for line in text.text_lines(data):
        row = line.split()
        key = row[0].lower() if row else b""
        if key == b"vertex":
            rows.append(row[1:])
            n_rows += 1
            if len(rows) == text.BLOCK:
                require_counts(n_rows, n_rows // 3, limits)
                blocks.append(text.parse_table(rows, 3))
                rows = []
        elif key in (b"solid", b"endsolid"):
            ended = key == b"endsolid"
    if not ended or n_rows % 3:
        raise text.truncated("The text STL stops before endsolid, or inside a triangle.")
    require_counts(n_rows, n_rows // 3, limits)
    return np.concatenate([*blocks, text.parse_table(rows, 3)])


def write_stl(mesh: Mesh, ascii_text: bool = False) -> bytes:
    """Return the mesh as STL; coordinates are rounded to float32 and vertices are not kept."""
    corners = mesh.vertices.astype(np.float32)[mesh.faces]
    normals = _unit_normals(corners)
    if ascii_text:
        return _text_body(corners, normals)
    rows = np.zeros(mesh.n_faces, RECORD)
    rows["normal"] = normals
    rows["corners"] = corners
    head = b"binary STL".ljust(80, b" ") + np.array([mesh.n_faces], "<u4").tobytes()
    return head + rows.tobytes()


def _unit_normals(corners: np.ndarray) -> np.ndarray:
    wide = corners.astype(np.float64)
    normals = np.cross(wide[:, 1] - wide[:, 0], wide[:, 2] - wide[:, 0])
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    return np.divide(normals, length, out=np.zeros_like(normals), where=length > 0)


def _text_body(corners: np.ndarray, normals: np.ndarray) -> bytes:
    parts = ["solid mesh\n"]
    for normal, triangle in zip(normals.tolist(), corners.astype(np.float64).tolist(), strict=True):
        parts.append("facet normal {!r} {!r} {!r}\nouter loop\n".format(*normal))
        parts += ["vertex {!r} {!r} {!r}\n".format(*corner) for corner in triangle]
        parts.append("endloop\nendfacet\n")
    parts.append("endsolid mesh\n")
    return "".join(parts).encode("ascii")
