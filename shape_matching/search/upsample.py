"""Carry a correspondence of decimated meshes back to the original vertices.

Notation: fine meshes have n1, n2 vertices; each fine vertex knows its closest point on the coarse
mesh (face and barycentric weights).  A fine vertex of 2 follows its coarse corners to points on
coarse mesh 1; among the fine vertices of 1 near those points the one whose interpolated embedding
agrees best is taken.  Memory grows with the number of fine vertices, never with its square.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Float, Int64
from scipy.spatial import KDTree

from geo3d.mesh.decimate import Decimated
from geo3d.mesh.mesh import Mesh
from geo3d.mesh.ops import total_area
from geo3d.progress import ProgressCallback, report
from shape_matching.correspondence import Correspondence, cycle_confidence

NEIGHBOURS = 8
"""Fine source vertices tried around the image of each coarse corner."""
BLOCK = 20_000


def upsample(
    coarse: Correspondence,
    source: Mesh,
    target: Mesh,
    source_coarse: Decimated,
    target_coarse: Decimated,
    progress: ProgressCallback,
) -> Correspondence:
    """Return the correspondence of the original meshes; ``fmap_12`` stays that of the coarse."""
    forward = _fine_map(coarse.p2p_21, target_coarse, source_coarse, source)
    report(progress, "upsampling", 1, 2)
    backward = _fine_map(coarse.p2p_12, source_coarse, target_coarse, target)
    report(progress, "upsampling", 2, 2)
    note = (
        f"Matched on {coarse.source.n_vertices} and {coarse.target.n_vertices} vertices and "
        f"carried back to {source.n_vertices} and {target.n_vertices}.",
    )
    area = total_area(target)
    return replace(
        coarse,
        source=source,
        target=target,
        p2p_21=forward,
        p2p_12=backward,
        confidence=cycle_confidence(target, forward, backward, area),
        notes=coarse.notes + note,
    )


def fine_representatives(coarse: Decimated, fine: Mesh) -> Int64[np.ndarray, " m"]:
    """Return, for each coarse vertex, the fine vertex that lies nearest to it on the surface.

    Of the fine vertices that a coarse vertex owns it is the one with the largest weight; a coarse
    vertex that owns none gets the one nearest in space.
    """
    found = np.array(KDTree(fine.vertices).query(coarse.mesh.vertices)[1], np.int64)
    # of repeated indices the last assignment stays: the heaviest
    order = np.argsort(coarse.barycentric.max(axis=1), kind="stable")
    found[coarse.nearest_coarse()[order]] = order
    return found


def _fine_map(
    coarse_map: Int64[np.ndarray, " m"], start: Decimated, end: Decimated, fine_end: Mesh
) -> Int64[np.ndarray, " n"]:
    """Map fine vertices of the start to fine vertices of the end.

    The image of a fine vertex is the barycentric mean of its corners' images (the corners are one
    coarse edge apart, and so are their images where the map is smooth); where images of the
    corners fly apart the heaviest corner decides.
    """
    images = end.mesh.vertices[coarse_map].astype(np.float64)
    corners = start.mesh.faces[start.face_ids]
    spread = np.linalg.norm(np.ptp(images[corners], axis=1), axis=1)
    mean = np.einsum("ni,nic->nc", start.barycentric, images[corners])
    heaviest = images[start.nearest_coarse()]
    wanted = np.where((spread < _torn(start, end))[:, None], mean, heaviest)
    return _nearest_on_sheet(wanted, coarse_map[start.nearest_coarse()], end, fine_end)


def _torn(start: Decimated, end: Decimated) -> float:
    """Return the image spread beyond which a coarse triangle counts as torn."""
    triangles = end.mesh.vertices[end.mesh.faces]
    edge = np.linalg.norm(triangles[:, 0] - triangles[:, 1], axis=1).mean()
    return 6.0 * float(edge)


def _nearest_on_sheet(
    wanted: Float[np.ndarray, "n 3"],
    coarse_image: Int64[np.ndarray, " n"],
    end: Decimated,
    fine_end: Mesh,
) -> Int64[np.ndarray, " n"]:
    """Return the fine vertex nearest to each wanted point, preferring the right sheet of surface.

    Of the nearest fine vertices those whose own coarse vertex lies far from the coarse image (the
    other side of a thin part) are left aside.
    """
    tree = KDTree(fine_end.vertices)
    owner = end.mesh.vertices[end.nearest_coarse()]
    normals = _coarse_normals(end)
    fine_normals = normals[end.nearest_coarse()]
    found = np.empty(len(wanted), np.int64)
    for i in range(0, len(wanted), BLOCK):
        part = slice(i, i + BLOCK)
        distances, candidates = map(np.asarray, tree.query(wanted[part], k=NEIGHBOURS))
        image = coarse_image[part]
        facing = np.einsum("nkc,nc->nk", fine_normals[candidates], normals[image])
        away = np.linalg.norm(owner[candidates] - end.mesh.vertices[image][:, None], axis=2)
        cost = distances + np.where(facing < 0, away + distances.max(), 0.0)
        found[part] = candidates[np.arange(len(cost)), cost.argmin(axis=1)]
    return found


def _coarse_normals(coarse: Decimated) -> Float[np.ndarray, "m 3"]:
    from geo3d.mesh.ops import vertex_normals

    return vertex_normals(coarse.mesh)
