"""The skin over a skeleton: a closed surface of genus 0, mirror-symmetric to the last bit.

Notation: n points, b bones, v vertices, f faces; ``field`` is negative inside, 0 on the skin.
Capsules are joined by a smooth minimum, -k log sum exp(-d / k).  Only the half x >= 0 is extracted
(marching cubes, Lorensen and Cline 1987, through scikit-image) and mirrored, then vertices slide
along the surface to even out the triangles and are drawn back to field 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sparse
from jaxtyping import Float, Int
from scipy.sparse.csgraph import connected_components

from geo3d.errors import NumericalError
from geo3d.mesh.intersect import self_intersecting_pairs
from geo3d.mesh.mesh import Mesh
from geo3d.mesh.ops import edges, vertex_normals
from geo3d.synth.creatures.skeleton import Bone

BLEND = 0.018
"""Reach k of the smooth union."""
_ESTIMATE_CELL = 0.045
_NEGLIGIBLE = 6.0
# fewer where sliding vertices fold a thin edge; marching cubes alone never cross themselves
_RELAX_STEPS = (8, 3, 0)
_TRIES = 4


@dataclass(frozen=True)
class Skin:
    """A closed mesh and, for each vertex, its mirror image's index."""

    mesh: Mesh
    symmetry: Int[np.ndarray, " v"]


def skin(bones: Sequence[Bone], n_vertices: int) -> Skin:
    """Return the surface over ``bones`` with about ``n_vertices`` (within a few percent).

    Raises:
        NumericalError: ``creature.no_surface`` where the skeleton does not give one closed
            surface without handles.
    """
    cell = _ESTIMATE_CELL
    axes, field = _half_grid_field(bones, cell)
    # a surface vertex sits on each grid edge that changes sign: their number goes with 1 / cell^2
    # (the finer grid finds a little less surface in the folds)
    cell *= np.sqrt(0.95 * _crossings(field) / n_vertices)
    problem = ""
    for _ in range(_TRIES):
        axes, field = _half_grid_field(bones, cell)
        mesh, symmetry = _mirrored(*_extract(axes, field))
        problem = topology_problem(mesh)
        if not problem:
            return Skin(_without_crossings(mesh, symmetry, bones), symmetry)
        cell *= 0.97
    raise NumericalError(
        "creature.no_surface",
        f"The skeleton gives no single closed surface without handles ({problem}).",
        "Choose another seed, or more vertices for thin limbs.",
    )


def capsule_distances(
    points: Float[np.ndarray, "n 3"], bones: Sequence[Bone]
) -> Float[np.ndarray, "b n"]:
    """Return approximate signed distances to each bone's capsule."""
    return np.stack([_distance_and_gradient(points, bone)[0] for bone in bones])


def field_and_gradient(
    points: Float[np.ndarray, "n 3"], bones: Sequence[Bone]
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, "n 3"]]:
    """Return the smooth union's field and its gradient."""
    parts = [_distance_and_gradient(points, bone) for bone in bones]
    distances = np.stack([part[0] for part in parts])
    least = distances.min(axis=0)
    shares = np.exp((least - distances) / BLEND)
    total = shares.sum(axis=0)
    gradient = np.einsum("bn,bnd->nd", shares / total, np.stack([part[1] for part in parts]))
    return least - BLEND * np.log(total), gradient


def _distance_and_gradient(
    points: np.ndarray, bone: Bone
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, "n 3"]]:
    frame, length = bone.frame(), bone.length
    local = (points - bone.head) @ frame
    share = np.clip(local[:, 2] / length, 0.0, 1.0)
    local[:, 2] -= share * length
    squeezed = local / [*bone.flat, 1.0]
    norm = np.sqrt((squeezed**2).sum(axis=1))
    taper = bone.radii[1] - bone.radii[0]
    slope = squeezed / [*bone.flat, 1.0] / np.maximum(norm, 1e-9)[:, None]
    slope[:, 2] -= np.where((share > 0) & (share < 1), taper / length, 0.0)
    return norm - bone.radii[0] - taper * share, slope @ frame.T


