"""The rows of a PLY file, text or binary.

Scalars of an element come back as columns; of the lists only the face's corner indices are kept.
Binary elements whose lists all have the lengths of the first row (the usual case) are read as one
structured array; others are walked row by row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from geo3d.errors import FileFormatError
from geo3d.mesh.formats import text
from geo3d.mesh.formats.ply_header import Element, Header, Property
from geo3d.mesh.mesh import Limits, require_counts

INDEX_NAMES = ("vertex_indices", "vertex_index")


@dataclass
class ElementData:
    """Columns by name, and corner indices with counts if the element has such a list."""

    columns: dict[str, np.ndarray] = field(default_factory=dict)
    polygons: tuple[np.ndarray, np.ndarray] | None = None


def _truncated(element: Element, done: int) -> FileFormatError:
    return text.truncated(
        f"The header announces {element.count:,} x {element.name}; the file ends after {done:,}."
    )


def ascii_elements(
    data: bytes, header: Header, limits: Limits
) -> tuple[dict[str, ElementData], list[str]]:
    """Read the rows of a text file; returns data by element name, and notes."""
    rows = (row for line in text.text_lines(data[header.length :]) if (row := line.split()))
    elements = {element.name: _ascii_element(rows, element) for element in header.elements}
    trailing = next(rows, None) is not None
    return elements, [_TRAILING] if trailing else []


_TRAILING = "mesh_file.trailing_data: more data follows than the header announces."


def _ascii_element(rows: Iterator[text.Row], element: Element) -> ElementData:
    if not element.properties:
        return ElementData()
    blocks, done = [], 0
    while done < element.count:
        wanted = min(text.BLOCK, element.count - done)
        block = list(islice(rows, wanted))
        done += len(block)
        if len(block) < wanted:
            raise _truncated(element, done)
        blocks.append(_ascii_block(block, element))
    if not blocks:
        blocks = [_ascii_block([], element)]
    return _joined(blocks)


def _joined(blocks: list[ElementData]) -> ElementData:
    columns = {
        name: np.concatenate([block.columns[name] for block in blocks])
        for name in blocks[0].columns
    }
    polygons = [block.polygons for block in blocks if block.polygons is not None]
    if not polygons:
        return ElementData(columns)
    corners, counts = zip(*polygons, strict=True)
    return ElementData(columns, (np.concatenate(corners), np.concatenate(counts)))


def _ascii_block(rows: list[text.Row], element: Element) -> ElementData:
    if all(prop.count_dtype is None for prop in element.properties):
        table = text.parse_table(rows, len(element.properties))
        return ElementData(dict(zip(element.names, table.T, strict=True)))
    lists: list[text.Row] = []
    for row in rows:
        lists += _index_list(row, element)
    if not any(prop.name in INDEX_NAMES for prop in element.properties):
        return ElementData()
    return ElementData({}, text.parse_polygons(lists))


def _index_list(row: text.Row, element: Element) -> list[text.Row]:
    """Return the row from the corner list on (its count first); empty if there is none."""
    at = 0
    for prop in element.properties:
        if at >= len(row):
            raise text.bad_face(f"A row of {element.name} is too short.")
        if prop.count_dtype is None:
            at += 1
        elif prop.name in INDEX_NAMES:
            return [row[at:]]
        else:
            count = int(text.parse_ints([row[at]])[0])
            if count < 0:
                raise text.bad_face(f"A list of {element.name} has {count} items.")
            at += 1 + count
    return []


def binary_elements(
    data: bytes, header: Header, limits: Limits
) -> tuple[dict[str, ElementData], list[str]]:
    """Read the rows of a binary file; returns data by element name, and notes."""
    order = "<" if header.encoding == "binary_little_endian" else ">"
    offset, elements = header.length, {}
    for element in header.elements:
        elements[element.name], offset = _binary_element(data, offset, element, order, limits)
    return elements, [_TRAILING] if offset < len(data) else []


def _binary_element(
    data: bytes, offset: int, element: Element, order: str, limits: Limits
) -> tuple[ElementData, int]:
    if element.count == 0 or not element.properties:
        empty = {prop.name: np.zeros(0) for prop in element.properties}
        return ElementData(empty), offset
    lengths = _first_row_lengths(data, offset, element, order)
    dtype = _row_dtype(element, order, lengths)
    end = offset + dtype.itemsize * element.count
    if end <= len(data):
        rows = np.frombuffer(data, dtype, element.count, offset)
        if all((rows[f"{name} count"] == length).all() for name, length in lengths.items()):
            return _from_table(rows, element, lengths), end
    elif not lengths:
        raise _truncated(element, (len(data) - offset) // dtype.itemsize)
    return _walk(data, offset, element, order, limits)


def _first_row_lengths(data: bytes, offset: int, element: Element, order: str) -> dict[str, int]:
    lengths = {}
    for prop in element.properties:
        if prop.count_dtype is not None:
            lengths[prop.name], offset = _list_length(data, offset, prop, order, element, 0)
            offset += lengths[prop.name] * int(prop.dtype[1])
        else:
            offset += int(prop.dtype[1])
    return lengths


def _list_length(
    data: bytes, offset: int, prop: Property, order: str, element: Element, row: int
) -> tuple[int, int]:
    """Return the list's length and the offset of its first item, which are all in the file."""
    count_type = prop.count_dtype or "u1"
    start = offset + int(count_type[1])
    if start > len(data):
        raise _truncated(element, row)
    count = int.from_bytes(
        data[offset:start],
        "little" if order == "<" else "big",
        signed=count_type[0] == "i",
    )
    if count < 0:
        raise text.bad_face(f"A list of {element.name} has {count} items.")
    if start + count * int(prop.dtype[1]) > len(data):
        raise _truncated(element, row)
    return count, start


