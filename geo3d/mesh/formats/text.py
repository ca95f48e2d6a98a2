"""Fast, strict parsing of the text formats (OBJ, OFF, ASCII PLY and STL).

Rows are lists of byte tokens; numbers are converted in blocks of rows, so that memory stays a
small multiple of the file.  Every failure names the first offending row.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from itertools import chain

import numpy as np
from jaxtyping import Float, Int, UInt8

from geo3d.errors import FileFormatError

Row = list[bytes]

BLOCK = 1 << 16
"""Rows converted at once."""


def text_lines(data: bytes) -> io.BytesIO:
    """Return an iterator over lines, without byte-order mark and with any line ending."""
    data = data.removeprefix(b"\xef\xbb\xbf")
    if b"\r" in data and b"\n" not in data:
        data = data.replace(b"\r", b"\n")
    return io.BytesIO(data)


def content_rows(lines: Iterable[bytes]) -> Iterator[Row]:
    """Yield the tokens of each line that is not blank or comment (``#`` to the end of line)."""
    for line in lines:
        if b"#" in line:
            line = line.partition(b"#")[0]
        row = line.split()
        if row:
            yield row


def parse_floats(tokens: Iterable[bytes]) -> Float[np.ndarray, " n"]:
    """Convert tokens to float64.

    Raises:
        FileFormatError: ``mesh_file.bad_number``, ``mesh_file.locale_comma``.
    """
    tokens = list(tokens)
    try:
        values = np.fromiter(map(float, tokens), np.float64, len(tokens))
    except ValueError:
        raise _bad_number(tokens, float) from None
    # Python alone reads 1_000 as a number; no mesh format does.
    if b"_" in b"".join(tokens):
        raise _bad_number(tokens, float)
    return values


def parse_ints(tokens: Iterable[bytes]) -> Int[np.ndarray, " n"]:
    """Convert tokens to int64.

    Raises:
        FileFormatError: ``mesh_file.bad_number``, ``mesh_file.locale_comma``.
    """
    tokens = list(tokens)
    try:
        values = np.fromiter(map(int, tokens), np.int64, len(tokens))
    except (ValueError, OverflowError):
        raise _bad_number(tokens, int) from None
    if b"_" in b"".join(tokens):
        raise _bad_number(tokens, int)
    return values


def truncated(message: str) -> FileFormatError:
    """Return the error for a file that ends too early."""
    return FileFormatError("mesh_file.truncated", message, "Copy or download it again.")


def _bad_number(tokens: list[bytes], kind: type) -> FileFormatError:
    token = next(token for token in tokens if not _is_number(token, kind))
    shown = token[:40].decode("ascii", "backslashreplace")
    if b"," in token and _is_number(token.replace(b",", b".", 1), float):
        return FileFormatError(
            "mesh_file.locale_comma",
            f"'{shown}' has a comma where a decimal point belongs.",
            "The program that wrote it used a local number format; export with decimal points.",
        )
    return FileFormatError(
        "mesh_file.bad_number",
        f"'{shown}' is not a{'n integer' if kind is int else ' number'}.",
        "The file is damaged or written by hand; open it in a text editor and search for it.",
    )


def _is_number(token: bytes, kind: type) -> bool:
    if b"_" in token:
        return False
    try:
        value = kind(token)
    except ValueError:
        return False
    return kind is float or -(2**63) <= value < 2**63


def parse_table(rows: list[Row], columns: int | None = None) -> Float[np.ndarray, "n c"]:
    """Convert rows of equal length to a float64 table, keeping the first ``columns`` of each.

    Raises:
        FileFormatError: ``mesh_file.bad_vertex`` if a row is too short, and those of
            `parse_floats`.
    """
    if columns is None:
        columns = min(map(len, rows), default=0)
    short = next((row for row in rows if len(row) < columns), None)
    if short is not None:
        raise bad_vertex(short, columns)
    tokens = chain.from_iterable(row[:columns] for row in rows)
    return parse_floats(tokens).reshape(len(rows), columns)


def bad_vertex(row: Row, columns: int) -> FileFormatError:
    """Return the error for a vertex row with too few numbers."""
    shown = b" ".join(row)[:60].decode("ascii", "backslashreplace")
    return FileFormatError(
        "mesh_file.bad_vertex",
        f"A vertex row needs {columns} numbers and is '{shown}'.",
        "The file is damaged; export it again.",
    )


def bad_face(message: str) -> FileFormatError:
    """Return the error for a face row that does not hold what its count says."""
    return FileFormatError(
        "mesh_file.bad_face", message, "The file is damaged; export the mesh again."
    )


def parse_polygons(rows: list[Row]) -> tuple[Int[np.ndarray, " i"], Int[np.ndarray, " p"]]:
    """Convert rows ``n i1 .. in [rest]`` to all corner indices in a row, and the counts n.

    Raises:
        FileFormatError: ``mesh_file.bad_face`` and those of `parse_ints`.
    """
    counts = parse_ints(row[0] for row in rows)
    for row, count in zip(rows, counts.tolist(), strict=True):
        if not 0 <= count < len(row):
            raise bad_face(f"A face row says {count} corners and has {len(row) - 1} numbers.")
    corners = parse_ints(
        chain.from_iterable(row[1 : 1 + n] for row, n in zip(rows, counts.tolist(), strict=True))
    )
    return corners, counts


def polygon_notes(counts: Int[np.ndarray, " p"], overlapping: int) -> list[str]:
    """Return notes on faces that are not triangles."""
    notes = []
    if (large := int((counts > 3).sum())) > 0:
        notes.append(f"mesh_file.polygons: {large:,} polygons were split into triangles.")
    if overlapping:
        message = f"the triangles of {overlapping:,} polygons overlap, as they cross themselves."
        notes.append(f"mesh_file.crossed_polygons: {message}")
    if (short := int((counts < 3).sum())) > 0:
        notes.append(f"mesh_file.short_faces: {short:,} faces with under 3 corners were left out.")
    return notes


def colors_from_numbers(
    numbers: Float[np.ndarray, "v c"], fractions: bool
) -> UInt8[np.ndarray, "v 3"] | None:
    """Convert RGB numbers (0..1 if ``fractions``, else 0..255) to bytes; None if not finite."""
    rgb = numbers[:, :3]
    if not np.isfinite(rgb).all():
        return None
    return np.clip(np.rint(rgb * (255.0 if fractions else 1.0)), 0, 255).astype(np.uint8)
