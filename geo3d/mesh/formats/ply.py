"""PLY: a text header that declares elements and properties, then text or binary rows.

Read: ascii, binary_little_endian and binary_big_endian; any property order; any scalar and list
types; any further elements (skipped); vertex colours.  Written: the same three encodings with
``x y z [red green blue]`` and ``vertex_indices``.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from geo3d.errors import FileFormatError
from geo3d.mesh.formats import text
from geo3d.mesh.formats.ply_header import Element, Header, read_header
from geo3d.mesh.formats.ply_rows import INDEX_NAMES, ElementData, ascii_elements, binary_elements
from geo3d.mesh.formats.polygons import triangulated, unrolled_strips
from geo3d.mesh.mesh import Limits, Mesh, RawMesh, require_bytes, require_counts

Encoding = Literal["ascii", "binary_little_endian", "binary_big_endian"]

COLOR_NAMES = (("red", "green", "blue"), ("diffuse_red", "diffuse_green", "diffuse_blue"))


def read_ply(data: bytes, limits: Limits) -> RawMesh:
    """Read a PLY file.

    Raises:
        FileFormatError: ``mesh_file.bad_header``, ``.lying_header``, ``.truncated``,
            ``.mixed_endianness``, ``.unsupported_format``, ``.bad_vertex``, ``.bad_face``,
            ``.bad_number``, ``.locale_comma``.
        LimitError: ``mesh_file.too_many_vertices``, ``mesh_file.too_many_faces``.
    """
    header = read_header(data)
    vertex = header.element("vertex")
    face = header.element("face") or Element("face", 0, ())
    if vertex is None or not {"x", "y", "z"} <= set(vertex.names):
        raise FileFormatError(
            "mesh_file.bad_header", "The PLY header declares no vertices with x, y, z.", ""
        )
    _require_size(header, len(data))
    require_counts(vertex.count, face.count, limits)
    elements, notes = (ascii_elements if header.encoding == "ascii" else binary_elements)(
        data, header, limits
    )
    vertices, colors = _vertices(vertex, elements["vertex"])
    faces = np.zeros((0, 3), np.int64)
    if "face" in elements and (polygons := elements["face"].polygons) is not None:
        require_counts(0, int(np.maximum(polygons[1] - 2, 0).sum()), limits)
        faces, overlapping = triangulated(vertices, *polygons)
        notes += text.polygon_notes(polygons[1], overlapping)
    if "tristrips" in elements and (strips := elements["tristrips"].polygons) is not None:
        require_counts(0, len(strips[0]), limits)
        faces = np.concatenate([faces, unrolled_strips(*_with_ends(header, vertices, *strips))])
    if header.encoding != "ascii":
        _require_byte_order(faces, len(vertices))
    return RawMesh(vertices, faces, colors, "ply", tuple(notes))


def _with_ends(
    header: Header, vertices: np.ndarray, corners: np.ndarray, counts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return strips whose ends are -1, which unsigned numbers write as their largest."""
    element = header.element("tristrips")
    for prop in element.properties if element else ():
        if prop.name in INDEX_NAMES and prop.dtype[0] == "u":
            largest = np.iinfo(prop.dtype).max
            corners = np.where((corners == largest) & (largest >= len(vertices)), -1, corners)
    return corners, counts


def read_columns(data: bytes, element: str, limits: Limits) -> dict[str, np.ndarray]:
    """Return the scalar columns of one element by name, in the types of the file.

    Raises:
        FileFormatError: ``mesh_file.bad_header`` (no such element), ``.lying_header``,
            ``.truncated``, ``.bad_number``.
        LimitError: ``mesh_file.too_many_vertices``.
    """
    header = read_header(data)
    found = header.element(element)
    if found is None:
        raise FileFormatError(
            "mesh_file.bad_header", f"The PLY header declares no {element}.", "Export it again."
        )
    require_counts(found.count, 0, limits)
    _require_size(header, len(data))
    read = ascii_elements if header.encoding == "ascii" else binary_elements
    return read(data, header, limits)[0][element].columns


