"""OFF: counts, one vertex per row, one polygon per row.

Header variants read: ``OFF``, ``COFF``, ``NOFF``, ``CNOFF``, ``STOFF`` and combinations, counts on
the keyword's line or glued to it, comments, byte-order mark, any line ending.  Columns follow
Geomview: position, then normal (N), colour (C), texture coordinates (ST).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice

import numpy as np

from geo3d.errors import FileFormatError
from geo3d.mesh.formats import text
from geo3d.mesh.formats.polygons import triangulated
from geo3d.mesh.mesh import Limits, Mesh, RawMesh, require_bytes, require_counts

KEYWORD = re.compile(rb"(ST)?(C)?(N)?(4)?(n)?OFF")


def read_off(data: bytes, limits: Limits) -> RawMesh:
    """Read an OFF file.

    Raises:
        FileFormatError: ``mesh_file.bad_header``, ``.lying_header``, ``.truncated``,
            ``.unsupported_format``, ``.bad_vertex``, ``.bad_face``, ``.bad_number``,
            ``.locale_comma``.
        LimitError: ``mesh_file.too_many_vertices``, ``mesh_file.too_many_faces``.
    """
    rows = text.content_rows(text.text_lines(data))
    keyword, (n_vertices, n_faces) = _header(rows)
    # The shortest vertex row is "0 0 0" and the shortest face row "0", each with its line end.
    needed = 6 * n_vertices + 2 * n_faces - 1
    require_bytes(needed, len(data), f"{n_vertices:,} vertices and {n_faces:,} faces")
    require_counts(n_vertices, n_faces, limits)
    vertices, colors = _vertices(rows, n_vertices, keyword)
    corners, sizes = _polygons(rows, n_faces, limits)
    faces, overlapping = triangulated(vertices, corners, sizes)
    notes = text.polygon_notes(sizes, overlapping)
    if next(rows, None) is not None:
        notes.append("mesh_file.trailing_data: more rows follow than the header announces.")
    return RawMesh(vertices, faces, colors, "off", tuple(notes))


def _header(rows: Iterator[text.Row]) -> tuple[re.Match[bytes], tuple[int, int]]:
    row = next(rows, [b""])
    keyword = KEYWORD.match(row[0])
    if keyword is None:
        raise _bad_header("the keyword OFF is missing")
    glued = row[0][keyword.end() :]
    counts = ([glued] if glued else []) + row[1:]
    if keyword[4] or keyword[5] or counts[:1] == [b"BINARY"]:
        raise FileFormatError(
            "mesh_file.unsupported_format",
            "Binary OFF and OFF in more than 3 dimensions are not read.",
            "Export as text OFF or as PLY.",
        )
    if not counts:
        counts = next(rows, [])
    if len(counts) < 2:
        raise _bad_header("the counts of vertices and faces are missing")
    n_vertices, n_faces = text.parse_ints(counts[:2]).tolist()
    if n_vertices < 0 or n_faces < 0:
        raise _bad_header("a count is negative")
    return keyword, (n_vertices, n_faces)


def _bad_header(what: str) -> FileFormatError:
    return FileFormatError(
        "mesh_file.bad_header", f"The OFF header cannot be read: {what}.", "Export it again."
    )


def _vertices(
    rows: Iterator[text.Row], count: int, keyword: re.Match[bytes]
) -> tuple[np.ndarray, np.ndarray | None]:
    first_color = 6 if keyword[3] else 3
    columns = first_color + 3 if keyword[2] else 3
    blocks, fractions = [np.zeros((0, columns))], False
    for block in _blocks(rows, count, "vertices"):
        blocks.append(text.parse_table(block, columns))
        fractions = fractions or any(b"." in token for row in block for token in row[first_color:])
    table = np.concatenate(blocks)
    if not keyword[2]:
        return table, None
    colors = text.colors_from_numbers(table[:, first_color:], fractions)
    return np.ascontiguousarray(table[:, :3]), colors


def _polygons(
    rows: Iterator[text.Row], count: int, limits: Limits
) -> tuple[np.ndarray, np.ndarray]:
    """Return the corners of all faces, one after the other, and how many each has."""
    blocks, counts = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    n_faces = 0
    for block in _blocks(rows, count, "faces"):
        corners, sizes = text.parse_polygons(block)
        n_faces += int(np.maximum(sizes - 2, 0).sum())
        require_counts(0, n_faces, limits)
        blocks.append(corners)
        counts.append(sizes)
    return np.concatenate(blocks), np.concatenate(counts)


def _blocks(rows: Iterator[text.Row], count: int, what: str) -> Iterator[list[text.Row]]:
    done = 0
    while done < count:
        wanted = min(text.BLOCK, count - done)
        block = list(islice(rows, wanted))
        done += len(block)
        if len(block) < wanted:
            raise text.truncated(
                f"The header announces {count:,} {what}; the file ends after {done:,}."
            )
        yield block


def write_off(mesh: Mesh) -> bytes:
    """Return the mesh as OFF (COFF with vertex colours); coordinates keep every bit."""
    head = (
        f"{'OFF' if mesh.vertex_colors is None else 'COFF'}\n{mesh.n_vertices} {mesh.n_faces} 0\n"
    )
    columns = mesh.vertices.astype(np.float64).tolist()
    if mesh.vertex_colors is None:
        rows = [f"{x!r} {y!r} {z!r}\n" for x, y, z in columns]
    else:
        colors = mesh.vertex_colors.tolist()
        rows = [
            f"{x!r} {y!r} {z!r} {r} {g} {b} 255\n"
            for (x, y, z), (r, g, b) in zip(columns, colors, strict=True)
        ]
    faces = [f"3 {a} {b} {c}\n" for a, b, c in mesh.faces.tolist()]
    return "".join([head, *rows, *faces]).encode("ascii")
