"""Parts that came out turned over, put right by bending.

A search by distances may mirror a head, or exchange the front and the back of a limb: distances do
not tell the two apart.  Bending does (`shape_matching.partial.deform`): the target is bent into the
pose of the source as rigidly as possible, by balls that cannot be turned inside out, and matched
anew on the way.  The result is an alternative to the map that it starts from.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Float, Int64

from geo3d.mesh.ops import total_area
from shape_matching.correspondence import Correspondence, cycle_confidence
from shape_matching.partial.deform import Start, registered
from shape_matching.partial.surface import surface_of

SAMPLES = 80
"""Centres of the balls."""
MOVED = 0.04
"""Distance, over the root of the area, from which an image counts as put right; nearer ones stay
as they were, as bending is no refinement."""
MOST_VERTICES = 8_000
"""Larger shapes are left alone: every pass compares all vertices with all."""


def can_mend(found: Correspondence) -> bool:
    """Return whether a map is one of whole surfaces small enough to be bent."""
    meshes = found.source, found.target
    return found.overlap_2 is None and all(
        not mesh.is_point_cloud and mesh.n_vertices <= MOST_VERTICES for mesh in meshes
    )


def mended(found: Correspondence) -> Correspondence:
    """Return the map after bending, in the parts that bending moves; one that `can_mend`.

    Raises:
        MeshError: what the Laplacian raises.
    """
    units = [float(np.sqrt(total_area(mesh))) for mesh in (found.source, found.target)]
    one, two = (
        surface_of(mesh, unit, SAMPLES)
        for mesh, unit in zip((found.source, found.target), units, strict=True)
    )
    start = Start(np.arange(len(found.p2p_21)), found.p2p_21, two.mass)
    p2p_21, p2p_12 = registered(one, two, start, contained=True)
    p2p_21 = _where_moved(found.p2p_21, p2p_21, found.source.vertices / units[0])
    p2p_12 = _where_moved(found.p2p_12, p2p_12, found.target.vertices / units[1])
    confidence = cycle_confidence(found.target, p2p_21, p2p_12, units[1] ** 2)
    return replace(found, p2p_21=p2p_21, p2p_12=p2p_12, confidence=confidence)


def _where_moved(
    before: Int64[np.ndarray, " n"], after: np.ndarray, points: Float[np.ndarray, "m 3"]
) -> Int64[np.ndarray, " n"]:
    gap = np.linalg.norm(points[before] - points[after], axis=1)
    return np.where(gap > MOVED, after, before).astype(np.int64)