def _half_grid_field(bones: Sequence[Bone], cell: float) -> tuple[list[np.ndarray], np.ndarray]:
    """Evaluate the field for x >= 0, each bone only where it matters."""
    ends = np.array([[bone.head, bone.tail] for bone in bones])
    reach = np.array([max(bone.radii) * max(*bone.flat, 1.0) for bone in bones]) + 2 * cell
    reach += _NEGLIGIBLE * BLEND
    low = (ends.min(axis=1) - reach[:, None]).min(axis=0)
    high = (ends.max(axis=1) + reach[:, None]).max(axis=0)
    low[0] = 0.0
    axes = [low[i] + cell * np.arange(int((high[i] - low[i]) / cell) + 2) for i in range(3)]
    total = np.zeros([len(axis) for axis in axes])
    for bone, margin in zip(bones, reach, strict=True):
        box = [
            slice(*np.searchsorted(axis, [pair.min() - margin, pair.max() + margin]))
            for axis, pair in zip(axes, np.stack([bone.head, bone.tail], axis=1), strict=True)
        ]
        local = [axis[part] for axis, part in zip(axes, box, strict=True)]
        points = np.stack(np.meshgrid(*local, indexing="ij"), axis=-1)
        if points.size:
            distance, _ = _distance_and_gradient(points.reshape(-1, 3), bone)
            total[tuple(box)] += np.exp(-distance / BLEND).reshape(points.shape[:3])
    return axes, -BLEND * np.log(np.maximum(total, 1e-9))


def _crossings(half_field: np.ndarray) -> int:
    inside = half_field < 0
    return 2 * sum(int((np.diff(inside, axis=axis)).sum()) for axis in range(3))


def _extract(axes: list[np.ndarray], field: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    from skimage.measure import marching_cubes

    cell = float(axes[0][1] - axes[0][0])
    vertices, faces, *_ = marching_cubes(field, level=0.0, gradient_direction="descent")
    return vertices.astype(np.float64) * cell + [axis[0] for axis in axes], faces.astype(np.int64)


def _mirrored(vertices: np.ndarray, faces: np.ndarray) -> tuple[Mesh, np.ndarray]:
    """Add the mirror image of a half surface, welded along its border in the plane x = 0."""
    middle = vertices[:, 0] < 1e-9
    faces = faces[~middle[faces].all(axis=1)]
    n = len(vertices)
    other = np.arange(n)
    other[~middle] = n + np.arange(int((~middle).sum()))
    copies = vertices[~middle] * [-1.0, 1.0, 1.0]
    symmetry = np.concatenate([other, np.flatnonzero(~middle)])
    everything = np.concatenate([faces, other[faces][:, ::-1]])
    return Mesh(np.concatenate([vertices, copies]), everything), symmetry


def topology_problem(mesh: Mesh) -> str:
    """Say why ``mesh`` is not one closed surface of genus 0, or return an empty string."""
    pairs = edges(mesh)
    sides = np.sort(mesh.faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
    _, counts = np.unique(sides[:, 0] * mesh.n_vertices + sides[:, 1], return_counts=True)
    if (counts != 2).any():
        return f"{int((counts != 2).sum())} edges without exactly two faces"
    links = sparse.coo_matrix(
        (np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(mesh.n_vertices,) * 2
    )
    parts = connected_components(links, directed=False, return_labels=False)
    if parts != 1:
        return f"{parts} separate parts"
    handles = 1 - (mesh.n_vertices - len(pairs) + mesh.n_faces) // 2
    return f"{handles} handles" if handles else ""


def _without_crossings(mesh: Mesh, symmetry: np.ndarray, bones: Sequence[Bone]) -> Mesh:
    relaxed = mesh
    for steps in _RELAX_STEPS:
        relaxed = _relaxed(mesh, symmetry, bones, steps)
        if len(self_intersecting_pairs(relaxed.vertices, relaxed.faces)[0]) == 0:
            break
    return relaxed


def _relaxed(mesh: Mesh, symmetry: np.ndarray, bones: Sequence[Bone], steps: int) -> Mesh:
    """Even out the triangles: slide to the neighbours' mean, then return to the surface."""
    pairs, n = edges(mesh), mesh.n_vertices
    links = sparse.coo_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    links = (links + links.T).tocsr()
    degree = np.asarray(links.sum(axis=1))
    points = mesh.vertices
    step = np.linalg.norm(points[pairs[:, 0]] - points[pairs[:, 1]], axis=1).mean()
    for _ in range(steps):
        normals = vertex_normals(Mesh(points, mesh.faces))
        pull = links @ points / degree - points
        pull -= (pull * normals).sum(axis=1, keepdims=True) * normals
        points = points + 0.6 * pull
        value, gradient = field_and_gradient(points, bones)
        steep = np.maximum((gradient**2).sum(axis=1), 0.05)
        back = np.clip(value / steep, -step, step)
        points = points - back[:, None] * gradient
        points = (points + points[symmetry] * [-1.0, 1.0, 1.0]) / 2
    return Mesh(points, mesh.faces, name=mesh.name)
