"""Creatures with known correspondences: made, posed, given other proportions, meshed anew.

All poses and proportions of a creature share its vertices: vertex i is the same body point on each.
`remeshed` breaks that on purpose and returns where every new vertex came from.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial import KDTree

from geo3d.errors import ConfigError, InputError, NumericalError
from geo3d.mesh.closest import closest_points
from geo3d.mesh.decimate import decimate
from geo3d.mesh.mesh import Mesh
from geo3d.synth.creatures.posing import (
    blend,
    free_rotations,
    limbs_touch,
    pose_transforms,
    random_scales,
    scaled_bones,
    skinning_weights,
    symmetric_weights,
)
from geo3d.synth.creatures.skeleton import Bone
from geo3d.synth.creatures.surface import skin
from geo3d.synth.creatures.templates import TEMPLATES

KINDS = tuple(TEMPLATES)
DEFAULT_VERTICES = 3000
FEWEST_VERTICES = 1500
_SKELETON_TRIES = 8


@dataclass(frozen=True)
class Creature:
    """A creature at rest and what is needed to move it."""

    kind: str
    seed: int
    rest: Mesh
    bones: tuple[Bone, ...]
    weights: Float[np.ndarray, "v b"]
    """Share of each bone in each vertex."""
    symmetry: Int[np.ndarray, " v"]
    """The mirror image's vertex, an involution; vertices on the middle line are their own."""


@dataclass(frozen=True)
class Remeshed:
    """A pose with vertices and triangles of its own, and its exact ground truth."""

    mesh: Mesh
    face_ids: Int[np.ndarray, " n"]
    """The face of the creature's own mesh on which each new vertex lies."""
    barycentric: Float[np.ndarray, "n 3"]
    template_ids: Int[np.ndarray, " n"]
    """The creature's vertex nearest to each new vertex, measured at rest."""
    vertex_ids: Int[np.ndarray, " v"]
    """The new vertex nearest to each of the creature's vertices, measured at rest."""


def generate_creature(kind: str, seed: int, n_vertices: int = DEFAULT_VERTICES) -> Creature:
    """Return the creature of this kind and seed: one closed surface of genus 0.

    Args:
        kind: one of `KINDS`.
        seed: decides the skeleton and its proportions, whatever ``n_vertices``.
        n_vertices: about how many, at least 1500 (thin limbs vanish below; decimate afterwards).

    Raises:
        ConfigError: ``creature.unknown_kind``.
        InputError: ``creature.too_few_vertices``.
        NumericalError: ``creature.no_surface`` where several skeletons in a row fail.
    """
    if kind not in TEMPLATES:
        raise ConfigError(
            "creature.unknown_kind",
            f"There is no creature {kind!r}.",
            f"Known: {', '.join(KINDS)}.",
        )
    if n_vertices < FEWEST_VERTICES:
        raise InputError(
            "creature.too_few_vertices",
            f"{n_vertices} vertices cannot show thin limbs.",
            f"Ask for {FEWEST_VERTICES} or more and decimate the result.",
        )
    rng = _generator(kind, seed)
    for attempt in range(_SKELETON_TRIES):
        bones = TEMPLATES[kind](rng)
        last = attempt == _SKELETON_TRIES - 1
        if limbs_touch(bones) and not last:
            continue
        try:
            found = skin(bones, n_vertices)
        except NumericalError:
            if last:
                raise
            continue
        rest = replace(found.mesh, name=f"{kind}{seed}")
        weights = symmetric_weights(skinning_weights(rest, bones), found.symmetry, bones)
        return Creature(kind, seed, rest, tuple(bones), weights, found.symmetry)
    raise AssertionError("the loop returns or raises")


