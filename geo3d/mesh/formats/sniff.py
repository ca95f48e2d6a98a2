"""Recognising a mesh format by content.

OBJ has no keyword, so it is recognised last: text with at least one row ``v number ...``.
"""

from __future__ import annotations

import re

from geo3d.errors import FileFormatError
from geo3d.mesh.formats import text
from geo3d.mesh.formats.off import KEYWORD
from geo3d.mesh.formats.stl import is_binary_stl

ARCHIVES = {
    b"PK\x03\x04": "zip (or 3MF, a zip inside)",
    b"PK\x05\x06": "zip",
    b"\x1f\x8b": "gzip",
    b"7z\xbc\xaf": "7z",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstandard",
    b"Rar!": "rar",
}
FOREIGN = {
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"GIF8": "a GIF picture",
    b"%PDF": "a PDF document",
    b"\x7fELF": "a program",
    b"MZ": "a program",
    b"\x93NUMPY": "a numpy array",
    b"\x80\x02": "a Python pickle",
    b"\x80\x04": "a Python pickle",
}
OBJ_ROW = re.compile(rb"^[ \t]*v[ \t]+[-+.\dnNiI]", re.MULTILINE)
STL_TEXT = re.compile(rb"\s*solid\b", re.IGNORECASE)


def sniff(data: bytes, suffix: str = "") -> str:
    """Return obj, off, ply, stl or glb.

    ``suffix`` decides only where the content cannot: a damaged binary STL has nothing to show.

    Raises:
        FileFormatError: ``mesh_file.empty``, ``mesh_file.archive``, ``mesh_file.not_a_mesh``,
            ``mesh_file.bad_encoding``, ``mesh_file.unsupported_format``.
    """
    body = data.removeprefix(b"\xef\xbb\xbf")
    if not body.strip():
        raise FileFormatError("mesh_file.empty", "The file is empty.", "Copy it again.")
    if is_binary_stl(data):
        return "stl"
    if body.startswith(b"glTF"):
        return "glb"
    if re.match(rb"ply\s", body):
        return "ply"
    _refuse_foreign(body)
    if KEYWORD.match(next(text.content_rows(text.text_lines(data)), [b""])[0]):
        return "off"
    if STL_TEXT.match(body) and (b"facet" in body[:1000].lower() or b"endsolid" in body.lower()):
        return "stl"
    if b"\0" not in body[:4096] and OBJ_ROW.search(body.replace(b"\r", b"\n")):
        return "obj"
    if suffix == "stl" and (b"\0" in body or len(body) >= 84):
        return "stl"
    raise FileFormatError(
        "mesh_file.not_a_mesh",
        "The content is none of OBJ, OFF, PLY, STL and GLB.",
        "Is it the right file?",
    )


def _refuse_foreign(body: bytes) -> None:
    for magic, name in ARCHIVES.items():
        if body.startswith(magic):
            raise FileFormatError(
                "mesh_file.archive",
                f"The file is an archive: {name}. Archives are never unpacked.",
                "Unpack it yourself and give the mesh inside.",
            )
    for magic, name in FOREIGN.items():
        if body.startswith(magic):
            raise FileFormatError("mesh_file.not_a_mesh", f"The file is {name}.", "")
    if body.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise FileFormatError(
            "mesh_file.bad_encoding", "The text is UTF-16.", "Save it as plain ASCII or UTF-8."
        )
    start = body[:4096].lstrip()
    if b"<COLLADA" in start:
        raise FileFormatError(
            "mesh_file.unsupported_format", "COLLADA (DAE) is not read.", "Export GLB or PLY."
        )
    if start.startswith(b"<"):
        raise FileFormatError(
            "mesh_file.not_a_mesh",
            "The file is a web page or XML.",
            "A download probably failed: open the file in a browser to see why.",
        )
    if start.startswith(b"{"):
        raise FileFormatError(
            "mesh_file.unsupported_format",
            "The file is JSON; glTF in text form, with its geometry elsewhere, is not read.",
            "Export a self-contained GLB.",
        )
