"""Moving a creature: skinning weights, joint rotations, changed proportions.

Notation: v vertices, b bones; ``weights`` (v, b) are >= 0 and sum to 1 per vertex; angles in
radians.  Weights: each vertex belongs to its nearest capsule, then membership is diffused along the
surface over a distance that goes with the bone's radius (screened Poisson problem, in the manner of
bone heat, Baran and Popovic 2007).  Skinning is linear blending.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import scipy.sparse as sparse
from jaxtyping import Float
from scipy.sparse.linalg import splu
from scipy.spatial.transform import Rotation

from geo3d.mesh.mesh import Mesh
from geo3d.mesh.ops import edges
from geo3d.synth.creatures.skeleton import Bone, mirror_ids
from geo3d.synth.creatures.surface import capsule_distances

SPREAD = 0.9
"""Distance over which neighbouring bones share vertices, in bone radii."""
_POINTS_PER_BONE = 5
# gaps are distances of spheres along the bones over the sum of their radii.  Parts of one limb that
# are _APART at rest keep _BENT, other parts keep _CLEAR, or _SHARE of what they have at rest.
_APART, _BENT, _CLEAR, _SHARE = 1.15, 1.0, 1.1, 0.85
# limbs nearer than this at rest grow together in the smooth union
_WEBBED = 1.5
_TRIES = 40


def skinning_weights(mesh: Mesh, bones: Sequence[Bone]) -> Float[np.ndarray, "v b"]:
    """Return smooth weights that stay near their bone along the surface."""
    nearest = capsule_distances(mesh.vertices, bones).argmin(axis=0)
    pairs, n = edges(mesh), mesh.n_vertices
    step = np.linalg.norm(mesh.vertices[pairs[:, 0]] - mesh.vertices[pairs[:, 1]], axis=1).mean()
    links = sparse.coo_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    links = links + links.T
    radii = np.array([np.mean(bone.radii) for bone in bones])[nearest]
    hold = (step / (SPREAD * radii)) ** 2
    degree = np.asarray(links.sum(axis=1)).ravel()
    membership = np.zeros((n, len(bones)))
    membership[np.arange(n), nearest] = hold
    # diagonally dominant with negative links: the solution is >= 0 and keeps the sum of 1
    system = sparse.diags(degree + hold) - links
    weights = np.maximum(splu(system.tocsc()).solve(membership), 0.0)
    return weights / weights.sum(axis=1, keepdims=True)


def symmetric_weights(
    weights: Float[np.ndarray, "v b"], symmetry: np.ndarray, bones: Sequence[Bone]
) -> Float[np.ndarray, "v b"]:
    """Average each vertex's weights with its mirror image's."""
    return (weights + weights[symmetry][:, mirror_ids(bones)]) / 2


def random_rotations(
    bones: Sequence[Bone], rng: np.random.Generator, amplitude: float
) -> Float[np.ndarray, "b 3 3"]:
    """Draw a rotation per bone: ``amplitude`` is the deviation as a share of the joint's limits."""
    low = np.array([bone.limits[0] for bone in bones])
    high = np.array([bone.limits[1] for bone in bones])
    draw = np.clip(rng.normal(0.0, amplitude, (len(bones), 3)), -1.0, 1.0)
    angles = np.where(draw > 0, draw * high, -draw * low)
    # turning about y and z changes sign in the mirror
    right = np.array([bone.name.endswith("_right") for bone in bones])
    angles[right] *= [1.0, -1.0, -1.0]
    return Rotation.from_euler("xyz", angles).as_matrix()


def pose_transforms(
    bones: Sequence[Bone], rotations: Float[np.ndarray, "b 3 3"]
) -> Float[np.ndarray, "b 3 4"]:
    """Return each bone's rest-to-posed map [linear | offset], parents carried along."""
    result = np.zeros((len(bones), 3, 4))
    for i, bone in enumerate(bones):
        turn, shift = np.eye(3), np.zeros(3)
        if bone.parent >= 0:
            turn, shift = result[bone.parent, :, :3], result[bone.parent, :, 3]
        linear = turn @ rotations[i]
        result[i, :, :3] = linear
        result[i, :, 3] = turn @ bone.head + shift - linear @ bone.head
    return result


def blend(
    points: Float[np.ndarray, "v 3"],
    weights: Float[np.ndarray, "v b"],
    transforms: Float[np.ndarray, "b 3 4"],
) -> Float[np.ndarray, "v 3"]:
    """Apply the weighted mean of the bones' maps to each vertex."""
    mixed = np.einsum("vb,bij->vij", weights, transforms)
    return np.einsum("vij,vj->vi", mixed[:, :, :3], points) + mixed[:, :, 3]


