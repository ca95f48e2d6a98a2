"""Small shapes for the tests, made from formulas."""

from __future__ import annotations

import numpy as np

from geo3d.mesh.mesh import Mesh


def tetrahedron() -> Mesh:
    """Return the corner tetrahedron of the unit cube (volume 1/6), faces outward."""
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float64)
    faces = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
    return Mesh(vertices, faces, name="tetrahedron")


def grid(n: int = 8, m: int | None = None, width: float = 1.0) -> Mesh:
    """Return a flat ``n`` by ``m`` vertex grid in z = 0 with unit-square extent, normals +z."""
    m = n if m is None else m
    x, y = np.meshgrid(np.linspace(0, width, n), np.linspace(0, width, m), indexing="xy")
    vertices = np.stack([x.ravel(), y.ravel(), np.zeros(n * m)], axis=1)
    a = (np.arange(m - 1)[:, None] * n + np.arange(n - 1)[None]).ravel()
    faces = np.concatenate(
        [np.stack([a, a + 1, a + n + 1], axis=1), np.stack([a, a + n + 1, a + n], axis=1)]
    )
    return Mesh(vertices, faces, name="grid")


def icosphere(subdivisions: int = 2, radius: float = 1.0) -> Mesh:
    """Return a sphere of ``10 * 4**subdivisions + 2`` vertices, faces outward."""
    import trimesh

    sphere = trimesh.creation.icosphere(subdivisions=subdivisions, radius=radius)
    return Mesh(np.array(sphere.vertices), np.array(sphere.faces), name="icosphere")


def torus(n_around: int = 32, n_tube: int = 16, big: float = 1.0, small: float = 0.35) -> Mesh:
    """Return a closed torus around the z axis with ``n_around * n_tube`` vertices."""
    u, v = np.meshgrid(np.arange(n_around), np.arange(n_tube), indexing="ij")
    angle, tube = 2 * np.pi * u / n_around, 2 * np.pi * v / n_tube
    ring = big + small * np.cos(tube)
    vertices = np.stack([ring * np.cos(angle), ring * np.sin(angle), small * np.sin(tube)], axis=-1)
    a = (u * n_tube + v).ravel()
    b = ((u + 1) % n_around * n_tube + v).ravel()
    c = ((u + 1) % n_around * n_tube + (v + 1) % n_tube).ravel()
    d = (u * n_tube + (v + 1) % n_tube).ravel()
    faces = np.concatenate([np.stack([a, b, c], axis=1), np.stack([a, c, d], axis=1)])
    return Mesh(vertices.reshape(-1, 3), faces, name="torus")


def bumpy_sphere(subdivisions: int = 3, seed: int = 0) -> Mesh:
    """Return a sphere with smooth random bumps: no symmetry, so maps between copies are unique."""
    sphere = icosphere(subdivisions)
    rng = np.random.default_rng(seed)
    directions = rng.standard_normal((6, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    heights = rng.uniform(0.15, 0.5, 6)
    bumps = np.exp(6.0 * (sphere.vertices @ directions.T - 1.0)) @ heights
    return Mesh(sphere.vertices * (1.0 + bumps[:, None]), sphere.faces, name="bumpy_sphere")


def rotation(seed: int = 0) -> np.ndarray:
    """Return a random proper rotation matrix."""
    rng = np.random.default_rng(seed)
    q, r = np.linalg.qr(rng.standard_normal((3, 3)))
    q = q * np.sign(np.diag(r))
    return q if np.linalg.det(q) > 0 else -q


def moved(mesh: Mesh, matrix: np.ndarray, offset: np.ndarray | float = 0.0) -> Mesh:
    """Return ``mesh`` under a linear map followed by a shift."""
    return Mesh(mesh.vertices @ matrix.T + offset, mesh.faces, name=mesh.name)


def permuted(mesh: Mesh, seed: int = 0) -> tuple[Mesh, np.ndarray]:
    """Return a copy with shuffled vertices and ``order`` with ``copy.vertices == vertices[order]``.

    ``order`` is also the map p2p_21 from the copy (shape 2) to ``mesh`` (shape 1).
    """
    order = np.random.default_rng(seed).permutation(mesh.n_vertices)
    inverse = np.empty_like(order)
    inverse[order] = np.arange(len(order))
    return Mesh(mesh.vertices[order], inverse[mesh.faces], name=f"{mesh.name}_permuted"), order
