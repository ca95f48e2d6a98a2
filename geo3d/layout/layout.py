"""A street as a list of classed primitives, and the cameras that drive along it.

World: metres, x right, y DOWN, z forward; cameras are OpenCV camera-to-world matrices.  A primitive
is a closed triangle mesh in local coordinates with a transform (4, 4) into the world:

* box: the cube with corners +-0.5; the transform's columns are its axes times its size;
* ellipsoid: a once-subdivided icosahedron of radius 0.5 (42 vertices, 80 faces);
* slab: a ribbon between two rails, extruded downwards (roads, sidewalks, terrain);
* mesh: anything else.

Everything is immutable; `scenes.urban.edits` makes changed copies.
Source: Urban Architect (arXiv 2404.06780), section 3.1, and its published samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, cast, get_args

import numpy as np
from jaxtyping import Float, Int

from geo3d.errors import InputError
from geo3d.layout.classes import MOVABLE, class_id

Kind = Literal["box", "ellipsoid", "slab", "mesh"]
KINDS: tuple[Kind, ...] = get_args(Kind)
SLAB_THICKNESS = 0.6
"""Metres; that of the published samples."""


@dataclass(frozen=True, eq=False)
class Primitive:
    """One classed piece of the street."""

    id: str
    """Unique in its layout; object fields are found by it."""
    name: str
    """Class name, one of `geo3d.layout.classes.CLASSES`."""
    kind: Kind
    transform: Float[np.ndarray, "4 4"]
    """Local to world, float64."""
    vertices: Float[np.ndarray, "v 3"]
    """Local coordinates, float64."""
    faces: Int[np.ndarray, "f 3"]
    style: str = ""
    """Words about this instance, such as "red brick"; may be empty."""

    def world_vertices(self) -> Float[np.ndarray, "v 3"]:
        """Return the vertices in world coordinates."""
        return self.vertices @ self.transform[:3, :3].T + self.transform[:3, 3]

    def bounds(self) -> Float[np.ndarray, "2 3"]:
        """Return the least and greatest world coordinates."""
        return self._bounds.copy()

    @property
    def movable(self) -> bool:
        """Whether the scene gives it a field of its own (car, truck, bus)."""
        return self.name in MOVABLE

    @property
    def class_id(self) -> int:
        """The id of its class."""
        return class_id(self.name)

    @cached_property
    def _bounds(self) -> np.ndarray:
        points = self.world_vertices()
        return np.stack([points.min(axis=0), points.max(axis=0)])


@dataclass(frozen=True)
class Region:
    """A rectangle of the plan with a prompt of its own."""

    bounds: tuple[float, float, float, float]
    """x0, x1, z0, z1 in metres."""
    prompt: str

    def contains(self, x: float, z: float) -> bool:
        """Return whether a point of the plan lies in the rectangle."""
        x0, x1, z0, z1 = self.bounds
        return x0 <= x <= x1 and z0 <= z <= z1


@dataclass(frozen=True, eq=False)
class Layout:
    """A street: primitives, the trajectory driven along it, and what it should look like."""

    name: str
    primitives: tuple[Primitive, ...]
    trajectory: Float[np.ndarray, "n 4 4"]
    """Camera-to-world matrices in driving order, float64."""
    prompt: str = "a residential street"
    regions: tuple[Region, ...] = ()

    def primitive(self, id: str) -> Primitive:
        """Return the primitive with this id.

        Raises:
            InputError: ``layout.unknown_id``.
        """
        return self.primitives[self.index(id)]

    def index(self, id: str) -> int:
        """Return the position of a primitive in the list.

        Raises:
            InputError: ``layout.unknown_id``.
        """
        if id not in self._index:
            raise InputError(
                "layout.unknown_id",
                f"The layout {self.name} has no primitive {id!r}.",
                f"It has {len(self.primitives)}; their ids are in the layout file.",
            )
        return self._index[id]

    def bounds(self) -> Float[np.ndarray, "2 3"]:
        """Return the least and greatest world coordinates of all primitives.

        Raises:
            InputError: ``layout.empty``.
        """
        boxes = self.primitive_bounds()
        if not len(boxes):
            raise InputError("layout.empty", f"The layout {self.name} has no primitives.", "")
        return np.stack([boxes[:, 0].min(axis=0), boxes[:, 1].max(axis=0)])

    def primitive_bounds(self) -> Float[np.ndarray, "n 2 3"]:
        """Return the world bounds of every primitive."""
        return np.array([p._bounds for p in self.primitives]).reshape(-1, 2, 3)

    def triangles(
        self,
    ) -> tuple[
        Float[np.ndarray, "v 3"],
        Int[np.ndarray, "f 3"],
        Int[np.ndarray, " f"],
        Int[np.ndarray, " f"],
    ]:
        """Return all vertices (world), faces into them, and per face primitive index and class."""
        if not self.primitives:
            none = np.zeros(0, np.int64)
            return np.zeros((0, 3)), np.zeros((0, 3), np.int64), none, none
        counts = np.array([len(p.vertices) for p in self.primitives])
        starts = np.cumsum(counts) - counts
        vertices = np.concatenate([p.world_vertices() for p in self.primitives])
        faces = [p.faces + start for p, start in zip(self.primitives, starts, strict=True)]
        index = np.repeat(np.arange(len(faces)), [len(f) for f in faces])
        classes = np.array([p.class_id for p in self.primitives])
        return vertices, np.concatenate(faces).astype(np.int64), index, classes[index]

    def prompt_at(self, x: float, z: float, elsewhere: str = "") -> str:
        """Return the prompt of the first region that holds the point.

        Args:
            elsewhere: the prompt outside of regions; "" takes the layout's.
        """
        found = (r.prompt for r in self.regions if r.contains(x, z))
        return next(found, elsewhere or self.prompt)

    @cached_property
    def _index(self) -> dict[str, int]:
        return {p.id: i for i, p in enumerate(self.primitives)}


def box(
    id: str,
    name: str,
    centre: Sequence[float] | np.ndarray,
    size: Sequence[float] | np.ndarray,
    yaw: float = 0.0,
    style: str = "",
) -> Primitive:
    """Return a box of ``size`` (x, y, z before turning) metres, turned by ``yaw`` about y.

    Yaw is the heading: positive turns z towards x, as a car that steers to its right.
    """
    transform = _pose(centre, size, yaw)
    return Primitive(id, name, "box", transform, CUBE_VERTICES, CUBE_FACES, style)


def ellipsoid(
    id: str,
    name: str,
    centre: Sequence[float] | np.ndarray,
    size: Sequence[float] | np.ndarray,
    yaw: float = 0.0,
    style: str = "",
) -> Primitive:
    """Return an ellipsoid with diameters ``size`` in metres, turned by ``yaw`` about y."""
    transform = _pose(centre, size, yaw)
    return Primitive(id, name, "ellipsoid", transform, BALL_VERTICES, BALL_FACES, style)


def slab(
    id: str,
    name: str,
    left: Float[np.ndarray, "m 3"],
    right: Float[np.ndarray, "n 3"],
    thickness: float = SLAB_THICKNESS,
    style: str = "",
) -> Primitive:
    """Return the ribbon between two rails (world, upper side), ``thickness`` metres deep.

    Raises:
        InputError: ``layout.bad_slab`` for rails of different or too small length.
    """
    left, right = np.asarray(left, np.float64), np.asarray(right, np.float64)
    if left.shape != right.shape or left.ndim != 2 or left.shape[1:] != (3,) or len(left) < 2:
        raise InputError(
            "layout.bad_slab",
            f"The rails of {id!r} have the shapes {left.shape} and {right.shape}.",
            "Give two rails of the same number of points, two or more, (m, 3).",
        )
    upper = np.concatenate([left, right])
    transform = np.eye(4)
    transform[:3, 3] = (upper.min(axis=0) + upper.max(axis=0)) / 2
    lower = upper + np.array([0.0, thickness, 0.0])
    vertices = np.concatenate([upper, lower]) - transform[:3, 3]
    return Primitive(id, name, "slab", transform, vertices, ribbon_faces(len(left)), style)


def ribbon_faces(m: int) -> Int[np.ndarray, "f 3"]:
    """Return the 8 m - 4 faces of a slab of two rails of ``m`` points, upper side first.

    Vertices: left rail, right rail, then the same below.  Seen from outside the corners run
    anticlockwise for rails that run forward, left and right as named, y down.
    """
    a, n = np.arange(m - 1), 2 * m
    left, right = (a, a + 1), (m + a, m + a + 1)
    quads = [
        (left[0], right[0], right[1], left[1]),
        (left[1] + n, right[1] + n, right[0] + n, left[0] + n),
        (left[0], left[1], left[1] + n, left[0] + n),
        (right[1], right[0], right[0] + n, right[1] + n),
        *[(np.array([q]) for q in (m, 0, n, n + m))],
        *[(np.array([q]) for q in (m - 1, n - 1, 2 * n - 1, n + m - 1))],
    ]
    faces = []
    for quad in quads:
        p, q, r, s = quad
        faces += [np.stack([p, q, r], axis=1), np.stack([p, r, s], axis=1)]
    return np.concatenate(faces)


def known_kind(kind: str) -> Kind:
    """Return ``kind`` if there is such a kind of primitive.

    Raises:
        InputError: ``layout.unknown_kind``.
    """
    if kind not in KINDS:
        raise InputError(
            "layout.unknown_kind",
            f"There is no kind of primitive {kind!r}.",
            f"Choose one of {', '.join(KINDS)}.",
        )
    return cast(Kind, kind)


def turn(yaw: float) -> Float[np.ndarray, "3 3"]:
    """Return the rotation about the y axis that turns z towards x by ``yaw`` radians."""
    c, s = np.cos(yaw), np.sin(yaw)
    return np.array([[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]])


def _pose(centre: object, size: object, yaw: float) -> np.ndarray:
    transform = np.eye(4)
    transform[:3, :3] = turn(yaw) * np.asarray(size, np.float64)
    transform[:3, 3] = np.asarray(centre, np.float64)
    return transform


def _unit_cube() -> tuple[np.ndarray, np.ndarray]:
    vertices = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)]) - 0.5
    # corners anticlockwise seen from outside; index = 4 x + 2 y + z
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    faces = [f for a, b, c, d in quads for f in ((a, b, c), (a, c, d))]
    return vertices, np.array(faces, np.int64)


def _unit_ball() -> tuple[np.ndarray, np.ndarray]:
    golden = (1 + 5**0.5) / 2
    signs = [(a, b * golden) for a in (-1, 1) for b in (-1, 1)]
    corners = np.array([np.roll((0.0, a, b), k) for k in range(3) for a, b in signs])
    corners /= np.linalg.norm(corners, axis=1, keepdims=True)
    near = corners @ corners.T > 0.4
    np.fill_diagonal(near, False)
    triples = [
        (i, j, k)
        for i in range(12)
        for j in range(i + 1, 12)
        for k in range(j + 1, 12)
        if near[i, j] and near[j, k] and near[i, k]
    ]
    points, middle, faces = [*corners], {}, []
    for triple in triples:
        a, b, c = triple
        if np.linalg.det(corners[[a, b, c]]) < 0:
            b, c = c, b
        mids = []
        for p, q in ((a, b), (b, c), (c, a)):
            key = (min(p, q), max(p, q))
            if key not in middle:
                middle[key] = len(points)
                mid = corners[p] + corners[q]
                points.append(mid / np.linalg.norm(mid))
            mids.append(middle[key])
        ab, bc, ca = mids
        faces += [(a, ab, ca), (b, bc, ab), (c, ca, bc), (ab, bc, ca)]
    return np.array(points) / 2, np.array(faces, np.int64)


CUBE_VERTICES, CUBE_FACES = _unit_cube()
BALL_VERTICES, BALL_FACES = _unit_ball()
for _shared in (CUBE_VERTICES, CUBE_FACES, BALL_VERTICES, BALL_FACES):
    _shared.setflags(write=False)


def piece(layout: Layout, length: float, start: float = 0.0, reach: float = 120.0) -> Layout:
    """Return ``length`` metres of the drive and the primitives within ``reach`` metres of it.

    Args:
        start: metres of the drive before the piece.

    Raises:
        InputError: ``layout.no_piece`` where the drive ends before ``start``, or without length.
    """
    places = layout.trajectory[:, :3, 3]
    along = np.concatenate([[0], np.linalg.norm(np.diff(places, axis=0), axis=1).cumsum()])
    kept = (along >= start) & (along <= start + length)
    if not (length > 0 and kept.any()):
        raise InputError(
            "layout.no_piece",
            f"There is no piece of {length:g} m from {start:g} m on: the drive is "
            f"{along[-1]:.0f} m long.",
            "Start earlier, or take a longer piece.",
        )
    chosen = primitives_near(layout, places[kept], reach)
    return replace(layout, primitives=chosen, trajectory=layout.trajectory[kept])


def primitives_near(
    layout: Layout, places: Float[np.ndarray, "n 3"], reach: float
) -> tuple[Primitive, ...]:
    """Return the primitives within ``reach`` metres, in the plan, of one of the places."""
    near = places[:, [0, 2]]
    boxes = layout.primitive_bounds()[:, :, [0, 2]]
    chosen = []
    for primitive, (low, high) in zip(layout.primitives, boxes, strict=True):
        away = np.maximum(np.maximum(low - near, near - high), 0)
        if np.hypot(*away.T).min() <= reach:
            chosen.append(primitive)
    return tuple(chosen)
