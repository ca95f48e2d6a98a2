"""Colours of a fine mesh as the texture of a coarse one, on the CPU, and GLB files with it.

Every triangle has its own half of a square of the atlas, so nothing overlaps and no chart needs to
be unfolded; two triangles share a square, their long sides some texels apart.  Each texel
is a point of its triangle (or just outside, so that interpolated look-ups see no neighbour); it
takes the colours of the fine mesh's nearest vertices, those that face the same way first.

Notation: f faces, t texels along an edge of the atlas, s along one of a square, m texels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from scipy.spatial import KDTree

from geo3d.errors import ConfigError, InputError
from geo3d.files import atomic_write_bytes
from geo3d.mesh.mesh import Mesh
from geo3d.mesh.ops import face_normals, vertex_normals

SMALLEST_SQUARE = 6
"""Texels along an edge of a square, at least."""
LARGEST_ATLAS = 8192
_NEIGHBOURS = 4
_AWAY = 1e-3
"""Weight left to vertices that face the other way."""


@dataclass(frozen=True, eq=False)
class Textured:
    """A mesh and its texture."""

    mesh: Mesh
    uv: Float[np.ndarray, "f 3 2"]
    """Of each face's corners, in [0, 1]^2; v runs up, as in OBJ files."""
    image: UInt8[np.ndarray, "t t 3"]
    """sRGB; the first row is at the top."""


def bake(coarse: Mesh, fine: Mesh, size: int = 1024) -> Textured:
    """Return ``coarse`` with the vertex colours of ``fine`` as a texture.

    Args:
        coarse: any mesh with faces.
        fine: a mesh with vertex colours in the same place.
        size: texels along an edge.

    Raises:
        InputError: ``texture.no_colors`` (the fine mesh has none).
        ConfigError: ``texture.too_small`` (the faces do not fit an atlas of this size).
    """
    if fine.vertex_colors is None or len(coarse.faces) == 0:
        raise InputError(
            "texture.no_colors",
            "A texture needs a mesh with colours, and faces to put them on.",
            "Decode a mesh with colours, or export without a texture.",
        )
    return bake_colours(coarse, size, lambda points, normals: _colors_at(fine, points, normals))


def bake_colours(
    coarse: Mesh,
    size: int,
    ask: Callable[[Float[np.ndarray, "m 3"], Float[np.ndarray, "m 3"]], UInt8[np.ndarray, "m 3"]],
) -> Textured:
    """Return a mesh with a texture of what ``ask`` says of points on it, given their normals.

    Raises:
        ConfigError: ``texture.too_small`` (the faces do not fit an atlas of this size).
    """
    squares = squares_of(len(coarse.faces))
    edge = size // squares
    if edge < SMALLEST_SQUARE or size > LARGEST_ATLAS:
        raise ConfigError(
            "texture.too_small",
            f"{len(coarse.faces):,} faces do not fit a texture of {size} x {size}.",
            f"Ask for {squares * SMALLEST_SQUARE} texels or more (at most {LARGEST_ATLAS}), or for "
            "fewer faces.",
        )
    columns, rows, face, weights = _texels(len(coarse.faces), squares, edge)
    corners = coarse.vertices[coarse.faces]
    image = np.zeros((size, size, 3), np.uint8)
    points = np.einsum("mi,mix->mx", weights, corners[face])
    image[rows, columns] = ask(points, face_normals(coarse)[face])
    return Textured(coarse, _uv(len(coarse.faces), squares, edge, size), image)


def squares_of(faces: int) -> int:
    """Return how many squares of two faces each lie along an edge of the atlas."""
    return math.ceil(math.sqrt(faces / 2))


