"""Faces that meet at an edge in more than two are taken apart into surfaces; closed stays closed.

Whatever merges the vertices of a closed surface leaves faces that meet at every edge in even
number.  Pairs of faces that lie on each other and face opposite ways cancel; at the other edges
with four faces or more, those around the same piece of the solid belong together, and each fan of
faces gets a vertex of its own.  An edge without a partner stays open.

Notation: v vertices, f faces; half-edge h = 3 * face + corner as in `geo3d.mesh.connectivity`.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import coo_matrix, csgraph

from geo3d.mesh.connectivity import edge_sides, next_corner
from geo3d.mesh.ops import faces_per_edge, rows_with_repeats, unit_rows

_APART = 1e-3
"""How far fans that shared a vertex are drawn apart, over the size of their faces: programs that
merge vertices in one place would join them again."""


def cancelled(faces: Int[np.ndarray, "f 3"]) -> Int[np.ndarray, "g 3"]:
    """Return the faces without those of two equal corners, and without pairs of opposite faces."""
    faces = faces[~rows_with_repeats(faces)]
    if len(faces) == 0:
        return faces
    order = np.sort(faces, axis=1)
    # even permutations of the sorted corners begin with the least and go up, or turn around once
    first = faces.argmin(axis=1)
    turned = np.take_along_axis(faces, (first[:, None] + [0, 1, 2]) % 3, axis=1)
    sign = np.where(turned[:, 1] < turned[:, 2], 1, -1)
    triples, index, inverse = np.unique(order, axis=0, return_index=True, return_inverse=True)
    inverse = inverse.reshape(-1)
    if len(triples) == len(faces):
        return faces
    net = np.bincount(inverse, sign).astype(np.int64)
    kept = np.repeat(triples, np.abs(net), axis=0)
    back = np.repeat(net < 0, np.abs(net))
    kept[back] = kept[back][:, [0, 2, 1]]
    # in the order in which the faces came
    return kept[np.argsort(np.repeat(index, np.abs(net)), kind="stable")]


def separated(
    vertices: Float[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"]
) -> tuple[Float[np.ndarray, "w 3"], Int[np.ndarray, "g 3"], Int[np.ndarray, " w"]]:
    """Return a mesh whose edges have at most two faces and whose vertices have one fan each.

    Where two pieces of surface run through the same two vertices and stay one surface, the edge of
    one gets a vertex in its middle, and with it two more faces.

    Also returns, for each vertex, an old one in its place; vertices of no face are left out.
    """
    moved, origin = vertices.astype(np.float64), np.arange(len(vertices))
    while True:
        pairs, ambiguous = _pairs(moved, faces)
        source, corners = _fans(faces, pairs)
        moved = _drawn_apart(moved, source, corners)
        faces, origin = corners.reshape(-1, 3), origin[source]
        doubled = _doubled(faces, ambiguous)
        if len(doubled) == 0:
            return moved, faces, origin
        moved, faces, origin = _halved(moved, faces, origin, doubled)


def open_edges(faces: Int[np.ndarray, "f 3"]) -> tuple[int, int]:
    """Return how many edges have not exactly two faces, and how many edges there are."""
    count = faces_per_edge(faces)
    return int((count != 2).sum()), len(count)


def _pairs(
    vertices: Float[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"]
) -> tuple[Int[np.ndarray, "p 2"], Int[np.ndarray, "q 2"]]:
    """Return the half-edges that belong together, and those of edges with more than two again."""
    sides = edge_sides(faces, len(vertices))
    paired = sides.order[np.repeat(sides.count == 2, sides.count)].reshape(-1, 2)
    found = [
        pair
        for e in np.flatnonzero(sides.count > 2)
        for pair in _partners(
            vertices, faces, sides.order[sides.start[e] : sides.start[e] + sides.count[e]]
        )
    ]
    ambiguous = np.array(found, np.int64).reshape(-1, 2)
    return np.concatenate([paired, ambiguous]), ambiguous


def _fans(
    faces: Int[np.ndarray, "f 3"], pairs: Int[np.ndarray, "p 2"]
) -> tuple[Int[np.ndarray, " w"], Int[np.ndarray, " h"]]:
    """Return the vertex of each fan, and the fan of each corner."""
    a, b = pairs.T
    corner = faces.reshape(-1)
    along, against = (next_corner(h) for h in (a, b))
    same_way = corner[a] == corner[b]
    ends = (
        np.concatenate([a, along]),
        np.concatenate([np.where(same_way, b, against), np.where(same_way, against, b)]),
    )
    graph = coo_matrix((np.ones(len(ends[0]), np.int8), ends), shape=(faces.size, faces.size))
    count, labels = csgraph.connected_components(graph, directed=False)
    source = np.zeros(count, np.int64)
    source[labels] = corner
    order = np.argsort(source, kind="stable")
    place = np.empty(count, np.int64)
    place[order] = np.arange(count)
    return source[order], place[labels]


def _drawn_apart(
    vertices: Float[np.ndarray, "v 3"], source: Int[np.ndarray, " w"], corners: np.ndarray
) -> Float[np.ndarray, "w 3"]:
    """Return the fans' vertices, those that had one place a little nearer to their own faces."""
    moved = vertices[source]
    split = np.bincount(source, minlength=len(vertices))[source] > 1
    if split.any():
        centres = np.repeat(moved[corners.reshape(-1, 3)].mean(axis=1), 3, axis=0)
        number = np.bincount(corners, minlength=len(source))[:, None]
        sums = [np.bincount(corners, column, len(source)) for column in centres.T]
        moved[split] += _APART * (np.stack(sums, axis=1) / number - moved)[split]
    return moved


