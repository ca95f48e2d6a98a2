"""Meshes as they come out of a file, before anybody vouches for them, and the limits on their size.

Notation: v vertices, f faces (triangles; polygons were split as fans around their first corner).
A `RawMesh` has the right shapes and nothing else: coordinates may be NaN, indices out of range.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, UInt8

from geo3d.errors import FileFormatError, LimitError

# Counts that need this many times the bytes of the file were never true; below it, data was lost.
LYING_FACTOR = 64


@dataclass(frozen=True)
class Limits:
    """How large a mesh file may be."""

    max_bytes: int = 512 * 2**20
    """Size of the file in bytes."""
    max_vertices: int = 5_000_000
    """Vertices in the file (for STL: corners before equal ones are merged count as three)."""
    max_faces: int = 10_000_000
    """Triangles after polygons are split."""


@dataclass(frozen=True, eq=False)
class RawMesh:
    """What a file says, with the right shapes only."""

    vertices: Float[np.ndarray, "v 3"]
    """Positions in file order; float32 if the file declares it, else float64."""
    faces: Int[np.ndarray, "f 3"]
    """0-based vertex indices, int64, possibly out of range."""
    vertex_colors: UInt8[np.ndarray, "v 3"] | None
    """RGB, 0..255."""
    format: str
    """obj, off, ply, stl or glb: what the content is, whatever the name says."""
    notes: tuple[str, ...] = ()
    """What a reader should know, each ``code: sentence``."""


def require_counts(n_vertices: int, n_faces: int, limits: Limits) -> None:
    """Refuse more vertices or faces than allowed.

    Raises:
        LimitError: ``mesh_file.too_many_vertices``, ``mesh_file.too_many_faces``.
    """
    for what, count, limit in (
        ("vertices", n_vertices, limits.max_vertices),
        ("faces", n_faces, limits.max_faces),
    ):
        if count > limit:
            raise LimitError(
                f"mesh_file.too_many_{what}",
                f"The file holds {count:,} {what}; the limit is {limit:,}.",
                "Decimate the mesh first, or raise the limit where the file is trusted.",
            )


def require_bytes(needed: int, present: int, what: str) -> None:
    """Compare what a header announces with what the file holds, before anything is allocated.

    Raises:
        FileFormatError: ``mesh_file.lying_header`` if the counts are absurd for a file of this
            size, ``mesh_file.truncated`` if data is merely missing.
    """
    if needed <= present:
        return
    lying = needed > LYING_FACTOR * max(present, 1024)
    raise FileFormatError(
        "mesh_file.lying_header" if lying else "mesh_file.truncated",
        f"The header announces {what}, which takes at least {needed:,} bytes; "
        f"{present:,} bytes follow it.",
        "The counts in the header cannot be right." if lying else "Copy or download it again.",
    )
