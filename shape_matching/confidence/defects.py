"""Shapes as files give them: generated ones with specks, seams, cuts, holes and noise.

Every defect keeps, for each vertex, which vertex of the creature it shows, or -1.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int64

from geo3d.mesh.mesh import Mesh
from geo3d.mesh.ops import vertex_normals


@dataclass(frozen=True, eq=False)
class Shape:
    """A mesh, and the creature's vertex that each of its vertices shows."""

    mesh: Mesh
    template_ids: Int64[np.ndarray, " v"]


def random_defects(shape: Shape, rng: np.random.Generator) -> Shape:
    """Return ``shape`` turned in space and with defects: none in two of five cases."""
    shape = turned(shape, rng)
    if rng.uniform() < 0.4:
        return shape
    for share, defect in (
        (0.35, cut), (0.2, noise), (0.15, seams), (0.15, doubled), (0.25, specks), (0.15, unused),
        (0.1, cloud),
    ):  # fmt: skip
        if rng.uniform() < share:
            shape = defect(shape, rng)
    return shape


def turned(shape: Shape, rng: np.random.Generator) -> Shape:
    """Turn the shape about the origin by any rotation."""
    turn = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    turn *= np.sign(np.linalg.det(turn))
    return _with_vertices(shape, shape.mesh.vertices @ turn.T)


def cut(shape: Shape, rng: np.random.Generator) -> Shape:
    """Cut off what lies beyond a plane: 5 to 70 % of the vertices."""
    direction = rng.standard_normal(3)
    height = shape.mesh.vertices @ (direction / np.linalg.norm(direction))
    return kept(shape, height <= np.quantile(height, rng.uniform(0.3, 0.95)))


def kept(shape: Shape, vertices: np.ndarray) -> Shape:
    """Return the faces all of whose vertices are kept, largest piece or not."""
    mesh = shape.mesh
    faces = mesh.faces[vertices[mesh.faces].all(axis=1)]
    used = np.unique(faces)
    place = np.full(mesh.n_vertices, -1)
    place[used] = np.arange(len(used))
    smaller = Mesh(mesh.vertices[used], place[faces], name=mesh.name)
    return Shape(smaller, shape.template_ids[used])


def noise(shape: Shape, rng: np.random.Generator) -> Shape:
    """Move vertices along their normals by up to 0.4 % of the extent."""
    mesh = shape.mesh
    size = rng.uniform(0.0005, 0.004) * np.linalg.norm(np.ptp(mesh.vertices, axis=0))
    moved = mesh.vertices + size * rng.standard_normal((mesh.n_vertices, 1)) * vertex_normals(mesh)
    return _with_vertices(shape, moved)


def seams(shape: Shape, rng: np.random.Generator) -> Shape:
    """Cut the surface into charts: vertices along the seams come twice."""
    mesh = shape.mesh
    centres = mesh.vertices[rng.choice(mesh.n_vertices, int(rng.integers(2, 20)), replace=False)]
    middle = mesh.vertices[mesh.faces].mean(axis=1)
    chart = np.linalg.norm(middle[:, None] - centres, axis=2).argmin(axis=1)
    corners = np.stack([np.repeat(chart, 3), mesh.faces.ravel()], axis=1)
    own, faces = np.unique(corners, axis=0, return_inverse=True)
    ids = own[:, 1]
    torn = Mesh(mesh.vertices[ids], faces.reshape(-1, 3), name=mesh.name)
    return Shape(torn, shape.template_ids[ids])


def doubled(shape: Shape, rng: np.random.Generator) -> Shape:
    """Give some faces corners of their own, at the same places."""
    mesh = shape.mesh
    faces, chosen = mesh.faces.copy(), rng.uniform(size=mesh.n_faces) < 0.03
    old = faces[chosen].ravel()
    faces[chosen] = mesh.n_vertices + np.arange(len(old)).reshape(-1, 3)
    torn = replace(mesh, vertices=np.vstack([mesh.vertices, mesh.vertices[old]]), faces=faces)
    return Shape(torn, np.concatenate([shape.template_ids, shape.template_ids[old]]))


def specks(shape: Shape, rng: np.random.Generator) -> Shape:
    """Add 1 to 10 small triangles around the shape."""
    mesh = shape.mesh
    n = int(rng.integers(1, 11))
    size = np.linalg.norm(np.ptp(mesh.vertices, axis=0))
    places = mesh.vertices.mean(axis=0) + size * rng.uniform(-0.7, 0.7, (n, 1, 3))
    corners = places + 0.02 * size * rng.standard_normal((n, 3, 3))
    faces = mesh.n_vertices + np.arange(3 * n).reshape(n, 3)
    more = Mesh(
        np.vstack([mesh.vertices, corners.reshape(-1, 3)]),
        np.vstack([mesh.faces, faces]),
        name=mesh.name,
    )
    return Shape(more, np.concatenate([shape.template_ids, np.full(3 * n, -1)]))


def unused(shape: Shape, rng: np.random.Generator) -> Shape:
    """Add vertices of no face."""
    n = int(rng.integers(1, 20))
    places = shape.mesh.vertices.mean(axis=0) + rng.standard_normal((n, 3))
    more = replace(shape.mesh, vertices=np.vstack([shape.mesh.vertices, places]))
    return Shape(more, np.concatenate([shape.template_ids, np.full(n, -1)]))


def cloud(shape: Shape, rng: np.random.Generator) -> Shape:
    """Forget the faces; some points more stand apart."""
    used = np.unique(shape.mesh.faces)
    points, ids = shape.mesh.vertices[used], shape.template_ids[used]
    n = int(rng.integers(0, 9))
    size = np.linalg.norm(np.ptp(points, axis=0))
    far = points.mean(axis=0) + size * rng.uniform(0.6, 1.2, (n, 1)) * _directions(n, rng)
    mesh = Mesh(np.vstack([points, far]), np.zeros((0, 3), np.int64), name=shape.mesh.name)
    return Shape(mesh, np.concatenate([ids, np.full(n, -1)]))


def _directions(n: int, rng: np.random.Generator) -> np.ndarray:
    found = rng.standard_normal((n, 3))
    return found / np.linalg.norm(found, axis=1, keepdims=True).clip(min=1e-9)


def _with_vertices(shape: Shape, vertices: np.ndarray) -> Shape:
    return Shape(replace(shape.mesh, vertices=np.ascontiguousarray(vertices)), shape.template_ids)