def pose(creature: Creature, seed: int, amplitude: float = 0.5) -> Mesh:
    """Return the creature with its joints turned; vertex i stays the same body point.

    Args:
        seed: decides the pose.
        amplitude: standard deviation of each turn as a share of the joint's limits; 0 is the rest
            pose, 0.3 calm, 0.6 lively.

    Raises:
        InputError: ``creature.bad_amplitude``.
    """
    if not 0 <= amplitude <= 2:
        raise InputError(
            "creature.bad_amplitude", f"Amplitude {amplitude} is outside 0..2.", "Try 0.5."
        )
    rng = _generator("pose", seed)
    rotations = free_rotations(creature.bones, rng, amplitude)
    transforms = pose_transforms(creature.bones, rotations)
    vertices = blend(creature.rest.vertices, creature.weights, transforms)
    return Mesh(vertices, creature.rest.faces, name=f"{creature.rest.name}_pose{seed}")


def vary_proportions(creature: Creature, seed: int, amount: float = 0.12) -> Creature:
    """Return a relative with other bone lengths and thicknesses and the same vertices.

    Args:
        amount: standard deviation of the logarithm of the factors; 0.07 siblings, 0.2 species.

    Raises:
        InputError: ``creature.bad_amount``.
    """
    if not 0 <= amount <= 0.5:
        raise InputError("creature.bad_amount", f"Amount {amount} is outside 0..0.5.", "Try 0.12.")
    scales = random_scales(creature.bones, _generator("proportions", seed), amount)
    bones, maps = scaled_bones(creature.bones, *scales)
    vertices = blend(creature.rest.vertices, creature.weights, maps)
    rest = Mesh(vertices, creature.rest.faces, name=f"{creature.rest.name}_kin{seed}")
    return replace(creature, rest=rest, bones=tuple(bones))


def remeshed(creature: Creature, posed: Mesh, n_vertices: int, seed: int) -> Remeshed:
    """Return ``posed`` with other vertices and triangles, and the correspondence to the creature.

    The pose is refined, its vertices are shifted at random along the surface, and edges are
    collapsed down to ``n_vertices``; each new vertex is traced to its place on the rest pose.

    Raises:
        InputError: ``decimate.bad_count``.
        NumericalError: ``decimate.failed``.
    """
    rng = _generator("remesh", seed)
    mesh = decimate(_shaken(_refined(posed), rng), n_vertices).mesh
    mesh = replace(mesh, vertices=mesh.vertices.astype(np.float64), name=posed.name)
    place = closest_points(posed, mesh.vertices)
    at_rest = place.interpolate(creature.rest, creature.rest.vertices)
    # at rest the limbs are spread, so near in space is near on the body
    template_ids = np.asarray(KDTree(creature.rest.vertices).query(at_rest)[1])
    vertex_ids = np.asarray(KDTree(at_rest).query(creature.rest.vertices)[1])
    return Remeshed(mesh, place.face_ids, place.barycentric, template_ids, vertex_ids)


def _generator(purpose: str, seed: int) -> np.random.Generator:
    """Return a generator of its own for each purpose, so equal seeds are unrelated."""
    return np.random.default_rng([*purpose.encode(), seed])


def _refined(mesh: Mesh) -> Mesh:
    """Split every triangle into four at the edge midpoints."""
    sides = np.sort(mesh.faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
    pairs, index = np.unique(sides, axis=0, return_inverse=True)
    middle = mesh.n_vertices + index.reshape(-1, 3)
    a, b, c = mesh.faces.T
    ab, bc, ca = middle.T
    faces = np.concatenate(
        [np.stack(part, axis=1) for part in ((a, ab, ca), (b, bc, ab), (c, ca, bc), (ab, bc, ca))]
    )
    points = mesh.vertices.astype(np.float64)
    return Mesh(np.concatenate([points, points[pairs].mean(axis=1)]), faces, name=mesh.name)


def _shaken(mesh: Mesh, rng: np.random.Generator) -> Mesh:
    """Move every vertex a little towards a random corner of one of its faces."""
    chosen = np.zeros(mesh.n_vertices, np.int64)
    order = rng.permutation(mesh.n_faces)
    for corner in range(3):
        chosen[mesh.faces[order, corner]] = mesh.faces[order, (corner + 1) % 3]
    share = rng.uniform(0.0, 0.35, (mesh.n_vertices, 1))
    return Mesh((1 - share) * mesh.vertices + share * mesh.vertices[chosen], mesh.faces)
