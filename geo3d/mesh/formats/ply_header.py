"""The header of a PLY file: encoding, elements and their properties."""

from __future__ import annotations

from dataclasses import dataclass

from geo3d.errors import FileFormatError
from geo3d.mesh.formats.text import truncated

TYPES = {
    **{"char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1"},
    **{"short": "i2", "int16": "i2", "ushort": "u2", "uint16": "u2"},
    **{"int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4"},
    **{"float": "f4", "float32": "f4", "double": "f8", "float64": "f8"},
}
ENCODINGS = ("ascii", "binary_little_endian", "binary_big_endian")
MAX_HEADER = 1 << 16
MAX_PROPERTIES = 256


@dataclass(frozen=True)
class Property:
    """One column: a scalar, or a list if it has a count type."""

    name: str
    dtype: str
    """numpy type code without byte order, such as f4."""
    count_dtype: str | None = None


@dataclass(frozen=True)
class Element:
    """A table in the file."""

    name: str
    count: int
    properties: tuple[Property, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns."""
        return tuple(prop.name for prop in self.properties)

    def least_bytes(self, encoding: str) -> int:
        """Return the bytes a row takes at least (empty lists, one-digit numbers)."""
        if encoding == "ascii":
            return 2 * len(self.properties)
        return sum(int((prop.count_dtype or prop.dtype)[1]) for prop in self.properties)


@dataclass(frozen=True)
class Header:
    """What the header says, and its length in bytes."""

    encoding: str
    elements: tuple[Element, ...]
    length: int

    def element(self, name: str) -> Element | None:
        """Return the element of this name, if declared."""
        return next((element for element in self.elements if element.name == name), None)


def read_header(data: bytes) -> Header:
    """Parse the header.

    Raises:
        FileFormatError: ``mesh_file.bad_header``, ``mesh_file.truncated`` (no end of header).
    """
    lines, length = _header_lines(data)
    encoding, elements = "", []
    for line in lines[1:]:
        match line.split():
            case [] | ["comment" | "obj_info", *_]:
                continue
            case ["format", name, _] if name in ENCODINGS:
                encoding = name
            case ["element", name, count] if count.isascii() and count.isdigit():
                if len(count) > 18:
                    raise _bad_header(line, "has an absurd count")
                elements.append((name, int(count), []))
            case ["property", "list", count_type, item_type, name] if elements:
                if TYPES.get(count_type, "f")[0] == "f" or item_type not in TYPES:
                    raise _bad_header(line, "has an unknown type")
                elements[-1][2].append(Property(name, TYPES[item_type], TYPES[count_type]))
            case ["property", item_type, name] if elements and item_type in TYPES:
                elements[-1][2].append(Property(name, TYPES[item_type]))
            case _:
                raise _bad_header(line, "is not understood")
    if not encoding:
        raise _bad_header("format", "is missing")
    built = tuple(Element(name, count, tuple(props)) for name, count, props in elements)
    _require_sane(built)
    return Header(encoding, built, length)


def _header_lines(data: bytes) -> tuple[list[str], int]:
    head = data[:MAX_HEADER]
    # The keyword must stand alone on its line, which ends with \n, \r\n or \r.
    at = -1
    for newline in (b"\n", b"\r"):
        if (at := head.find(newline + b"end_header")) >= 0:
            break
    if at < 0:
        raise truncated("The PLY header has no end_header.")
    end = at + 1 + len(b"end_header")
    while head[end : end + 1] in (b" ", b"\t"):
        end += 1
    length = end + (2 if head[end : end + 2] == b"\r\n" else 1)
    # not splitlines: comments name files, and letters such as A with a ring hold a byte that ends
    # lines in Latin-1
    lines = head[:at].replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    return [line.decode("latin-1") for line in lines], length


def _require_sane(elements: tuple[Element, ...]) -> None:
    names = [element.name for element in elements]
    if len(set(names)) < len(names):
        raise _bad_header("element", "is declared twice")
    for element in elements:
        if len(set(element.names)) < len(element.names):
            raise _bad_header(element.name, "declares a property twice")
        if len(element.properties) > MAX_PROPERTIES:
            raise _bad_header(element.name, f"declares over {MAX_PROPERTIES} properties")


def _bad_header(line: str, problem: str) -> FileFormatError:
    return FileFormatError(
        "mesh_file.bad_header", f"PLY header: '{line[:60]}' {problem}.", "Export it again."
    )