def save_textured_glb(textured: Textured, path: str | Path) -> Path:
    """Write a GLB whose material has the texture as its base colour."""
    import trimesh
    from trimesh.visual import TextureVisuals
    from trimesh.visual.material import PBRMaterial

    mesh = textured.mesh
    loose = mesh.faces.reshape(-1)
    material = PBRMaterial(
        metallicFactor=0.0,
        roughnessFactor=0.75,
        doubleSided=True,
        baseColorTexture=Image.fromarray(textured.image),
    )
    part: Any = trimesh.Trimesh(
        mesh.vertices[loose],
        np.arange(len(loose)).reshape(-1, 3),
        vertex_normals=vertex_normals(mesh)[loose],
        process=False,
        validate=False,
    )
    part.visual = TextureVisuals(uv=textured.uv.reshape(-1, 2), material=material)
    return atomic_write_bytes(path, part.export(file_type="glb", include_normals=True))


def _corners(edge: int) -> Float[np.ndarray, "2 3 2"]:
    """Return the corners of a square's two triangles, in texels from its lower left."""
    low = np.array([[1.0, 1.0], [edge - 2.0, 1.0], [1.0, edge - 2.0]])
    high = np.array([[edge - 1.0, edge - 1.0], [3.0, edge - 1.0], [edge - 1.0, 3.0]])
    # An interpolated look-up on the long sides x + y = edge - 1 and edge + 2 reads texels on either
    # side of edge + 1/2 only.
    return np.stack([low, high])


def _uv(faces: int, squares: int, edge: int, size: int) -> Float[np.ndarray, "f 3 2"]:
    square, half = np.divmod(np.arange(faces), 2)
    row, column = np.divmod(square, squares)
    origin = np.stack([column, row], axis=1)[:, None] * edge
    uv = (origin + _corners(edge)[half]) / size
    return np.stack([uv[..., 0], 1.0 - uv[..., 1]], axis=2)


def _texels(
    faces: int, squares: int, edge: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, Float[np.ndarray, "m 3"]]:
    """Return column, row, face and barycentric coordinates of every texel in use."""
    y, x = np.mgrid[:edge, :edge].reshape(2, -1)
    half = (x + y + 1 > edge).astype(np.int64)
    corners = _corners(edge)
    weights = np.zeros((edge * edge, 3))
    for i in (0, 1):
        sides = np.stack([corners[i, 1] - corners[i, 0], corners[i, 2] - corners[i, 0]], axis=1)
        own = half == i
        centres = np.stack([x[own] + 0.5, y[own] + 0.5], axis=1) - corners[i, 0]
        weights[own, 1:] = centres @ np.linalg.inv(sides).T
    weights[:, 0] = 1.0 - weights[:, 1:].sum(axis=1)
    square = np.arange(math.ceil(faces / 2))
    row, column = np.divmod(square, squares)
    face = (2 * square[:, None] + half).reshape(-1)
    used = face < faces
    columns = (column[:, None] * edge + x).reshape(-1)[used]
    rows = (row[:, None] * edge + y).reshape(-1)[used]
    return columns, rows, face[used], np.tile(weights, (len(square), 1))[used]


def _colors_at(
    fine: Mesh, points: Float[np.ndarray, "m 3"], normals: Float[np.ndarray, "m 3"]
) -> UInt8[np.ndarray, "m 3"]:
    """Return the colour of the fine mesh near points whose surface faces along ``normals``."""
    colors = np.asarray(fine.vertex_colors, np.float64)
    own = vertex_normals(fine)
    found = np.empty((len(points), 3), np.uint8)
    tree: Any = KDTree(fine.vertices)
    count = min(_NEIGHBOURS, len(fine.vertices))
    for start in range(0, len(points), 1 << 18):
        part = slice(start, start + (1 << 18))
        distance, near = tree.query(points[part], k=np.arange(1, count + 1))
        facing = np.einsum("mkx,mx->mk", own[near], normals[part]).clip(_AWAY, None)
        weight = facing / (distance**2 + 1e-12)
        mixed = np.einsum("mk,mkx->mx", weight / weight.sum(axis=1, keepdims=True), colors[near])
        found[part] = np.rint(mixed).astype(np.uint8)
    return found
