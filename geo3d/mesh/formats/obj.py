"""OBJ: ``v`` rows in file order and the vertex indices of ``f`` rows; nothing else is looked at.

Texture coordinates and normals never change the vertices.  Negative indices count back from the
latest vertex.  Vertex colours are the common extension ``v x y z r g b``.  ``mtllib`` is ignored.
"""

from __future__ import annotations

import re
from itertools import chain

import numpy as np

from geo3d.errors import FileFormatError
from geo3d.mesh.formats import text
from geo3d.mesh.formats.polygons import triangulated
from geo3d.mesh.mesh import Limits, Mesh, RawMesh, require_counts

AFTER_SLASH = re.compile(rb"/\S*")


class _Collector:
    """Gathers rows and turns them into arrays block by block."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.vertex_rows: list[text.Row] = []
        self.face_rows: list[text.Row] = []
        self.vertices_before: list[int] = []
        self.tables: list[np.ndarray] = []
        self.corners: list[np.ndarray] = []
        self.sizes: list[np.ndarray] = []
        self.n_vertices = 0
        self.n_faces = 0
        self.partly_colored = False

    def vertex(self, row: text.Row) -> None:
        self.vertex_rows.append(row)
        self.n_vertices += 1
        if len(self.vertex_rows) == text.BLOCK:
            self.flush_vertices()

    def face(self, row: text.Row) -> None:
        self.face_rows.append(row)
        self.vertices_before.append(self.n_vertices)
        if len(self.face_rows) == text.BLOCK:
            self.flush_faces()

    def flush_vertices(self) -> None:
        require_counts(self.n_vertices, 0, self.limits)
        widths = set(map(len, self.vertex_rows))
        columns = max(widths) if len(widths) == 1 else 3
        # A fourth number is a homogeneous weight, which meshes do not use.
        columns = 6 if columns >= 6 else 3
        self.partly_colored |= columns == 3 and max(widths, default=0) >= 6
        if self.vertex_rows:
            self.tables.append(text.parse_table(self.vertex_rows, columns))
        self.vertex_rows = []

    def flush_faces(self) -> None:
        sizes = np.fromiter(map(len, self.face_rows), np.int64, len(self.face_rows))
        self.n_faces += int(np.maximum(sizes - 2, 0).sum())
        require_counts(0, self.n_faces, self.limits)
        corners = text.parse_ints(_without_slashes(self.face_rows))
        if len(corners) != sizes.sum():
            raise text.bad_face("A face row has a corner without a vertex index.")
        before = np.repeat(np.array(self.vertices_before, np.int64), sizes)
        # In the file 1 is the first vertex and -1 the latest one; 0 is invalid and stays negative.
        corners = np.where(corners < 0, before + corners, corners - 1)
        self.corners.append(corners)
        self.sizes.append(sizes)
        self.face_rows, self.vertices_before = [], []


def read_obj(data: bytes, limits: Limits) -> RawMesh:
    """Read an OBJ file.

    Raises:
        FileFormatError: ``mesh_file.bad_vertex``, ``.bad_face``, ``.bad_number``,
            ``.locale_comma``, ``.truncated`` (the last row is cut off).
        LimitError: ``mesh_file.too_many_vertices``, ``mesh_file.too_many_faces``.
    """
    collector = _Collector(limits)
    try:
        _collect(data, collector)
    except FileFormatError as error:
        raise _truncated_last_row(data) or error from None
    if not collector.tables:
        raise FileFormatError(
            "mesh_file.not_a_mesh", "There is not one vertex row (v x y z).", "Is it a mesh?"
        )
    sizes = np.concatenate(collector.sizes)
    if len(sizes) and sizes[-1] < 3 and (error := _truncated_last_row(data)):
        raise error
    notes: list[str] = []
    vertices, colors = _split_colors(collector, notes)
    faces, overlapping = triangulated(vertices, np.concatenate(collector.corners), sizes)
    notes = text.polygon_notes(sizes, overlapping) + notes
    return RawMesh(vertices, faces, colors, "obj", tuple(notes))


def _collect(data: bytes, collector: _Collector) -> None:
    if b"\\" in data:
        data = re.sub(rb"\\\r?\n", b" ", data)
    for row in text.content_rows(text.text_lines(data)):
        if row[0] == b"v":
            collector.vertex(row[1:])
        elif row[0] == b"f":
            collector.face(row[1:])
    collector.flush_vertices()
    collector.flush_faces()


def _without_slashes(rows: list[text.Row]) -> list[bytes]:
    joined = b" ".join(chain.from_iterable(rows))
    return AFTER_SLASH.sub(b"", joined).split() if b"/" in joined else joined.split()


def _truncated_last_row(data: bytes) -> FileFormatError | None:
    """Return the truncation error if leaving out an unfinished last row makes the file readable."""
    if data.endswith((b"\n", b"\r")):
        return None
    cut = max(data.rfind(b"\n"), data.rfind(b"\r")) + 1
    try:
        _collect(data[:cut], _Collector(Limits(max_bytes=len(data))))
    except FileFormatError:
        return None
    return text.truncated("The last row is cut off.")


def _split_colors(collector: _Collector, notes: list[str]) -> tuple[np.ndarray, np.ndarray | None]:
    tables = collector.tables
    widths = {table.shape[1] for table in tables}
    if widths == {6}:
        table = np.concatenate(tables)
        rgb = table[:, 3:]
        colors = text.colors_from_numbers(rgb, fractions=bool(np.abs(rgb).max() <= 1.0))
        if colors is None:
            notes.append("mesh_file.bad_colors: vertex colours are not finite and were left out.")
        return np.ascontiguousarray(table[:, :3]), colors
    if 6 in widths or collector.partly_colored:
        notes.append("mesh_file.bad_colors: only some vertices have colours; they were left out.")
    return np.concatenate([table[:, :3] for table in tables]), None


def write_obj(mesh: Mesh) -> bytes:
    """Return the mesh as OBJ (vertex colours as 0..1 after x y z); coordinates keep every bit."""
    columns = mesh.vertices.astype(np.float64).tolist()
    if mesh.vertex_colors is None:
        rows = [f"v {x!r} {y!r} {z!r}\n" for x, y, z in columns]
    else:
        colors = (mesh.vertex_colors / 255.0).tolist()
        rows = [
            f"v {x!r} {y!r} {z!r} {r:.6f} {g:.6f} {b:.6f}\n"
            for (x, y, z), (r, g, b) in zip(columns, colors, strict=True)
        ]
    faces = [f"f {a} {b} {c}\n" for a, b, c in (mesh.faces + 1).tolist()]
    return "".join([*rows, *faces]).encode("ascii")
