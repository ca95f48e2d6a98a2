"""Reading and writing meshes: OBJ, OFF, PLY (text and binary), STL and GLB.

The format is recognised by content; the file name is only compared with it.  Vertex order and
index values are those of the file for OBJ, OFF and PLY, and writing then reading gives the same
numbers back, bit for bit.  STL has no vertices (see `geo3d.mesh.formats.stl`).  Nothing but the
named file is ever opened.

`load_mesh` is for files you trust; `geo3d.mesh.sandbox.load_untrusted` is for everybody else's.

Recognising a mesh format by content.

OBJ has no keyword, so it is recognised last: text with at least one row ``v number ...``.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np

from geo3d.errors import ConfigError, FileFormatError, InputError, LimitError, MeshError
from geo3d.files import atomic_write_bytes
from geo3d.mesh.formats import text
from geo3d.mesh.formats.glb import read_glb, write_glb
from geo3d.mesh.formats.obj import read_obj, write_obj
from geo3d.mesh.formats.off import KEYWORD, read_off, write_off
from geo3d.mesh.formats.ply import read_ply, write_ply
from geo3d.mesh.formats.stl import is_binary_stl, read_stl, write_stl
from geo3d.mesh.formats.usdz import write_usdz
from geo3d.mesh.mesh import Limits, Mesh, RawMesh

__all__ = ["FORMATS", "Limits", "RawMesh", "load_mesh", "open_regular", "parse_bytes", "read_raw",
           "save_mesh"]  # fmt: skip

READERS: dict[str, Callable[[bytes, Limits], RawMesh]] = {
    "obj": read_obj,
    "off": read_off,
    "ply": read_ply,
    "stl": read_stl,
    "glb": read_glb,
}
WRITERS: dict[str, Callable[[Mesh], bytes]] = {
    "obj": write_obj,
    "off": write_off,
    "ply": write_ply,
    "stl": write_stl,
    "glb": write_glb,
    "usdz": write_usdz,
}
FORMATS = tuple(READERS)


def load_mesh(path: str | os.PathLike[str], limits: Limits = Limits()) -> Mesh:  # noqa: B008
    """Read a mesh and vouch for it: finite coordinates, indices in range.

    Raises:
        FileFormatError, LimitError, InputError: as `read_raw`.
        MeshError: ``mesh.no_vertices``, ``mesh.non_finite``, ``mesh.index_out_of_range``.
    """
    raw = read_raw(path, limits)
    return Mesh(raw.vertices, raw.faces, raw.vertex_colors, name=Path(path).stem)


def read_raw(path: str | os.PathLike[str], limits: Limits = Limits()) -> RawMesh:  # noqa: B008
    """Read whatever a mesh file holds, with the right shapes only.

    Raises:
        InputError: ``mesh_file.not_found``, ``mesh_file.not_a_file``, ``mesh_file.not_readable``.
        LimitError: ``mesh_file.too_many_bytes``, ``.too_many_vertices``, ``.too_many_faces``,
            ``.out_of_memory``.
        FileFormatError: the other ``mesh_file`` codes of docs/errors.md.
    """
    with os.fdopen(open_regular(path, limits), "rb") as file:
        data = file.read(limits.max_bytes + 1)
    return parse_bytes(data, Path(path).suffix, limits)


def parse_bytes(data: bytes, suffix: str = "", limits: Limits = Limits()) -> RawMesh:  # noqa: B008
    """Read a mesh from memory; ``suffix`` is what the file's name ends in, for comparison.

    Raises:
        FileFormatError, LimitError: as `read_raw`.
    """
    _require_size(len(data), limits)
    suffix = suffix.lower().lstrip(".")
    try:
        kind = sniff(data, suffix)
        raw = READERS[kind](data, limits)
    except MemoryError:
        raise LimitError(
            "mesh_file.out_of_memory",
            "Reading the file takes more memory than there is.",
            "Decimate the mesh first, or read it where more memory is allowed.",
        ) from None
    if not suffix or suffix == kind:
        return raw
    note = (
        f"mesh_file.wrong_extension: the name says .{suffix[:20]}, the content is {kind.upper()}."
    )
    return RawMesh(raw.vertices, raw.faces, raw.vertex_colors, raw.format, (note, *raw.notes))


def open_regular(path: str | os.PathLike[str], limits: Limits, follow_links: bool = True) -> int:
    """Open a file for reading if it is an ordinary one of allowed size; return its descriptor.

    Pipes and devices are refused without waiting on them.

    Raises:
        InputError: ``mesh_file.not_found``, ``mesh_file.not_a_file``, ``mesh_file.not_readable``.
        LimitError: ``mesh_file.too_many_bytes``.
    """
    shown = os.fspath(path)
    # O_NONBLOCK: opening a pipe nobody writes to must not wait.  Absent on Windows, as O_NOFOLLOW.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    if not follow_links:
        flags |= getattr(os, "O_NOFOLLOW", 0)
    try:
        # Looked at before opening, because opening some devices already has an effect.
        regular = stat.S_ISREG(os.stat(path, follow_symlinks=follow_links).st_mode)
        descriptor = os.open(path, flags) if regular else -1
    except (FileNotFoundError, NotADirectoryError):
        raise InputError("mesh_file.not_found", f"There is no file {shown}.", "") from None
    except (OSError, ValueError) as error:
        raise InputError(
            "mesh_file.not_readable", f"{shown!r} cannot be opened: {error}.", ""
        ) from None
    if descriptor < 0:
        raise _not_a_file(shown)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise _not_a_file(shown)
        _require_size(status.st_size, limits)
    except InputError:
        os.close(descriptor)
        raise
    return descriptor


def _not_a_file(path: str) -> InputError:
    return InputError(
        "mesh_file.not_a_file",
        f"{path} is not an ordinary file.",
        "Give the mesh file itself, not a folder, pipe, device or (for uploads) link.",
    )


def _require_size(n_bytes: int, limits: Limits) -> None:
    if n_bytes > limits.max_bytes:
        raise LimitError(
            "mesh_file.too_many_bytes",
            f"The file has over {limits.max_bytes:,} bytes, which is the limit.",
            "Decimate the mesh or save it in a binary format.",
        )


def require_writable(path: str | os.PathLike[str]) -> Callable[[Mesh], bytes]:
    """Return the writer for the format a name ends in.

    Raises:
        ConfigError: ``mesh_file.unknown_format``.
    """
    suffix = Path(path).suffix
    writer = WRITERS.get(suffix.lower().lstrip("."))
    if writer is None:
        raise ConfigError(
            "mesh_file.unknown_format",
            f"Meshes are not written as '{suffix}' ({Path(path).name}).",
            f"Known: {', '.join('.' + name for name in FORMATS)}.",
        )
    return writer


def save_mesh(mesh: Mesh, path: str | os.PathLike[str]) -> Path:
    """Write a mesh in the format its name ends in; the file appears complete or not at all.

    OBJ, OFF and PLY keep every bit of the coordinates; STL and GLB round to float32, USDZ (written
    only) to a tenth of a millimetre, and STL does not keep the vertices.

    Raises:
        ConfigError: ``mesh_file.unknown_format``.
        MeshError: ``mesh.no_faces`` for a point cloud as STL or USDZ, ``mesh.extreme_scale`` if
            float32 cannot hold the coordinates.
    """
    writer = require_writable(path)
    rounds = writer in (write_stl, write_glb, write_usdz)
    if rounds and np.abs(mesh.vertices).max(initial=0.0) > np.finfo(np.float32).max:
        raise MeshError(
            "mesh.extreme_scale",
            f"{Path(path).suffix} stores float32, which cannot hold coordinates this large.",
            "Convert the units, or save as PLY, OFF or OBJ.",
        )
    if mesh.is_point_cloud and writer in (write_stl, write_usdz):
        kind = Path(path).suffix.lstrip(".").upper()
        raise MeshError("mesh.no_faces", f"{kind} cannot hold a point cloud.", "Save it as PLY.")
    return atomic_write_bytes(path, writer(mesh))


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
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"GIF8": "a GIF image",
    b"%PDF": "a PDF document",
    b"\x7fELF": "a program",
    b"MZ": "a program",
    b"version https://git-lfs": "a git-lfs pointer (`git lfs pull` gets the mesh)",
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