def free_rotations(
    bones: Sequence[Bone], rng: np.random.Generator, amplitude: float
) -> Float[np.ndarray, "b 3 3"]:
    """Draw rotations in which no two parts that are apart at rest run into each other.

    Each refused draw makes the next one 5 % smaller, so the rest pose is the worst case.
    """
    least = _least_gaps(bones)
    for attempt in range(_TRIES):
        rotations = random_rotations(bones, rng, amplitude * 0.95**attempt)
        if not _collides(bones, pose_transforms(bones, rotations), least):
            return rotations
    return np.tile(np.eye(3), (len(bones), 1, 1))


def scaled_bones(
    bones: Sequence[Bone], along: Float[np.ndarray, " b"], across: Float[np.ndarray, " b"]
) -> tuple[list[Bone], Float[np.ndarray, "b 3 4"]]:
    """Return bones with length times ``along`` and radius times ``across``, and the maps there."""
    result: list[Bone] = []
    maps = np.zeros((len(bones), 3, 4))
    for i, bone in enumerate(bones):
        head = bone.head
        if bone.parent >= 0:
            head = maps[bone.parent, :, :3] @ bone.head + maps[bone.parent, :, 3]
        frame = bone.frame()
        linear = frame @ np.diag([across[i], across[i], along[i]]) @ frame.T
        maps[i, :, :3], maps[i, :, 3] = linear, head - linear @ bone.head
        tail = head + along[i] * (bone.tail - bone.head)
        radii = (float(bone.radii[0] * across[i]), float(bone.radii[1] * across[i]))
        result.append(replace(bone, head=head, tail=tail, radii=radii))
    return result, maps


def random_scales(
    bones: Sequence[Bone], rng: np.random.Generator, amount: float
) -> tuple[Float[np.ndarray, " b"], Float[np.ndarray, " b"]]:
    """Draw log-normal factors for lengths and radii, the same for both sides and all of a group."""
    groups = sorted({bone.group for bone in bones})
    drawn = np.exp(np.clip(rng.normal(0.0, amount, (len(groups), 2)), -2 * amount, 2 * amount))
    rows = drawn[[groups.index(bone.group) for bone in bones]]
    return rows[:, 0], rows[:, 1]


def limbs_touch(bones: Sequence[Bone]) -> bool:
    """Return whether, at rest, bones more than three joints from each other touch or nearly do."""
    parents = np.array([bone.parent for bone in bones])
    child = parents[:, None] == np.arange(len(bones))
    near = np.linalg.matrix_power((child | child.T | np.eye(len(bones), dtype=bool)).astype(int), 3)
    far = np.kron(near, np.ones((_POINTS_PER_BONE,) * 2)) == 0
    return bool((_gaps(*_samples(bones))[far] < _WEBBED).any())


def _samples(bones: Sequence[Bone]) -> tuple[np.ndarray, np.ndarray]:
    """Return points along the bones (b, s, 3) and the radius there (b, s)."""
    t = np.linspace(0, 1, _POINTS_PER_BONE)
    head, tail = (np.array([getattr(bone, end) for bone in bones]) for end in ("head", "tail"))
    radii = np.array([bone.radii for bone in bones])
    points = head[:, None] + t[:, None] * (tail - head)[:, None]
    return points, radii[:, :1] + t * (radii[:, 1:] - radii[:, :1])


def _gaps(points: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """Return the distance of all pairs of spheres along the bones, over the sum of their radii."""
    flat, sizes = points.reshape(-1, 3), radii.ravel()
    return np.linalg.norm(flat[:, None] - flat, axis=2) / (sizes[:, None] + sizes)


def _least_gaps(bones: Sequence[Bone]) -> np.ndarray:
    """Return how near each pair of spheres may come in a pose."""
    rest = _gaps(*_samples(bones))
    one_limb = np.kron(_related(bones), np.ones((_POINTS_PER_BONE,) * 2)) > 0
    return np.where(
        one_limb, np.where(rest > _APART, _BENT, 0.0), np.minimum(_SHARE * rest, _CLEAR)
    )


def _collides(bones: Sequence[Bone], transforms: np.ndarray, least: np.ndarray) -> bool:
    points, radii = _samples(bones)
    moved = np.einsum("bij,bsj->bsi", transforms[:, :, :3], points) + transforms[:, None, :, 3]
    return bool((_gaps(moved, radii) < least).any())


def _related(bones: Sequence[Bone]) -> np.ndarray:
    """Mark bones that are the same, parent and child, or grandparent and grandchild."""
    parents = np.array([bone.parent for bone in bones])
    ids = np.arange(len(bones))
    child = parents[:, None] == ids
    line = child | (child.astype(int) @ child > 0) | np.eye(len(bones), dtype=bool)
    return line | line.T
