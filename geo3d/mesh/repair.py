"""Named repairs of broken meshes; each says what it did and returns maps from old ids to new ones.

Notation: a vertex map has an entry per old vertex, its new index or -1 if it was removed; a face
map likewise.  Nothing is repaired unless asked for, in the order asked for.  Usual orders::

    drop_bad_faces, drop_non_finite, drop_degenerate, drop_duplicate_faces, drop_unreferenced
    merge_duplicate_vertices, drop_degenerate, cut_non_manifold_edges, orient_consistently

Inside, v vertices, f faces; ``source`` arrays give the old index of each new item, ``map`` arrays
the new index of each old one, -1 where there is none.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from geo3d.errors import ConfigError, MeshError
from geo3d.mesh import connectivity
from geo3d.mesh.findings import degenerate_faces, scaled_points
from geo3d.mesh.mesh import Mesh, RawMesh
from geo3d.mesh.ops import (
    finite_rows,
    group_equal_points,
    group_equal_rows,
    group_near_points,
    rows_in_range,
    rows_with_repeats,
)

MAX_HOLE_EDGES = 32
CLOSE = 1e-5
ROUNDINGS = 2.0
"""Roundings of the largest coordinate, which lies at 1, that may tear a vertex apart."""


@dataclass(frozen=True, eq=False)
class State:
    """Vertices (v, 3) and faces (f, 3), which may be broken."""

    vertices: np.ndarray
    faces: np.ndarray


@dataclass(frozen=True, eq=False)
class Change:
    """The result of one step."""

    state: State
    vertex_map: np.ndarray
    vertex_source: np.ndarray
    face_source: np.ndarray
    message: str


def drop_non_finite(state: State) -> Change:
    """Remove vertices with NaN or infinite coordinates, and their faces."""
    return _keep_vertices(state, finite_rows(state.vertices))


def drop_bad_faces(state: State) -> Change:
    """Remove faces that name a vertex that does not exist."""
    return _keep_faces(state, _in_range(state))


def drop_degenerate(state: State) -> Change:
    """Remove faces without area: a vertex named twice, or three corners in a line."""
    return _keep_faces(state, ~degenerate_faces(state.vertices, state.faces))


def drop_duplicate_faces(state: State) -> Change:
    """Keep the first of faces with the same three corners, in whatever order."""
    first, _ = group_equal_rows(np.sort(state.faces, axis=1))
    keep = np.zeros(len(state.faces), bool)
    keep[first] = True
    return _keep_faces(state, keep)


def merge_duplicate_vertices(state: State) -> Change:
    """Join vertices with exactly equal coordinates into the first of them."""
    first, group = group_equal_points(state.vertices)
    merged = State(state.vertices[first], _renumbered(state.faces, group))
    message = f"joined {len(state.vertices) - len(first):,} vertices with earlier ones"
    return Change(merged, group, first, np.arange(len(state.faces)), message)


def merge_close_vertices(state: State) -> Change:
    """Join vertices that steps under 1e-5 of the extent connect into the first of them.

    That is a hundred times the rounding of float32, which tears STL files apart; far from the
    origin the rounding of the coordinates' own type counts where it is larger.
    """
    finite = np.flatnonzero(finite_rows(state.vertices))
    points = scaled_points(state.vertices, finite_rows(state.vertices))[finite]
    extent = float(np.linalg.norm(np.ptp(points, axis=0))) if len(points) else 0.0
    reach = max(CLOSE * extent, ROUNDINGS * float(np.finfo(state.vertices.dtype).eps))
    first, group = group_near_points(points, reach)
    owner = np.arange(len(state.vertices))
    owner[finite] = finite[first[group]]
    source, vertex_map = np.unique(owner, return_inverse=True)
    merged = State(state.vertices[source], _renumbered(state.faces, vertex_map))
    message = f"joined {len(owner) - len(source):,} vertices with earlier ones"
    return Change(merged, vertex_map, source, np.arange(len(state.faces)), message)


def drop_unreferenced(state: State) -> Change:
    """Remove vertices of no face."""
    keep = np.zeros(len(state.vertices), bool)
    keep[state.faces[_in_range(state)]] = True
    return _keep_vertices(state, keep)


def keep_largest_component(state: State) -> Change:
    """Keep the connected piece with most faces (the first of equals), and its vertices only."""
    _require_sound(state, "keep_largest_component")
    _, label = connectivity.vertex_components(state.faces, len(state.vertices))
    if len(state.faces) == 0:
        return _keep_vertices(state, np.ones(len(state.vertices), bool))
    largest = np.bincount(label[state.faces[:, 0]]).argmax()
    return _keep_vertices(state, label == largest)


def orient_consistently(state: State) -> Change:
    """Turn faces so that neighbours agree: closed pieces outward, open ones as most faces are."""
    _require_sound(state, "orient_consistently")
    sides = connectivity.edge_sides(state.faces, len(state.vertices))
    turn, component, conflict = connectivity.orientation(sides, len(state.faces))
    faces = _turned(state.faces, turn)
    inward = _inward_components(state.vertices, faces, component)
    faces = _turned(faces, inward[component])
    turn ^= inward[component]
    message = f"turned {int(turn.sum()):,} faces"
    if conflict.any():
        message += "; a one-sided piece cannot be oriented"
    return _same_items(state, State(state.vertices, faces), message)


def orient_outward(state: State) -> Change:
    """Turn whole closed pieces whose volume is negative."""
    _require_sound(state, "orient_outward")
    sides = connectivity.edge_sides(state.faces, len(state.vertices))
    _, component, _ = connectivity.orientation(sides, len(state.faces))
    inward = _inward_components(state.vertices, state.faces, component)[component]
    faces = _turned(state.faces, inward)
    return _same_items(state, State(state.vertices, faces), f"turned {int(inward.sum()):,} faces")


def split_non_manifold_vertices(state: State) -> Change:
    """Give each fan of faces around a vertex its own copy; the first fan keeps the vertex."""
    _require_sound(state, "split_non_manifold_vertices")
    return _split(state, most=None)


def cut_non_manifold_edges(state: State) -> Change:
    """Cut the surface open along edges with over two faces, copying the vertices there."""
    _require_sound(state, "cut_non_manifold_edges")
    return _split(state, most=2)


def fill_small_holes(state: State) -> Change:
    """Close holes of up to 32 edges with triangles around a new vertex at the hole's centre."""
    _require_sound(state, "fill_small_holes")
    vertices, faces, source = [state.vertices], [state.faces], [np.arange(len(state.vertices))]
    n_vertices, n_holes = len(state.vertices), 0
    for loop in _hole_loops(state):
        follower = np.roll(loop, -1)
        n_holes += 1
        if len(loop) == 3:
            faces.append(loop[::-1][None])
            continue
        centre = state.vertices[loop].mean(axis=0, keepdims=True)
        vertices.append(centre.astype(state.vertices.dtype))
        source.append(loop[:1])
        faces.append(np.stack([follower, loop, np.full(len(loop), n_vertices)], axis=1))
        n_vertices += 1
    filled = State(np.concatenate(vertices), np.concatenate(faces))
    face_source = np.full(len(filled.faces), -1)
    face_source[: len(state.faces)] = np.arange(len(state.faces))
    message = f"closed {n_holes:,} holes with {len(filled.faces) - len(state.faces):,} faces"
    vertex_map = np.arange(len(state.vertices))
    return Change(filled, vertex_map, np.concatenate(source), face_source, message)


