"""Surface 2 bent into the pose of surface 1, as rigidly as possible, with the map in the loop.

Around every sample of 2 lies a ball; the present map moves its vertices, and the rotation and shift
that come nearest to that (Kabsch 1976) say where the ball goes.  Balls overlap, so each vertex
takes the mean of what its balls say, those that fit best first.  Vertices are then matched anew by
position, normal and curvature, in balls that grow smaller.  A rotation never turns a surface inside
out: where the map mixes up the front and the back of a limb, the normals of the bent surface do
not, and the next matching mends it.  How far the balls are from moving rigidly tells good maps from
bad ones, mirrored ones included.

Notation: s samples of 2, v2 vertices of 2, v1 of 1; ``p2p_21`` as in `geo3d.spectral.fmap`.

Source: non-rigid registration by locally rigid pieces, Sumner et al. 2007 (embedded deformation)
and Sorkine, Alexa 2007 (as rigid as possible); the balls here are geodesic, and the fit is direct.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from geo3d.spectral.fmap import nearest
from shape_matching.partial.surface import Surface

RADII = (0.4, 0.35, 0.3, 0.3, 0.25, 0.25, 0.2, 0.2, 0.15, 0.15)
"""Of the balls in the passes."""
NORMAL, CURVATURE = 0.1, 0.004
"""Weights of normals and curvature beside positions, on a surface of unit area."""
OFF_SURFACE = 0.1
"""A vertex that is bent further than this from surface 1 has no counterpart and counts nothing."""
LEAST = 0.05
"""Weight of balls that do not fit at all."""


@dataclass(frozen=True, eq=False)
class Balls:
    """Rigid motions of the balls around the samples."""

    rotations: Float[np.ndarray, "s 3 3"]
    shifts: Float[np.ndarray, "s 3"]
    strain: Float[np.ndarray, " s"]
    """Root mean square of what the motion misses, over the extent of the ball; 0 to 1."""


@dataclass(frozen=True, eq=False)
class Start:
    """A map of some vertices of 2, or of all."""

    known: Int[np.ndarray, " n"]
    images: Int[np.ndarray, " n"]
    """Their vertices on 1."""
    counts: Float[np.ndarray, " n"]
    """How much each counts in the fits."""


def fitted_balls(
    weights: Float[np.ndarray, "s n"],
    points: Float[np.ndarray, "n 3"],
    images: Float[np.ndarray, "n 3"],
) -> Balls:
    """Return the rigid motions that carry ``points`` nearest to their ``images``, ball by ball."""
    total = weights.sum(axis=1) + 1e-12
    centre, target = weights @ points / total[:, None], weights @ images / total[:, None]
    moment = np.einsum("sn,ni,nj->sij", weights, points, images, optimize=True)
    moment -= total[:, None, None] * centre[:, :, None] * target[:, None, :]
    left, sizes, right = np.linalg.svd(moment)
    sizes[:, 2] *= np.sign(np.linalg.det(left @ right))
    left[:, :, 2] *= np.sign(np.linalg.det(left @ right))[:, None]
    rotations = (left @ right).transpose(0, 2, 1)
    shifts = target - np.einsum("sij,sj->si", rotations, centre)
    extent, spread = (
        weights @ np.square(x).sum(axis=1) - total * np.square(mean).sum(axis=1)
        for x, mean in ((points, centre), (images, target))
    )
    missed = (extent + spread - 2 * sizes.sum(axis=1)).clip(min=0) / extent.clip(min=1e-12)
    return Balls(rotations, shifts, np.sqrt(missed.clip(max=1.0)))


def cones(rows: Float[np.ndarray, "s n"], radius: float) -> Float[np.ndarray, "s n"]:
    """Return weights that fall from 1 at distance 0 to 0 at the radius."""
    return (1 - rows / radius).clip(min=0.0)


def bent(
    two: Surface, balls: Balls, reach: Float[np.ndarray, "s v2"]
) -> tuple[Float[np.ndarray, "v2 3"], Float[np.ndarray, "v2 3"]]:
    """Return positions and normals of 2 under the mean motion of the balls that reach them."""
    share = (reach + 1e-9) * (1 + LEAST - balls.strain[:, None]) ** 2
    share = share / share.sum(axis=0)
    turned = np.einsum("sv,sij->vij", share, balls.rotations, optimize=True)
    positions = np.einsum("vij,vj->vi", turned, two.mesh.vertices) + share.T @ balls.shifts
    normals = np.einsum("vij,vj->vi", turned, two.normals)
    return positions, normals / np.linalg.norm(normals, axis=1, keepdims=True).clip(min=1e-9)


def registered(
    one: Surface, two: Surface, start: Start, contained: bool
) -> tuple[Int[np.ndarray, " v2"], Int[np.ndarray, " v1"]]:
    """Return p2p_21 and p2p_12 after the passes.

    Args:
        contained: whether all of 2 has a counterpart.  Otherwise vertices that do not come back
            from where they go count nothing: beyond the border of 1 all go to the border.
    """
    seen_1 = _seen(one, one.mesh.vertices, one.normals)
    p2p_12 = np.zeros(one.mesh.n_vertices, np.int64)
    known, p2p_21, counts = start.known, start.images, start.counts
    for radius in RADII:
        weights = cones(two.rows[:, known], radius) * counts
        balls = fitted_balls(weights, two.mesh.vertices[known], one.mesh.vertices[p2p_21])
        positions, normals = bent(two, balls, cones(two.rows, radius))
        seen_2 = _seen(two, positions, normals)
        p2p_21, p2p_12 = nearest(seen_2, seen_1).numpy(), nearest(seen_1, seen_2).numpy()
        known = np.arange(two.mesh.n_vertices)
        off = np.linalg.norm(one.mesh.vertices[p2p_21] - positions, axis=1)
        counts = two.mass * (off < OFF_SURFACE)
        if not contained:
            back = two.mesh.vertices[p2p_12[p2p_21]] - two.mesh.vertices
            counts = counts * (np.linalg.norm(back, axis=1) < OFF_SURFACE)
    return p2p_21, p2p_12


def strain(one: Surface, two: Surface, start: Start, radius: float) -> Float[np.ndarray, " s"]:
    """Return how far each ball of 2 is from moving rigidly under a map, 0 to 1."""
    weights = cones(two.rows[:, start.known], radius) * start.counts
    points, goal = two.mesh.vertices[start.known], one.mesh.vertices[start.images]
    return fitted_balls(weights, points, goal).strain


def _seen(
    shape: Surface, positions: Float[np.ndarray, "v 3"], normals: Float[np.ndarray, "v 3"]
) -> Float[Tensor, "v c"]:
    parts = (positions, NORMAL * normals, CURVATURE * shape.curvature)
    return torch.from_numpy(np.concatenate(parts, axis=1).astype(np.float32))
