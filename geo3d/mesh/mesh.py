"""The triangle mesh (or point cloud) every part of geo3d works on.

Notation: v vertices, f faces.  Vertices are positions in the units of the file; faces hold 0-based
vertex indices, counter-clockwise seen from outside.  A mesh without faces is a point cloud.
Instances are immutable and valid: finite coordinates, indices in range.  Whatever may be broken is
handled as raw arrays by `geo3d.mesh.io.read_raw`, `geo3d.mesh.check` and `geo3d.mesh.repair`.

Meshes as they come out of a file, before anybody vouches for them, and the limits on their size.

Notation: v vertices, f faces (triangles; polygons were split as fans around their first corner).
A `RawMesh` has the right shapes and nothing else: coordinates may be NaN, indices out of range.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, UInt8

from geo3d.errors import FileFormatError, LimitError, MeshError


@dataclass(frozen=True, eq=False)
class Mesh:
    """An immutable triangle mesh; vertex order is meaning (maps index into it).

    Raises:
        MeshError: ``mesh.bad_shape``, ``mesh.no_vertices``, ``mesh.non_finite``,
            ``mesh.index_out_of_range``, ``mesh.bad_colors``.
    """

    vertices: Float[np.ndarray, "v 3"]
    """Positions; float32 or float64, kept as given."""
    faces: Int[np.ndarray, "f 3"]
    """Vertex indices, int64; (0, 3) for a point cloud."""
    vertex_colors: UInt8[np.ndarray, "v 3"] | None = None
    """RGB, 0..255."""
    name: str = "mesh"
    """For messages and file names."""

    def __post_init__(self) -> None:
        vertices = np.asarray(self.vertices)
        if vertices.dtype not in (np.float32, np.float64):
            vertices = vertices.astype(np.float64)
        faces = np.asarray(self.faces)
        if faces.size == 0:
            faces = np.zeros((0, 3), np.int64)
        _check_arrays(vertices, faces, self.name)
        object.__setattr__(self, "vertices", _frozen(vertices))
        object.__setattr__(self, "faces", _frozen(faces.astype(np.int64)))
        if self.vertex_colors is not None:
            object.__setattr__(self, "vertex_colors", _checked_colors(self))

    @property
    def n_vertices(self) -> int:
        """Number of vertices."""
        return len(self.vertices)

    @property
    def n_faces(self) -> int:
        """Number of triangles."""
        return len(self.faces)

    @property
    def is_point_cloud(self) -> bool:
        """Whether there are no faces."""
        return len(self.faces) == 0

    def content_hash(self) -> str:
        """Return a SHA-256 hex digest of vertices and faces (order and bits matter)."""
        digest = hashlib.sha256()
        digest.update(np.ascontiguousarray(self.vertices, np.float64).tobytes())
        digest.update(np.ascontiguousarray(self.faces, np.int64).tobytes())
        return digest.hexdigest()


def _frozen(array: np.ndarray) -> np.ndarray:
    array = np.array(array, order="C", copy=True)
    array.flags.writeable = False
    return array


def _checked_colors(mesh: Mesh) -> np.ndarray:
    colors = np.asarray(mesh.vertex_colors)
    if colors.shape != mesh.vertices.shape or colors.dtype != np.uint8:
        raise MeshError(
            "mesh.bad_colors",
            f"{mesh.name}: vertex colours are {colors.dtype} {colors.shape}.",
            f"Give uint8 of shape ({mesh.n_vertices}, 3).",
        )
    return _frozen(colors)


def _check_arrays(vertices: np.ndarray, faces: np.ndarray, name: str) -> None:
    if vertices.ndim != 2 or vertices.shape[1] != 3 or faces.ndim != 2 or faces.shape[1] != 3:
        raise MeshError(
            "mesh.bad_shape",
            f"{name}: vertices have shape {vertices.shape}, faces {faces.shape}.",
            "Vertices must be (v, 3) and faces (f, 3); split polygons into triangles first.",
        )
    if not np.issubdtype(faces.dtype, np.integer):
        raise MeshError("mesh.bad_shape", f"{name}: faces are {faces.dtype}.", "Give integers.")
    if len(vertices) == 0:
        raise MeshError("mesh.no_vertices", f"{name}: there are no vertices.", "")
    if not np.isfinite(vertices).all():
        bad = int((~np.isfinite(vertices).all(axis=1)).sum())
        raise MeshError(
            "mesh.non_finite",
            f"{name}: {bad} of {len(vertices)} vertices have NaN or infinite coordinates.",
            "Look at them with `geo3d check FILE`; `--repair drop_non_finite` removes them.",
        )
    if len(faces) and (faces.min() < 0 or faces.max() >= len(vertices)):
        raise MeshError(
            "mesh.index_out_of_range",
            f"{name}: face indices run from {faces.min()} to {faces.max()}, "
            f"but there are {len(vertices)} vertices.",
            "Indices are 0-based; `geo3d check FILE` names the faces, "
            "`--repair drop_bad_faces` removes them.",
        )


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
                "Decimate the mesh first.",
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