def _in_range(state: State) -> np.ndarray:
    return rows_in_range(state.faces, len(state.vertices))


def _require_sound(state: State, name: str) -> None:
    repeated = rows_with_repeats(state.faces)
    if not _in_range(state).all() or repeated.any():
        raise MeshError(
            "repair.needs_sound_faces",
            f"{name} cannot work while faces name missing vertices, or one vertex twice.",
            "Ask for drop_bad_faces and drop_degenerate before it.",
        )


def _keep_faces(state: State, keep: np.ndarray) -> Change:
    message = f"removed {int((~keep).sum()):,} faces"
    everything = np.arange(len(state.vertices))
    kept = State(state.vertices, state.faces[keep])
    return Change(kept, everything, everything, np.flatnonzero(keep), message)


def _keep_vertices(state: State, keep: np.ndarray) -> Change:
    """Drop vertices, and the faces that named one of them; faces that were bad stay bad."""
    source = np.flatnonzero(keep)
    vertex_map = np.full(len(keep), -1)
    vertex_map[source] = np.arange(len(source))
    good = _in_range(state)
    kept_faces = ~good
    kept_faces[good] = keep[state.faces[good]].all(axis=1)
    faces = _renumbered(state.faces[kept_faces], vertex_map)
    message = f"removed {int((~keep).sum()):,} vertices and {int((~kept_faces).sum()):,} faces"
    kept = State(state.vertices[source], faces)
    return Change(kept, vertex_map, source, np.flatnonzero(kept_faces), message)


