"""How triangles hang together: sides of edges, fans around vertices, components, orientation.

Notation: half-edge h = 3 * face + corner runs from that corner to the next one of its face, so a
half-edge and the corner it starts from have the same number.  Half-edges between the same two
vertices are the sides of one edge: one side at a boundary, two inside a surface, more where it is
not a manifold.  Faces must have indices in range and three different corners.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Int
from scipy.sparse import coo_matrix, csgraph, csr_matrix


@dataclass(frozen=True, eq=False)
class Sides:
    """Half-edges sorted so that the sides of each edge follow one another."""

    tail: Int[np.ndarray, " h"]
    """Vertex a half-edge starts from."""
    head: Int[np.ndarray, " h"]
    """Vertex it runs to."""
    order: Int[np.ndarray, " h"]
    """Half-edges, edge after edge."""
    start: Int[np.ndarray, " e"]
    """Where each edge begins in ``order``."""
    count: Int[np.ndarray, " e"]
    """Sides of each edge."""

    def of_edges(self, chosen: Bool[np.ndarray, " e"]) -> Int[np.ndarray, " s"]:
        """Return all half-edges of the chosen edges."""
        return self.order[np.repeat(chosen, self.count)]

    def pairs(self, most: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return half-edges that lie side by side, for edges with 2 to ``most`` sides."""
        follows = np.ones(len(self.order), bool)
        follows[self.start] = False
        if most is not None:
            follows &= np.repeat(self.count <= most, self.count)
        at = np.flatnonzero(follows)
        return self.order[at - 1], self.order[at]


def edge_sides(faces: Int[np.ndarray, "f 3"], n_vertices: int) -> Sides:
    """Group half-edges by edge, edges in order of their vertex pairs."""
    tail = faces.reshape(-1)
    head = faces[:, [1, 2, 0]].reshape(-1)
    key = np.minimum(tail, head) * n_vertices + np.maximum(tail, head)
    order = np.argsort(key, kind="stable")
    ordered = key[order]
    is_new = np.ones(len(key), bool)
    is_new[1:] = ordered[1:] != ordered[:-1]
    start = np.flatnonzero(is_new)
    return Sides(tail, head, order, start, np.diff(np.r_[start, len(key)]))


def vertex_components(
    faces: Int[np.ndarray, "f 3"], n_vertices: int
) -> tuple[int, Int[np.ndarray, " v"]]:
    """Return the number of components connected through faces, and each vertex's component.

    A vertex of no face is a component of its own.
    """
    tail, head = faces[:, [0, 1]].ravel(), faces[:, [1, 2]].ravel()
    return components(tail, head, n_vertices)


def components(
    a: Int[np.ndarray, " l"], b: Int[np.ndarray, " l"], n: int
) -> tuple[int, Int[np.ndarray, " n"]]:
    """Return the number of components of ``n`` items linked a to b, and each item's component."""
    graph = coo_matrix((np.ones(len(a), np.int8), (a, b)), shape=(n, n))
    count, labels = csgraph.connected_components(graph, directed=False)
    return int(count), labels.astype(np.int64)


def face_components(sides: Sides, n_faces: int, most: int | None = None) -> Int[np.ndarray, " f"]:
    """Return each face's component, connected across edges with at most ``most`` sides."""
    first, second = sides.pairs(most)
    return components(first // 3, second // 3, n_faces)[1]


def corner_fans(sides: Sides, most: int | None = None) -> Int[np.ndarray, " h"]:
    """Label corners (numbered like half-edges) by the fan of faces they lie in.

    Two corners of a vertex are in the same fan if one reaches the other across edges with at most
    ``most`` sides (default: any).  A vertex of a manifold has one fan.
    """
    first, second = sides.pairs(most)
    next_first, next_second = next_corner(first), next_corner(second)
    same = sides.tail[first] == sides.tail[second]
    a = np.concatenate([first, next_first])
    b = np.concatenate([np.where(same, second, next_second), np.where(same, next_second, second)])
    return components(a, b, len(sides.tail))[1]


def next_corner(corner: Any) -> Any:
    """Return the half-edge (or corner) that follows in the same face."""
    return corner - corner % 3 + (corner + 1) % 3


def fans_per_vertex(sides: Sides, n_vertices: int) -> Int[np.ndarray, " v"]:
    """Return the number of fans around each vertex: 0 unreferenced, over 1 not a manifold."""
    fans = corner_fans(sides)
    # A fan belongs to one vertex: any of its corners tells which.
    vertex_of_fan = np.zeros(fans.max(initial=-1) + 1, np.int64)
    vertex_of_fan[fans] = sides.tail
    return np.bincount(vertex_of_fan, minlength=n_vertices)


def orientation(
    sides: Sides, n_faces: int
) -> tuple[Bool[np.ndarray, " f"], Int[np.ndarray, " f"], Bool[np.ndarray, " f"]]:
    """Find the faces to turn so that neighbours agree, turning under half of each component.

    Neighbours are the two faces at an edge with exactly two sides.

    Returns:
        Whether to turn each face; each face's component; whether neighbours still disagree at the
        face after turning (only on surfaces like a Moebius strip).
    """
    first, second = sides.pairs(most=2)
    disagree = sides.tail[first] == sides.tail[second]
    a, b = first // 3, second // 3
    count, component = components(a, b, n_faces)
    turn = _turns_from_roots(a, b, disagree, count, component)
    turned = np.bincount(component, turn, count)
    turn ^= (2 * turned > np.bincount(component, minlength=count))[component]
    conflict = np.zeros(n_faces, bool)
    bad = turn[a] ^ turn[b] ^ disagree
    conflict[a[bad]] = True
    return turn, component, conflict


def _turns_from_roots(
    a: np.ndarray, b: np.ndarray, disagree: np.ndarray, count: int, component: np.ndarray
) -> np.ndarray:
    """Walk each component from its first face; a face turns if it disagrees with its parent."""
    n_faces = len(component)
    roots = np.full(count, n_faces)
    np.minimum.at(roots, component, np.arange(n_faces))
    # Faces that share several edges are neighbours once; an extra node links all components.
    key, pick = np.unique(a * n_faces + b, return_index=True)
    row = np.concatenate([key // max(n_faces, 1), roots])
    column = np.concatenate([key % max(n_faces, 1), np.full(count, n_faces)])
    weight = np.concatenate([1 + disagree[pick].astype(np.int8), np.ones(count, np.int8)])
    graph = csr_matrix((weight, (row, column)), shape=(n_faces + 1, n_faces + 1))
    graph = (graph + graph.T).tocsr()
    _, parent = csgraph.breadth_first_order(graph, n_faces, directed=False)
    parent[n_faces] = n_faces
    parity = np.asarray(graph[parent, np.arange(n_faces + 1)]).ravel() == 2
    # Pointer doubling: after i rounds a face knows its parity towards its 2**i-th ancestor.
    while (parent != n_faces).any():
        parity ^= parity[parent]
        parent = parent[parent]
    return parity[:n_faces]