def _doubled(
    faces: Int[np.ndarray, "f 3"], ambiguous: Int[np.ndarray, "q 2"]
) -> Int[np.ndarray, "d 2"]:
    """Return pairs of half-edges whose edge another pair has too; no face twice."""
    seen: set[tuple[int, int]] = set()
    busy: set[int] = set()
    chosen = []
    flat = faces.reshape(-1)
    for a, b in ambiguous.tolist():
        ends = sorted((int(flat[a]), int(flat[next_corner(a)])))
        edge = (ends[0], ends[1])
        if edge in seen and not busy & {a // 3, b // 3}:
            chosen.append((a, b))
            busy |= {a // 3, b // 3}
        seen.add(edge)
    return np.array(chosen, np.int64).reshape(-1, 2)


def _halved(
    vertices: np.ndarray, faces: np.ndarray, origin: np.ndarray, doubled: Int[np.ndarray, "d 2"]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the mesh with a vertex in the middle of an edge of each pair of faces."""
    flat, added = faces.reshape(-1), len(vertices) + np.arange(len(doubled))
    a, b = doubled.T
    middle = 0.5 * (vertices[flat[a]] + vertices[flat[next_corner(a)]])
    aside = 0.5 * (
        vertices[flat[next_corner(next_corner(a))]] + vertices[flat[next_corner(next_corner(b))]]
    )
    middle = middle + _APART * (aside - middle)
    changed, more = faces.copy(), []
    for half in (a, b):
        tail, head, last = flat[half], flat[next_corner(half)], flat[next_corner(next_corner(half))]
        changed[half // 3] = np.stack([tail, added, last], axis=1)
        more.append(np.stack([added, head, last], axis=1))
    return (
        np.concatenate([vertices, middle]),
        np.concatenate([changed, *more]),
        np.concatenate([origin, origin[flat[a]]]),
    )


def _partners(
    vertices: Float[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"], half: np.ndarray
) -> list[tuple[int, int]]:
    """Pair the half-edges of one edge so that each pair bounds a piece of the solid."""
    flat = faces.reshape(-1)
    tails, heads = flat[half], flat[next_corner(half)]
    low, high = int(min(tails[0], heads[0])), int(max(tails[0], heads[0]))
    axis = unit_rows((vertices[high] - vertices[low])[None].astype(np.float64))[0]
    opposite = vertices[flat[next_corner(next_corner(half))]] - vertices[low]
    across = opposite - np.outer(opposite @ axis, axis)
    right = _perpendicular(axis)
    angle = np.arctan2(across @ np.cross(axis, right), across @ right)
    order = np.argsort(angle, kind="stable")
    # Around the edge, counter-clockwise, the solid begins at a face that runs against the edge and
    # ends at the next that runs with it.
    return _matched(half[order].tolist(), (tails[order] != low).tolist())


def _matched(items: list[int], opens: list[bool]) -> list[tuple[int, int]]:
    """Match each opening with the next free closing, around a circle; then the rest in turn."""
    found, waiting = [], []
    done: set[int] = set()
    for at in (*range(len(items)), *range(len(items))):
        if at in done:
            continue
        if opens[at]:
            if at not in waiting:
                waiting.append(at)
        elif waiting:
            partner = waiting.pop()
            done |= {at, partner}
            found.append((items[partner], items[at]))
    rest = [item for at, item in enumerate(items) if at not in done]
    return found + list(zip(rest[::2], rest[1::2], strict=False))


def _perpendicular(axis: np.ndarray) -> np.ndarray:
    least = np.zeros(3)
    least[np.abs(axis).argmin()] = 1.0
    return unit_rows(np.cross(axis, least)[None])[0]
