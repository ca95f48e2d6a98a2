"""A mesh file becomes a primitive of a street: an object of ``geo3d generate``, or any other.

Mesh files have y up; the street has y down, so the mesh is turned by half a turn about x.  It
stands with its underside on the ground.  Closed meshes are taken as they are (made coarser beyond
`MOST_VERTICES`); of others the convex hull, as the layout needs to know inside from outside.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial import ConvexHull

from geo3d.errors import ConfigError, InputError, NumericalError
from geo3d.files import slug
from geo3d.layout.classes import CLASSES, GROUND
from geo3d.layout.layout import Layout, Primitive, turn
from geo3d.mesh.decimate import decimate
from geo3d.mesh.io import load_mesh
from geo3d.mesh.mesh import Mesh
from geo3d.mesh.ops import face_normals
from scenes.urban.validate import depths_below

MOST_VERTICES = 2000
LENGTHS = {"car": 4.3, "truck": 7.5, "bus": 12.0, "person": 0.6, "vegetation": 4.0}
"""Usual largest extent in the plan by class, metres."""
_OTHER_LENGTH = 2.0
_ABOVE = 50.0


def mesh_primitive(
    layout: Layout,
    path: str | os.PathLike[str],
    at: Sequence[float],
    name: str = "car",
    *,
    length: float | None = None,
    yaw: float = 0.0,
    style: str = "",
) -> Primitive:
    """Return a mesh file as a primitive that stands on the ground of a layout.

    Args:
        path: OBJ, GLB, PLY, OFF or STL, y up.
        at: x and z of its middle, metres.
        name: its class; a car, truck or bus has a field of its own.
        length: metres of its largest extent in the plan; None for that usual in its class.
        yaw: radians, z towards x.
        style: words about its look.

    Raises:
        InputError: ``insert.flat``, ``insert.no_ground``, ``layout.unknown_class``, and those of
            `load_mesh`.
        ConfigError: ``insert.bad_length``.
    """
    if name not in CLASSES:
        near = difflib.get_close_matches(name, CLASSES, n=1)
        guess = f" Did you mean {near[0]!r}?" if near else ""
        raise InputError("layout.unknown_class", f"There is no class {name!r}.{guess}", "")
    length = LENGTHS.get(name, _OTHER_LENGTH) if length is None else length
    if not (np.isfinite(length) and length > 0):
        raise ConfigError("insert.bad_length", f"The length is {length} m.", "Give one above 0.")
    vertices, faces = _solid(load_mesh(path))
    vertices = vertices * [1.0, -1.0, -1.0]
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    vertices = vertices - (low + high) / 2
    size = length / max(high[0] - low[0], high[2] - low[2])
    transform = np.eye(4)
    transform[:3, :3] = turn(yaw) * size
    ground = ground_height(layout, at)
    transform[:3, 3] = (at[0], ground - size * (high[1] - low[1]) / 2, at[1])
    return Primitive(_free_id(layout, path), name, "mesh", transform, vertices, faces, style)


def ground_height(layout: Layout, at: Sequence[float]) -> float:
    """Return y of the highest ground at x, z.

    Raises:
        InputError: ``insert.no_ground``.
    """
    top = layout.bounds()[0, 1] - _ABOVE
    place = np.array([at[0], top, at[1]])
    found = [
        top + depths[0]
        for p in layout.primitives
        if p.name in GROUND and len(depths := depths_below(p, place))
    ]
    if not found:
        raise InputError(
            "insert.no_ground",
            f"There is no ground at x {at[0]:g}, z {at[1]:g}.",
            "Choose a place on a road, sidewalk or terrain of the layout.",
        )
    return float(min(found))


def _solid(mesh: Mesh) -> tuple[Float[np.ndarray, "v 3"], Int[np.ndarray, "f 3"]]:
    """Return a closed mesh of few vertices: the mesh, or its convex hull."""
    vertices = np.asarray(mesh.vertices, np.float64)
    if np.ptp(vertices, axis=0).min() <= 1e-6 * max(np.ptp(vertices, axis=0).max(), 1e-12):
        raise InputError("insert.flat", f"{mesh.name} is flat.", "Give a mesh with a volume.")
    if _is_closed(mesh.faces):
        try:
            coarse = decimate(mesh, MOST_VERTICES).mesh
            if _is_closed(coarse.faces):
                return np.asarray(coarse.vertices, np.float64), coarse.faces
        except NumericalError:
            # no sound coarser mesh: the hull will do
            pass
    hull = ConvexHull(vertices)
    normals = face_normals(Mesh(vertices, hull.simplices))
    inward = np.einsum("fi,fi->f", normals, hull.equations[:, :3]) < 0
    faces = np.where(inward[:, None], hull.simplices[:, ::-1], hull.simplices)
    used, numbers = np.unique(faces, return_inverse=True)
    return vertices[used], numbers.reshape(faces.shape).astype(np.int64)


def _is_closed(faces: Int[np.ndarray, "f 3"]) -> bool:
    """Return whether every directed edge has its opposite, once each."""
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    if not len(edges):
        return False
    ways, counts = np.unique(edges, axis=0, return_counts=True)
    opposite = np.unique(edges[:, ::-1], axis=0)
    return bool((counts == 1).all() and np.array_equal(ways, opposite))


def _free_id(layout: Layout, path: str | os.PathLike[str]) -> str:
    used, base = {p.id for p in layout.primitives}, slug(Path(path).stem)
    return next(n for k in range(1, len(used) + 3) if (n := f"{base}-{k}") not in used)
