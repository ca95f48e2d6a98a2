"""Gaussians for other programs: glTF with KHR_gaussian_splatting, and SPZ.

Both are written from the columns of a PLY (`scenes.objects.gaussian_files`): x y z, normals,
f_dc_0..2, logit of the opacity, logarithms of the scales, quaternion (w, x, y, z).  Both stand with
y up, z towards the viewer, where the PLY of a street has y down and z away: half a turn about x.

* GLB: a primitive of points with the extension's attributes: scales and opacities as they are,
  quaternions (x, y, z, w), colour as the coefficient of the constant harmonic, in display space.
  Readers that do not know the extension show coloured points (COLOR_0, linear light).
* SPZ, version 2: gzip of a header of 16 bytes, then all positions (24-bit fixed point), opacities,
  colours, scales, rotations (x, y, z; w is not negative and follows), a byte per number.

Notation: g Gaussians.

Source: Khronos, KHR_gaussian_splatting (its README); Niantic, spz (its README).
"""

from __future__ import annotations

import gzip
import json
import os
import struct
from pathlib import Path

import numpy as np
from jaxtyping import Float

from geo3d.errors import InputError
from geo3d.files import atomic_write_bytes

_MAGIC = 0x5053474E
_VERSION = 2
_MOST_BITS = 12
"""Bits behind the point of SPZ's positions where the scene is small enough: a quarter of a mm."""
_COLOUR = 0.15
"""Colour coefficients are stored as 0.5 + 0.15 c."""
_EXTENSION = "KHR_gaussian_splatting"
_FLOAT, _ARRAY_BUFFER, _POINTS = 5126, 34962, 0
_SHADE = 0.28209479177387814


def spz_bytes(table: Float[np.ndarray, "g 17"]) -> bytes:
    """Return the content of an SPZ file.

    Raises:
        InputError: ``gaussians.too_wide`` for places over 8,000 km from the origin.
    """
    xyz, turns = _turned(table)
    furthest = float(np.abs(xyz).max(initial=0.0))
    bits = _MOST_BITS
    while bits > 0 and furthest * 2**bits >= 2**23:
        bits -= 1
    if furthest * 2**bits >= 2**23:
        raise InputError(
            "gaussians.too_wide",
            f"A Gaussian lies {furthest:.0f} units from the origin; SPZ holds less than 2^23.",
            "Move the scene to the origin, or write a PLY.",
        )
    fixed = np.rint(xyz * 2**bits).astype("<i4")
    places = fixed.view(np.uint8).reshape(-1, 3, 4)[:, :, :3]
    opacity = 255 / (1 + np.exp(-table[:, 9:10].astype(np.float64)))
    colours = 255 * (0.5 + _COLOUR * table[:, 6:9])
    scales = 16 * (table[:, 10:13] + 10)
    signs = np.where(turns[:, :1] < 0, -1.0, 1.0)
    rotations = 127.5 + 127.5 * signs * turns[:, 1:]
    parts = [
        np.rint(p).clip(0, 255).astype(np.uint8) for p in (opacity, colours, scales, rotations)
    ]
    head = struct.pack("<IIIBBBB", _MAGIC, _VERSION, len(table), 0, bits, 0, 0)
    body = b"".join(part.tobytes() for part in (places, *parts))
    # no time stamp: the same Gaussians are the same bytes
    return gzip.compress(head + body, mtime=0)


def splat_glb_bytes(table: Float[np.ndarray, "g 17"]) -> bytes:
    """Return the content of a binary glTF file with the extension."""
    xyz, turns = _turned(table)
    opacity = 1 / (1 + np.exp(-table[:, 9].astype(np.float64)))
    display = (0.5 + _SHADE * table[:, 6:9]).clip(0, 1)
    linear = np.where(display <= 0.04045, display / 12.92, ((display + 0.055) / 1.055) ** 2.4)
    columns = {
        "POSITION": xyz,
        "COLOR_0": np.column_stack([linear, opacity]),
        f"{_EXTENSION}:ROTATION": turns[:, [1, 2, 3, 0]],
        f"{_EXTENSION}:SCALE": np.exp(table[:, 10:13]),
        f"{_EXTENSION}:OPACITY": opacity[:, None],
        f"{_EXTENSION}:SH_DEGREE_0_COEF_0": table[:, 6:9],
    }
    views, accessors, parts, start = [], [], [], 0
    for name, values in columns.items():
        stored = np.ascontiguousarray(values, "<f4")
        length = stored.nbytes
        views.append(
            {"buffer": 0, "byteOffset": start, "byteLength": length, "target": _ARRAY_BUFFER}
        )
        kind = "SCALAR" if stored.shape[1] == 1 else f"VEC{stored.shape[1]}"
        accessor: dict[str, object] = {"bufferView": len(accessors), "componentType": _FLOAT}
        accessor |= {"count": len(stored), "type": kind}
        if name == "POSITION":
            accessor |= {"min": stored.min(axis=0).tolist(), "max": stored.max(axis=0).tolist()}
        accessors.append(accessor)
        parts.append(stored.tobytes())
        start += length
    primitive = {
        "mode": _POINTS,
        "attributes": {name: i for i, name in enumerate(columns)},
        "extensions": {_EXTENSION: {"kernel": "ellipse", "colorSpace": "srgb_rec709_display"}},
    }
    document = {
        "asset": {"version": "2.0", "generator": "geo3d"},
        "extensionsUsed": [_EXTENSION],
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": "gaussians"}],
        "meshes": [{"primitives": [primitive]}],
        "accessors": accessors,
        "bufferViews": views,
        "buffers": [{"byteLength": start}],
    }
    return _glb(document, b"".join(parts))


def save_splats(
    folder: str | os.PathLike[str], table: Float[np.ndarray, "g 17"]
) -> tuple[Path, Path]:
    """Write ``gaussians.glb`` and ``gaussians.spz``; there must be a Gaussian at least.

    Raises:
        InputError: ``gaussians.too_wide``.
    """
    root = Path(folder)
    return (
        atomic_write_bytes(root / "gaussians.glb", splat_glb_bytes(table)),
        atomic_write_bytes(root / "gaussians.spz", spz_bytes(table)),
    )


def _turned(
    table: Float[np.ndarray, "g 17"],
) -> tuple[Float[np.ndarray, "g 3"], Float[np.ndarray, "g 4"]]:
    """Return places and unit quaternions (w, x, y, z) after half a turn about x."""
    # turning a Gaussian's own axes half round about x, too, changes nothing
    turns = table[:, 13:17].astype(np.float64) * (1.0, 1.0, -1.0, -1.0)
    turns /= np.maximum(np.linalg.norm(turns, axis=1, keepdims=True), 1e-12)
    return table[:, :3].astype(np.float64) * (1.0, -1.0, -1.0), turns


def _glb(document: dict[str, object], binary: bytes) -> bytes:
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    binary += b"\0" * (-len(binary) % 4)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text
    chunks += struct.pack("<I4s", len(binary), b"BIN\0") + binary
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks
