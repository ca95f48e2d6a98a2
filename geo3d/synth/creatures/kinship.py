"""Which places of two different creatures are the same: correspondences across kinds, by skeleton.

Bipeds, quadrupeds and birds are built alike: a trunk, a neck with a head, two pairs of limbs of
three segments, often a tail, ears and a snout or beak.  A vertex belongs to the part whose bones
hold it, and its place there is how far along the part it lies, and on which side.  Its counterpart
is the vertex of the same part of the other creature whose place is nearest.

Sides are named as anatomy does, so that they do not depend on how a limb is held: the trunk's and
the neck's belly, the limbs' front (towards the head where a limb stands off the trunk), the tail's
and the feet's top; a head looks along +z in every creature.

Notation: v vertices; ``along`` a, ``reference`` r, and -a x r make the frame of a bone at rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial import KDTree

from geo3d.errors import InputError
from geo3d.synth.creatures.generate import Creature
from geo3d.synth.creatures.skeleton import Bone

BUILT_ALIKE = ("biped", "quadruped", "bird")
"""Kinds whose parts have names in `PARTS`."""
PARTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "trunk": (("pelvis", "waist", "chest"), ("pelvis", "belly", "chest"), ("rump", "breast")),
    "neck": (("neck",), ("neck", "nape")),
    "head": (("head",),),
    "snout": (("snout",), ("beak",)),
    "ear": (("ear",),),
    "fore": (
        ("upper_arm", "lower_arm", "hand"),
        ("fore_thigh", "fore_shin", "fore_foot"),
        ("wing_root", "wing", "wing_tip"),
    ),
    "hind": (
        ("thigh", "shin", "foot"),
        ("hind_thigh", "hind_shin", "hind_foot"),
        ("thigh", "shank", "foot"),
    ),
    "tail": (("tail0", "tail1", "tail2", "tail3"), ("fan",)),
}
"""Names of the bones of each part, from its root to its tip, without the side."""
CLEAR = 0.45
"""Least weight of a part in a vertex whose place is clear; near joints of parts it is not."""
_FRONT, _UP = np.array([0.0, 0.0, 1.0]), np.array([0.0, 1.0, 0.0])
_FLAT_FEET = ("foot", "fore_foot", "hind_foot")


@dataclass(frozen=True, eq=False)
class _Places:
    """Where the vertices of one part lie."""

    ids: Int[np.ndarray, " n"]
    shares: Float[np.ndarray, " n"]
    """How far along, 0 to 1."""
    sides: Float[np.ndarray, "n 2"]
    """Offset from the axis along the frame, over the thickness there."""
    length: float
    thickness: float


def counterparts(one: Creature, two: Creature) -> Int[np.ndarray, " v2"]:
    """Return for each vertex of ``two`` at rest the vertex of ``one`` at the same place.

    It is -1 where the place is not clear, near the joints of parts, or where ``one`` has no such
    part.  Poses of either creature share its vertices.

    Raises:
        InputError: ``creature.not_built_alike`` for other kinds than `BUILT_ALIKE`.
    """
    for creature in (one, two):
        if creature.kind not in BUILT_ALIKE:
            raise InputError(
                "creature.not_built_alike",
                f"A {creature.kind} has no parts that others have too.",
                f"Take {', '.join(BUILT_ALIKE)}.",
            )
    found = np.full(two.rest.n_vertices, -1)
    first, second = _parts(one), _parts(two)
    for name in sorted(first.keys() & second.keys()):
        there, here = first[name], second[name]
        chosen = here.ids[_weights(two, name)[here.ids] >= CLEAR]
        rows = np.isin(here.ids, chosen)
        tree = KDTree(_embedded(there, there))
        found[here.ids[rows]] = there.ids[tree.query(_embedded(here, there)[rows])[1]]
    return found


def _parts(creature: Creature) -> dict[str, _Places]:
    """Return the places of all vertices, by part and side."""
    names = list(_chains(creature.bones))
    owner = np.stack([_weights(creature, name) for name in names]).argmax(axis=0)
    return {
        name: _places(creature, name, np.flatnonzero(owner == i))
        for i, name in enumerate(names)
        if (owner == i).any()
    }


def _chains(bones: Sequence[Bone]) -> dict[str, list[int]]:
    """Return the bones of each part, by its name and side."""
    index = {bone.name: i for i, bone in enumerate(bones)}
    found: dict[str, list[int]] = {}
    for part, ways in PARTS.items():
        for side in ("", "_left", "_right"):
            chains = [[index[n + side] for n in way if n + side in index] for way in ways]
            longest = max(chains, key=len)
            if longest:
                found[part + side] = longest
    return found


def _weights(creature: Creature, name: str) -> Float[np.ndarray, " v"]:
    return creature.weights[:, _chains(creature.bones)[name]].sum(axis=1)


def _places(creature: Creature, name: str, ids: Int[np.ndarray, " n"]) -> _Places:
    chain = _chains(creature.bones)[name]
    mirror = np.array([-1.0, 1.0, 1.0]) if name.endswith("_right") else np.ones(3)
    points = creature.rest.vertices[ids] * mirror
    bones = [creature.bones[i] for i in chain]
    heads, tails = (np.array([getattr(b, end) for b in bones]) * mirror for end in ("head", "tail"))
    radii = np.array([np.mean(b.radii) for b in bones])
    length = float(np.linalg.norm(tails - heads, axis=1).sum() + radii[-1])
    if name == "head":
        offset = points - (heads[0] + tails[0]) / 2
        size = float(np.linalg.norm(offset, axis=1).mean())
        offset = offset / np.linalg.norm(offset, axis=1, keepdims=True)
        return _Places(ids, (1 + offset[:, 2]) / 2, offset[:, :2], 2 * size, size)
    trunk = _trunk_direction(creature.bones)
    own = creature.weights[ids][:, chain].argmax(axis=1)
    shares, sides = np.zeros(len(ids)), np.zeros((len(ids), 2))
    for i, bone in enumerate(bones):
        rows = own == i
        along = tails[i] - heads[i]
        size = float(np.linalg.norm(along))
        along /= size
        reference = _reference(name, bone, along, trunk)
        offset = points[rows] - heads[i]
        step = offset @ along / size
        low, high = (0.0 if i else -np.inf), (1.0 if i < len(bones) - 1 else np.inf)
        shares[rows] = i + step.clip(low, high)
        across = -np.cross(along, reference)
        sides[rows] = np.stack([offset @ reference, offset @ across], axis=1)
        if rows.any():
            sides[rows] /= np.linalg.norm(sides[rows], axis=1).mean().clip(min=1e-9)
    low, high = min(float(shares.min()), 0.0), max(float(shares.max()), float(len(bones)))
    # the caps at both ends belong to the first and the last segment
    inner = len(bones) - 1
    first, last = shares < 1, shares > inner
    shares[first] = 1 - (1 - shares[first]) / (1 - low)
    shares[last] = inner + (shares[last] - inner) / (high - inner)
    return _Places(ids, shares / len(bones), sides, length, float(radii.mean()))


def _trunk_direction(bones: Sequence[Bone]) -> Float[np.ndarray, " 3"]:
    last = bones[_chains(bones)["trunk"][-1]]
    return (last.tail - last.head) / last.length


def _reference(name: str, bone: Bone, along: np.ndarray, trunk: np.ndarray) -> np.ndarray:
    """Return the unit direction across ``along`` from which sides are counted."""
    part = name.removesuffix("_left").removesuffix("_right")
    if part in ("trunk", "neck"):
        wanted = np.array([0.0, -along[2], along[1]])
    elif part in ("tail", "snout") or bone.group in _FLAT_FEET:
        wanted = _UP
    else:
        wanted = trunk if part == "fore" else _FRONT
    across = wanted - (wanted @ along) * along
    return across / np.linalg.norm(across).clip(min=1e-9)


def _embedded(places: _Places, size: _Places) -> Float[np.ndarray, "n 3"]:
    """Return places as points, in the proportions of ``size``."""
    return np.column_stack([size.length * places.shares, size.thickness * places.sides])
