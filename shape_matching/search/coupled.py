"""Refinement that looks at shape as well as spectrum: ZoomOut with positions, normals, curvature.

Every pass registers each shape to the pose of the other: positions pulled over by the present map
and fitted by the first k eigenfunctions.  Where the map is right, the registered shape lies on the
other one with equal normals and curvature.  So vertices are matched in the product of the spectral
embedding, both registrations, their normals and the curvatures, a functional map of the next size
is fitted to the result, and so on.  Nothing depends on how the shapes lie in space.

Notation as in `geo3d.spectral.fmap`; p points of a shape (samples, then all vertices), r curvature
scales.  ``spread`` is the root of half the sum of the eigenvalues: how fast the spectral embedding
of k functions moves with the point, the unit in which the other parts are weighed.

Source: Smooth Shells (Eisenberger et al. 2020) couples ZoomOut-like passes to registered positions
and normals; registering both ways, the curvatures and the samples are ours.

Carry a correspondence of decimated meshes back to the original vertices.

Notation: fine meshes have n1, n2 vertices; each fine vertex knows its closest point on the coarse
mesh (face and barycentric weights).  A fine vertex of 2 follows its coarse corners to points on
coarse mesh 1; among the fine vertices of 1 near those points the one whose interpolated embedding
agrees best is taken.  Memory grows with the number of fine vertices, never with its square.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int64
from scipy.spatial import KDTree
from torch import Tensor

from geo3d.mesh.decimate import Decimated
from geo3d.mesh.mesh import Mesh
from geo3d.mesh.ops import total_area
from geo3d.progress import ProgressCallback, ignore_progress, report
from geo3d.spectral.fmap import nearest
from geo3d.spectral.zoomout import RIDGE, sizes
from shape_matching.correspondence import Correspondence, cycle_confidence
from shape_matching.search.prepare import Prepared

K_FIRST = 40
"""Size of the first map; below it registrations are too coarse to have useful normals."""
STEP = 8
FULL_PASSES = 4
"""Last passes, which look at all vertices."""
POSITION, NORMAL, CURVATURE = 0.45, 0.0225, 0.015
"""Weights of the parts, relative to ``spread``; set on FAUST and TOSCA pairs (docs/RESULTS.md)."""
PLACE = 1.0
"""Weight of places on a body, where they are known; set on generated pairs of different kinds."""


@dataclass(frozen=True, eq=False)
class Points:
    """Points of a shape as the refinement sees them."""

    rows: Float[Tensor, "p k"]
    """Eigenfunctions."""
    slopes: tuple[Float[Tensor, "p k"], Float[Tensor, "p k"]]
    """Their derivatives along two tangent axes."""
    curvature: Float[Tensor, "p r"]
    positions: Float[Tensor, "p 3"]
    weights: Float[Tensor, " p"]
    """Share of each point in least squares."""
    evals: Float[Tensor, " k"]
    places: Float[Tensor, "p 3"] | None = None
    """Where on a body each point lies (`shape_matching.anatomy.network`); None where unknown."""

    def fit(self, values: Float[Tensor, "p c"], k: int) -> Float[Tensor, "k c"]:
        """Return the coefficients of ``values`` by weighted least squares."""
        rows = self.rows[:, :k]
        weighted = rows.T * self.weights
        gram = weighted @ rows
        gram.diagonal().add_(RIDGE * torch.finfo(gram.dtype).eps * gram.diagonal().mean())
        return torch.cholesky_solve(weighted @ values, torch.linalg.cholesky(gram))

    def normals(self, coefficients: Float[Tensor, "k 3"]) -> Float[Tensor, "p 3"]:
        """Return the unit normals of the surface that the coefficients describe."""
        k = len(coefficients)
        along_x, along_y = (axis[:, :k] @ coefficients for axis in self.slopes)
        return torch.nn.functional.normalize(torch.linalg.cross(along_x, along_y), dim=1)


def points_of(
    shape: Prepared,
    samples: Int64[Tensor, " p"] | None = None,
    places: Float[Tensor, "v 3"] | None = None,
) -> Points:
    """Return the given vertices of ``shape``, by default all."""
    chosen = slice(None) if samples is None else samples
    rows = shape.basis.evecs[chosen]
    positions = torch.from_numpy(shape.mesh.vertices.copy()).to(rows)[chosen]
    slopes = shape.slopes[0][chosen], shape.slopes[1][chosen]
    curvature = shape.curvature[chosen]
    weights = shape.basis.mass[chosen] if samples is None else torch.ones_like(rows[:, 0])
    known = None if places is None else places[chosen]
    return Points(rows, slopes, curvature, positions, weights, shape.basis.evals, known)


def refine_coupled(
    fmap_12: Float[Tensor, "k k"],
    one: Prepared,
    two: Prepared,
    k_final: int,
    *,
    samples: tuple[Int64[Tensor, " p1"], Int64[Tensor, " p2"]] | None = None,
    places: tuple[Float[Tensor, "v1 3"], Float[Tensor, "v2 3"]] | None = None,
    progress: ProgressCallback = ignore_progress,
) -> tuple[Float[Tensor, "m m"], Int64[Tensor, " v2"], Int64[Tensor, " v1"]]:
    """Refine the leading part of ``fmap_12``; return the final map, p2p_21 and p2p_12.

    Args:
        samples: vertices of 1 and of 2 that all but the last passes look at; at least twice as
            many as ``k_final``.  By default all.
        places: of the vertices of 1 and of 2, which the matching then looks at too.
    """
    first = min(K_FIRST, k_final, *fmap_12.shape)
    schedule = sizes(first, k_final, STEP) if first < k_final else [k_final]
    sides = _sides(one, two, samples, places)
    maps = spectral_maps(fmap_12[:first, :first], *sides)
    signs = _signs(maps, *sides, first)
    for i, k in enumerate(schedule):
        if samples is not None and i == max(0, len(schedule) - FULL_PASSES):
            fmap_12 = sides[1].fit(sides[0].rows[maps[0], :k], k)
            sides, samples = _sides(one, two, None, places), None
            maps = spectral_maps(fmap_12, *sides)
        maps = coupled_pass(maps, *sides, k, signs)
        report(progress, "coupled refinement", i + 1, len(schedule), k=k)
    k = schedule[-1]
    return sides[1].fit(sides[0].rows[maps[0], :k], k), *maps


def _sides(
    one: Prepared,
    two: Prepared,
    samples: tuple[Tensor, Tensor] | None,
    places: tuple[Tensor, Tensor] | None,
) -> tuple[Points, Points]:
    chosen, known = samples or (None, None), places or (None, None)
    return points_of(one, chosen[0], known[0]), points_of(two, chosen[1], known[1])


def spectral_maps(fmap_12: Tensor, one: Points, two: Points) -> tuple[Tensor, Tensor]:
    """Return the vertex maps 21 and 12 of a functional map."""
    k2, k1 = fmap_12.shape
    rows_1, rows_2 = one.rows[:, :k1] @ fmap_12.T, two.rows[:, :k2]
    return nearest(rows_2, rows_1), nearest(rows_1, rows_2)


def coupled_pass(
    maps: tuple[Tensor, Tensor], one: Points, two: Points, k: int, signs: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    """Match all points anew, with functional map and registrations of size k."""
    spread = float((one.evals[:k].sum() / 2).sqrt())
    fmap_12 = two.fit(one.rows[maps[0], :k], k)
    parts = [(one.rows[:, :k] @ fmap_12.T, two.rows[:, :k])]
    for seen_1, seen_2 in _registrations(maps, one, two, k):
        weight = POSITION * spread
        parts.append((weight * one.rows[:, :k] @ seen_1, weight * two.rows[:, :k] @ seen_2))
        weight = NORMAL * spread
        parts.append((weight * one.normals(seen_1), signs[0] * weight * two.normals(seen_2)))
    weight = CURVATURE * spread
    parts.append((weight * one.curvature, signs[1] * weight * two.curvature))
    if one.places is not None and two.places is not None:
        weight = PLACE * spread
        parts.append((weight * one.places, weight * two.places))
    rows_1, rows_2 = (torch.cat(side, dim=1) for side in zip(*parts, strict=True))
    return nearest(rows_2, rows_1), nearest(rows_1, rows_2)


def _registrations(
    maps: tuple[Tensor, Tensor], one: Points, two: Points, k: int
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return coefficients of the positions of both shapes in the pose of 2, then in that of 1."""
    p2p_21, p2p_12 = maps
    return (
        (one.fit(two.positions[p2p_12], k), two.fit(two.positions, k)),
        (one.fit(one.positions, k), two.fit(one.positions[p2p_21], k)),
    )


def _signs(maps: tuple[Tensor, Tensor], one: Points, two: Points, k: int) -> tuple[float, float]:
    """Return -1 where the map turns normals, and where it turns curvature, inside out, else 1.

    A mirror image turns the normals of a registration; faces that are inside out turn both.
    """
    (seen_1, seen_2), _ = _registrations(maps, one, two, k)
    normals = one.normals(seen_1)[maps[0]] * two.normals(seen_2)
    curvatures = one.curvature[maps[0]] * two.curvature
    normal, curvature = (-1.0 if float(x.sum()) < 0 else 1.0 for x in (normals, curvatures))
    return normal, curvature


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
    other = coarse.alternative_21
    if other is not None:
        other = _fine_map(other, target_coarse, source_coarse, source)
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
        alternative_21=other,
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
