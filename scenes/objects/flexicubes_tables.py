"""The patches of surface inside a cube, derived from the signs at its corners.

Inside a cube the surface separates inside corners from outside ones.  It crosses every edge whose
ends differ; on each face the crossed edges are linked in pairs, and edges that are linked, directly
or through others, bound one *patch*, which gets one vertex.  A face whose two inside corners are
diagonal (*ambiguous*) can be linked in two ways; here each link cuts off one inside corner.

Two cubes that share an ambiguous face where, in both, all four edges bound the same patch would
have their vertices joined twice, which is no manifold.  Such a face is a *conflict*; both cubes are
then linked the other way, like the cubes with all signs changed.

Notation: corner c of a cube is at (c & 1, c >> 1 & 1, c >> 2 & 1); case i has the inside corners
whose bits are set in i; edges are numbered as in the published weights.

Source: Nielson, "Dual Marching Cubes" (2004); Wenger, "Isosurfaces" (2013) for the conflicts.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Int8

CORNERS = tuple((c & 1, c >> 1 & 1, c >> 2 & 1) for c in range(8))
"""Position of each corner."""
EDGES = (
    (0, 1),
    (1, 5),
    (4, 5),
    (0, 4),
    (2, 3),
    (3, 7),
    (6, 7),
    (2, 6),
    (2, 0),
    (3, 1),
    (7, 5),
    (6, 4),
)
"""Corners of each edge: around the face y = 0, around y = 1, then between; y edges point down."""


class Tables(NamedTuple):
    """What each of the 256 cases implies."""

    patch: Int8[np.ndarray, "256 12"]
    """The patch that crosses each edge, or -1."""
    patches: Int8[np.ndarray, " 256"]
    """Number of patches."""
    conflict: Int8[np.ndarray, "256 3"]
    """The step to the cube behind the face of a possible conflict, or zeros."""


@lru_cache(maxsize=1)
def tables() -> Tables:
    """Return the tables, derived on the first call."""
    patch = np.full((256, 12), -1, np.int8)
    conflict = np.zeros((256, 3), np.int8)
    for case in range(256):
        patch[case] = _patches(case)
        for axis in range(3):
            for side in (0, 1):
                edges = _face_edges(axis, side)
                crossing = [edge for edge in edges if patch[case, edge] >= 0]
                if len(crossing) == 4 and len({patch[case, edge] for edge in edges}) == 1:
                    conflict[case, axis] += 2 * side - 1
    return Tables(patch, patch.max(axis=1) + 1, conflict)


def _patches(case: int) -> list[int]:
    """Number the patches of a case in the order of their first edge."""
    label = [edge if _crosses(case, edge) else -1 for edge in range(len(EDGES))]
    for axis in range(3):
        for side in (0, 1):
            for one, other in _links(case, axis, side):
                low, high = sorted((label[one], label[other]))
                label = [low if value == high else value for value in label]
    names = sorted({value for value in label if value >= 0})
    return [names.index(value) if value >= 0 else -1 for value in label]


def _links(case: int, axis: int, side: int) -> list[tuple[int, int]]:
    """Return the pairs of crossed edges that the surface joins on a face."""
    edges = _face_edges(axis, side)
    crossed = [edge for edge in edges if _crosses(case, edge)]
    if len(crossed) < 4:
        return [(crossed[0], crossed[1])] if crossed else []
    corners = [c for c in range(8) if CORNERS[c][axis] == side and _inside(case, c)]
    first, second = ([edge for edge in edges if corner in EDGES[edge]] for corner in corners)
    return [(first[0], first[1]), (second[0], second[1])]


def _face_edges(axis: int, side: int) -> list[int]:
    return [edge for edge, ends in enumerate(EDGES) if all(CORNERS[c][axis] == side for c in ends)]


def _crosses(case: int, edge: int) -> bool:
    return _inside(case, EDGES[edge][0]) != _inside(case, EDGES[edge][1])


def _inside(case: int, corner: int) -> bool:
    return bool(case >> corner & 1)
