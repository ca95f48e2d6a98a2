"""Normals of a cloud of points that face outwards, and neighbours along the surface it shows.

The plane that fits the neighbours of a point gives the normal but for its sign.  Signs are carried
along the edges over which they are surest, a spanning tree (Hoppe et al., "Surface Reconstruction
from Unorganized Points", 1992).  Two points of a thin limb's opposite sides are near to each other
and have parallel planes, but normals that face apart; so one normal is compared with the mirror
image of the other in the plane between both points, as on an arc through the two (cf. Koenig and
Gumhold, "Consistent Propagation of Normal Orientations in Point Clouds", 2009).

Notation: v points, e pairs of neighbours.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Int64
from scipy.sparse import csgraph
from scipy.spatial import KDTree

from geo3d.mesh.mesh import Mesh
from geo3d.mesh.ops import unit_rows, vertex_normals

N_AROUND = 10
"""Neighbours to which a plane is fitted, and which carry signs."""
SLANT = 1.0
"""Cost of an edge that leaves both planes upright, against 1 for planes that do not agree."""
RELIABLE = 0.65
"""Mean agreement of neighbours from which signs are believed: creatures have 0.7 and more with
noise, chairs of boards 0.5."""
SAME_SIDE = 0.3
"""Cosine from which the normals of neighbours belong to one side of a surface."""


def cloud_normals(points: Float[np.ndarray, "v 3"]) -> Float[np.ndarray, "v 3"]:
    """Return unit normals, outwards on every piece that hangs together.

    On 1,000 to 1,600 points of creatures nine in ten and more face the right way (thin wings: eight
    in ten); noise across the surface must stay below the distance of points.  Zero where sides
    cannot be told, as on points of thin boards.
    """
    points = points.astype(np.float64)
    tails, tips = neighbours(points)
    normals = _planes(points, tips.reshape(len(points), -1))
    edge = unit_rows(points[tips] - points[tails])
    slants = [np.einsum("ei,ei->e", edge, normals[ends]) for ends in (tails, tips)]
    # the mirror image of n_i is n_i - 2 (e n_i) e
    agreement = np.einsum("ei,ei->e", normals[tails], normals[tips]) - 2 * slants[0] * slants[1]
    cost = 1 - np.abs(agreement) + SLANT * np.abs(slants).max(axis=0) + 1e-3
    signs, piece = _carried(len(points), tails, tips, cost, agreement < 0)
    if float((agreement * signs[tails] * signs[tips]).mean()) < RELIABLE:
        return np.zeros_like(normals)
    return normals * _outwards(points, normals * signs[:, None], signs, piece)[:, None]


def outward_normals(mesh: Mesh) -> Float[np.ndarray, "v 3"]:
    """Return the vertex normals of a mesh as its faces turn, those of a cloud as estimated."""
    return cloud_normals(mesh.vertices) if mesh.is_point_cloud else vertex_normals(mesh)


def neighbours(
    points: Float[np.ndarray, "v 3"],
) -> tuple[Int64[np.ndarray, " e"], Int64[np.ndarray, " e"]]:
    """Return the pairs (point, neighbour), `N_AROUND` of each point in turn."""
    k = min(N_AROUND, len(points) - 1)
    around = np.asarray(KDTree(points).query(points, k=k + 1)[1], np.int64)[:, 1:]
    return np.repeat(np.arange(len(points)), k), around.ravel()


def surface_edges(
    points: Float[np.ndarray, "v 3"], normals: Float[np.ndarray, "v 3"]
) -> tuple[Int64[np.ndarray, " e"], Int64[np.ndarray, " e"]]:
    """Return those of the `neighbours` that lie on one side of the surface."""
    tails, tips = neighbours(points)
    same = np.einsum("ei,ei->e", normals[tails], normals[tips]) > SAME_SIDE
    return tails[same], tips[same]


def _planes(
    points: Float[np.ndarray, "v 3"], around: Int64[np.ndarray, "v k"]
) -> Float[np.ndarray, "v 3"]:
    """Return the normals of the planes through the neighbours, with any sign."""
    patch = np.concatenate([points[:, None], points[around]], axis=1)
    patch = patch - patch.mean(axis=1, keepdims=True)
    return np.linalg.eigh(np.einsum("vki,vkj->vij", patch, patch))[1][:, :, 0]


def _carried(
    n: int, tails: np.ndarray, tips: np.ndarray, cost: np.ndarray, flips: np.ndarray
) -> tuple[Float[np.ndarray, " v"], Int64[np.ndarray, " v"]]:
    """Return a sign for every point, the same along the cheapest tree, and the piece it is on."""
    first, second = np.minimum(tails, tips), np.maximum(tails, tips)
    _, once = np.unique(first * n + second, return_index=True)
    ends = first[once], second[once]
    tree = csgraph.minimum_spanning_tree(sp.csr_matrix((cost[once], ends), (n, n)))
    turn = sp.csr_matrix((np.where(flips[once], -1.0, 1.0), ends), (n, n))
    links = tree.tocoo()
    across = dict(
        zip(
            (links.row.astype(np.int64) * n + links.col).tolist(),
            np.asarray(turn[links.row, links.col]).ravel().tolist(),
            strict=True,
        )
    )
    count, piece = csgraph.connected_components(tree, directed=False)
    signs = [1.0] * n
    for root in np.unique(piece, return_index=True)[1][:count].tolist():
        order, parents = csgraph.breadth_first_order(tree, root, directed=False)
        for at, parent in zip(order[1:].tolist(), parents[order[1:]].tolist(), strict=True):
            signs[at] = signs[parent] * across[min(at, parent) * n + max(at, parent)]
    return np.array(signs), piece.astype(np.int64)


def _outwards(
    points: Float[np.ndarray, "v 3"],
    normals: Float[np.ndarray, "v 3"],
    signs: Float[np.ndarray, " v"],
    piece: Int64[np.ndarray, " v"],
) -> Float[np.ndarray, " v"]:
    """Return the signs with which normals leave the centre of each piece rather than seek it."""
    size = np.bincount(piece)
    centre = np.stack([np.bincount(piece, axis) / size for axis in points.T], axis=1)
    leaving = np.einsum("vi,vi->v", points - centre[piece], normals)
    total = np.bincount(piece, leaving)
    return signs * np.where(total < 0, -1.0, 1.0)[piece]