def _row_dtype(element: Element, order: str, lengths: dict[str, int]) -> np.dtype:
    fields: list[tuple] = []
    for prop in element.properties:
        if prop.count_dtype is None:
            fields.append((prop.name, order + prop.dtype))
        else:
            fields.append((f"{prop.name} count", order + prop.count_dtype))
            fields.append((prop.name, order + prop.dtype, (lengths[prop.name],)))
    return np.dtype(fields)


def _from_table(rows: np.ndarray, element: Element, lengths: dict[str, int]) -> ElementData:
    scalars = [prop.name for prop in element.properties if prop.count_dtype is None]
    result = ElementData({name: rows[name] for name in scalars})
    for name in INDEX_NAMES:
        if name in lengths:
            counts = np.full(len(rows), lengths[name], np.int64)
            result.polygons = (_as_indices(rows[name].reshape(-1)), counts)
    return result


def _as_indices(items: np.ndarray) -> np.ndarray:
    if items.dtype.kind == "f":
        raise text.bad_face("Corner indices are declared as floating point.")
    return items.astype(np.int64)


def _walk(
    data: bytes, offset: int, element: Element, order: str, limits: Limits
) -> tuple[ElementData, int]:
    """Step over rows with lists of changing length, remembering where the corner lists are."""
    starts: list[int] = []
    counts: list[int] = []
    scalar_starts: dict[str, list[int]] = {
        prop.name: [] for prop in element.properties if prop.count_dtype is None
    }
    wanted = next((prop for prop in element.properties if prop.name in INDEX_NAMES), None)
    for row in range(element.count):
        for prop in element.properties:
            if prop.count_dtype is None:
                scalar_starts[prop.name].append(offset)
                offset += int(prop.dtype[1])
                continue
            count, offset = _list_length(data, offset, prop, order, element, row)
            if prop is wanted:
                starts.append(offset)
                counts.append(count)
            offset += count * int(prop.dtype[1])
        if offset > len(data):
            raise _truncated(element, row)
    columns = {
        prop.name: _gather(data, np.array(scalar_starts[prop.name]), order + prop.dtype)
        for prop in element.properties
        if prop.count_dtype is None
    }
    if wanted is None or wanted.count_dtype is None:
        return ElementData(columns), offset
    sizes = np.array(counts, np.int64)
    require_counts(0, int(np.maximum(sizes - 2, 0).sum()), limits)
    first = np.repeat(np.array(starts, np.int64), sizes)
    step = np.arange(len(first)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    items = _gather(data, first + step * int(wanted.dtype[1]), order + wanted.dtype)
    return ElementData(columns, (_as_indices(items), sizes)), offset


def _gather(data: bytes, starts: np.ndarray, dtype: str) -> np.ndarray:
    """Read one item of ``dtype`` at each byte offset."""
    size = int(dtype[2])
    table = np.frombuffer(data, np.uint8)
    picked = table[starts[:, None] + np.arange(size)] if len(starts) else np.zeros((0, size), "u1")
    return np.ascontiguousarray(picked).view(dtype).reshape(-1)