def _renumbered(faces: np.ndarray, vertex_map: np.ndarray) -> np.ndarray:
    """Follow the map; indices out of range become -1, which is out of range too."""
    valid = (faces >= 0) & (faces < len(vertex_map))
    result = np.full(faces.shape, -1, np.int64)
    result[valid] = vertex_map[faces[valid]]
    return result


def _same_items(before: State, after: State, message: str) -> Change:
    everything = np.arange(len(before.vertices))
    return Change(after, everything, everything, np.arange(len(before.faces)), message)


def _turned(faces: np.ndarray, turn: np.ndarray) -> np.ndarray:
    return np.where(turn[:, None], faces[:, [0, 2, 1]], faces)


def _inward_components(
    vertices: np.ndarray, faces: np.ndarray, component: np.ndarray
) -> np.ndarray:
    """Return per component whether it is closed, oriented and has a negative volume."""
    count = int(component.max(initial=-1)) + 1
    sides = connectivity.edge_sides(faces, len(vertices))
    closed = np.ones(count, bool)
    closed[component[sides.of_edges(sides.count != 2) // 3]] = False
    first, second = sides.pairs(most=2)
    closed[component[first[sides.tail[first] == sides.tail[second]] // 3]] = False
    points = scaled_points(vertices, finite_rows(vertices))
    a, b, c = np.moveaxis(points[faces], 1, 0)
    volume = np.bincount(component, np.einsum("ij,ij->i", a, np.cross(b, c)), count)
    return closed & (volume < 0)


def _split(state: State, most: int | None) -> Change:
    sides = connectivity.edge_sides(state.faces, len(state.vertices))
    fans = connectivity.corner_fans(sides, most)
    # The fan with the lowest corner keeps the vertex; the others get copies in corner order.
    _, first_corner = np.unique(fans, return_index=True)
    first_corner = np.sort(first_corner)
    owner = sides.tail[first_corner]
    _, keeps = np.unique(owner, return_index=True)
    copies = np.ones(len(owner), bool)
    copies[keeps] = False
    new_id = owner.copy()
    new_id[copies] = len(state.vertices) + np.arange(int(copies.sum()))
    id_of_fan = np.zeros(int(fans.max(initial=-1)) + 1, np.int64)
    id_of_fan[fans[first_corner]] = new_id
    source = np.concatenate([np.arange(len(state.vertices)), owner[copies]])
    after = State(state.vertices[source], id_of_fan[fans].reshape(-1, 3))
    message = f"added {int(copies.sum()):,} copies of vertices"
    left = int((connectivity.edge_sides(after.faces, len(source)).count > 2).sum())
    if most is not None and left:
        message += f"; {left:,} edges with over two faces remain"
    everything = np.arange(len(state.vertices))
    return Change(after, everything, source, np.arange(len(state.faces)), message)


def _hole_loops(state: State) -> list[np.ndarray]:
    """Return closed boundary walks along the existing half-edges, skipping branching ones."""
    sides = connectivity.edge_sides(state.faces, len(state.vertices))
    border = sides.of_edges(sides.count == 1)
    leaving = np.bincount(sides.tail[border], minlength=len(state.vertices))
    entering = np.bincount(sides.head[border], minlength=len(state.vertices))
    simple = (leaving == 1) & (entering == 1)
    after = dict(zip(sides.tail[border].tolist(), sides.head[border].tolist(), strict=True))
    face = dict(zip(sides.tail[border].tolist(), (border // 3).tolist(), strict=True))
    loops, seen = [], set()
    for start in sorted(after):
        walk = []
        vertex = start
        while vertex not in seen and vertex in after:
            seen.add(vertex)
            walk.append(vertex)
            vertex = after[vertex]
        closed = bool(walk) and vertex == start and bool(simple[walk].all())
        alone = len({face[vertex] for vertex in walk}) == 1
        if closed and 3 <= len(walk) <= MAX_HOLE_EDGES and not alone:
            loops.append(np.array(walk, np.int64))
    return loops


logger = logging.getLogger(__name__)

REPAIRS: dict[str, Callable[[State], Change]] = {
    step.__name__: step
    for step in (
        drop_non_finite,
        drop_bad_faces,
        drop_degenerate,
        drop_duplicate_faces,
        merge_duplicate_vertices,
        merge_close_vertices,
        drop_unreferenced,
        keep_largest_component,
        orient_consistently,
        orient_outward,
        split_non_manifold_vertices,
        cut_non_manifold_edges,
        fill_small_holes,
    )
}


@dataclass(frozen=True, eq=False)
class Repaired:
    """A repaired mesh and where everything went."""

    mesh: Mesh
    vertex_map: Int[np.ndarray, " v_old"]
    """New index of each old vertex, or -1."""
    face_map: Int[np.ndarray, " f_old"]
    """New index of each old face, or -1."""
    log: tuple[str, ...]
    """One line per repair, with counts."""


def repair(mesh: Mesh | RawMesh, names: Sequence[str], name: str | None = None) -> Repaired:
    """Apply the named repairs in order; ``name`` names a mesh made from a `RawMesh`.

    Raises:
        ConfigError: ``repair.unknown_name``.
        MeshError: ``repair.needs_sound_faces`` if a repair cannot work before another one;
            ``mesh.*`` if the result still is not a valid mesh.
    """
    require_known(names)
    state = State(np.array(mesh.vertices), mesh.faces.astype(np.int64))
    vertex_map, face_map = np.arange(len(state.vertices)), np.arange(len(state.faces))
    colors, log = mesh.vertex_colors, []
    for step in names:
        change = REPAIRS[step](state)
        vertex_map = _compose(vertex_map, change.vertex_map)
        face_map = _compose(face_map, _inverse(change.face_source, len(state.faces)))
        colors = None if colors is None else colors[change.vertex_source]
        state = change.state
        log.append(f"{step}: {change.message}")
        logger.info(log[-1])
    name = name or (mesh.name if isinstance(mesh, Mesh) else "mesh")
    return Repaired(
        Mesh(state.vertices, state.faces, colors, name), vertex_map, face_map, tuple(log)
    )


def require_known(names: Sequence[str]) -> None:
    """Refuse names that are no repairs.

    Raises:
        ConfigError: ``repair.unknown_name``.
    """
    for name in names:
        if name not in REPAIRS:
            near = difflib.get_close_matches(name, REPAIRS, n=1)
            guess = f" - did you mean '{near[0]}'?" if near else "."
            raise ConfigError(
                "repair.unknown_name",
                f"There is no repair '{name}'{guess}",
                f"Known: {', '.join(REPAIRS)}.",
            )


def _compose(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Follow ``first``, then ``second``; -1 stays -1."""
    result = np.full(len(first), -1)
    kept = first >= 0
    result[kept] = second[first[kept]]
    return result


def _inverse(source: np.ndarray, n_old: int) -> np.ndarray:
    result = np.full(n_old, -1)
    kept = np.flatnonzero(source >= 0)
    result[source[kept]] = kept
    return result
