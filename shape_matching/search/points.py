"""Objects of many coarse parts (a chair of boards, a house of boxes), matched as clouds of points.

No part has vertices enough to be matched, and none stands for the whole.  Points spread over all
surfaces hang together where parts touch, so clouds of them are matched; a vertex follows the point
nearest to it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int64
from scipy.spatial import KDTree

from geo3d.mesh.mesh import Mesh
from geo3d.mesh.sampling import uniform_samples
from shape_matching.correspondence import Correspondence
from shape_matching.search.parts import Known, MatchWhole
from shape_matching.search.sound import FEWEST_VERTICES, Sound

N_POINTS = 2500


@dataclass(frozen=True, eq=False)
class Cloud:
    """Points on the surfaces of a shape."""

    mesh: Mesh
    point: Int64[np.ndarray, " v"]
    """The point nearest to each vertex of the file."""
    vertex: Int64[np.ndarray, " p"]
    """The vertex of the file nearest to each point."""


def is_coarse(shape: Sound) -> bool:
    """Return whether a shape has several parts and the largest too few vertices to be matched."""
    return len(shape.parts) > 1 and shape.parts[0].mesh.n_vertices < FEWEST_VERTICES


def match_points(one: Sound, two: Sound, known: Known, match_whole: MatchWhole) -> Correspondence:
    """Match points on all surfaces and return the correspondence of the files.

    Args:
        match_whole: takes two meshes, ``landmarks`` and ``initial_p2p_21``.
    """
    cloud_1, cloud_2 = _points(one.whole, 1), _points(two.whole, 2)
    given: dict[str, np.ndarray] = {}
    if known.landmarks is not None:
        first, second = known.landmarks.T
        given["landmarks"] = np.stack([cloud_1.point[first], cloud_2.point[second]], axis=1)
    if known.initial_p2p_21 is not None:
        given["initial_p2p_21"] = cloud_1.point[known.initial_p2p_21[cloud_2.vertex]]
    found = match_whole(cloud_1.mesh, cloud_2.mesh, **given)
    other = found.alternative_21
    note = "Parts are too coarse to be matched one by one: points on all surfaces were matched."
    return replace(
        found,
        source=one.whole,
        target=two.whole,
        p2p_21=cloud_1.vertex[found.p2p_21[cloud_2.point]],
        p2p_12=cloud_2.vertex[found.p2p_12[cloud_1.point]],
        confidence=found.confidence[cloud_2.point],
        notes=(*one.notes, *two.notes, note, *found.notes),
        alternative_21=None if other is None else cloud_1.vertex[other[cloud_2.point]],
    )


def _points(mesh: Mesh, seed: int) -> Cloud:
    """Return points spread over all surfaces; a cloud of points is its own."""
    points = mesh.vertices
    if not mesh.is_point_cloud:
        points = uniform_samples(mesh, N_POINTS, np.random.default_rng(seed)).points
    cloud = Mesh(points, np.zeros((0, 3), np.int64), name=mesh.name)
    point = np.asarray(KDTree(points).query(mesh.vertices)[1], np.int64)
    vertex = np.asarray(KDTree(mesh.vertices).query(points)[1], np.int64)
    return Cloud(cloud, point, vertex)