def _require_size(header: Header, length: int) -> None:
    present = length - header.length
    needed = sum(
        element.count * element.least_bytes(header.encoding) for element in header.elements
    )
    counts = ", ".join(f"{element.count:,} x {element.name}" for element in header.elements)
    # The last text row may lack its line end.
    require_bytes(needed - (header.encoding == "ascii"), present, counts)


def _require_byte_order(faces: np.ndarray, n_vertices: int) -> None:
    if len(faces) == 0 or (faces.min() >= 0 and faces.max() < n_vertices):
        return
    swapped = faces.astype(np.int32).byteswap()
    if swapped.min() >= 0 and swapped.max() < n_vertices:
        raise FileFormatError(
            "mesh_file.mixed_endianness",
            "The face indices make sense only in the byte order the header does not declare.",
            "Exchange binary_little_endian and binary_big_endian in the header, or export again.",
        )


def _vertices(element: Element, data: ElementData) -> tuple[np.ndarray, np.ndarray | None]:
    types = {prop.dtype for prop in element.properties if prop.name in ("x", "y", "z")}
    dtype = np.float32 if types == {"f4"} else np.float64
    columns = data.columns
    # A double column may hold numbers that a declared float cannot: they become infinite.
    with np.errstate(over="ignore"):
        vertices = np.stack([columns[name].astype(dtype) for name in "xyz"], axis=1)
    for names in COLOR_NAMES:
        if set(names) <= set(element.names):
            rgb = np.stack([columns[name].astype(np.float64) for name in names], axis=1)
            dtypes = {prop.dtype for prop in element.properties if prop.name in names}
            return vertices, text.colors_from_numbers(rgb, fractions=dtypes <= {"f4", "f8"})
    return vertices, None


def write_ply(mesh: Mesh, encoding: Encoding = "binary_little_endian") -> bytes:
    """Return the mesh as PLY; float32 and float64 coordinates keep their type and every bit."""
    scalar = "float" if mesh.vertices.dtype == np.float32 else "double"
    colored = mesh.vertex_colors is not None
    lines = [
        "ply",
        f"format {encoding} 1.0",
        f"element vertex {mesh.n_vertices}",
        *(f"property {scalar} {name}" for name in "xyz"),
        *(f"property uchar {name}" for name in COLOR_NAMES[0] if colored),
        f"element face {mesh.n_faces}",
        "property list uchar int vertex_indices",
        "end_header\n",
    ]
    head = "\n".join(lines).encode("ascii")
    if encoding == "ascii":
        return head + _ascii_body(mesh)
    order = "<" if encoding == "binary_little_endian" else ">"
    return head + _binary_body(mesh, order)


def _ascii_body(mesh: Mesh) -> bytes:
    rows = [f"{x!r} {y!r} {z!r}" for x, y, z in mesh.vertices.astype(np.float64).tolist()]
    if mesh.vertex_colors is not None:
        colors = mesh.vertex_colors.tolist()
        rows = [f"{row} {r} {g} {b}" for row, (r, g, b) in zip(rows, colors, strict=True)]
    rows += [f"3 {a} {b} {c}" for a, b, c in mesh.faces.tolist()]
    return "\n".join([*rows, ""]).encode("ascii")


def _binary_body(mesh: Mesh, order: str) -> bytes:
    fields = [("position", order + mesh.vertices.dtype.str[1:], 3)]
    if mesh.vertex_colors is not None:
        fields.append(("color", "u1", 3))
    vertex_rows = np.zeros(mesh.n_vertices, np.dtype(fields))
    vertex_rows["position"] = mesh.vertices
    if mesh.vertex_colors is not None:
        vertex_rows["color"] = mesh.vertex_colors
    face_rows = np.zeros(mesh.n_faces, np.dtype([("n", "u1"), ("ids", order + "i4", 3)]))
    face_rows["n"] = 3
    face_rows["ids"] = mesh.faces
    return vertex_rows.tobytes() + face_rows.tobytes()
