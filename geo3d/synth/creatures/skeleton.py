"""Skeletons of creatures: trees of tapered, flattened capsules, symmetric in x.

Notation: y is up, the creature looks along +z, its left side has x > 0; lengths are arbitrary units
in which a creature is 1 to 2 tall or long; angles in radians.  A bone runs from ``head`` to
``tail`` and turns about its head.  Its frame has the columns lateral, normal, along.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

Vector = tuple[float, float, float]
Limits = tuple[Vector, Vector]
Triple = Sequence[float | int] | np.ndarray

STIFF: Limits = ((-0.12, -0.12, -0.12), (0.12, 0.12, 0.12))
"""Turning limits (lowest, highest) about x, y, z for parts that hardly move."""


@dataclass(frozen=True)
class Bone:
    """One segment of a creature."""

    name: str
    parent: int
    """Index of the bone it hangs on, which comes before it; -1 for the root."""
    head: Float[np.ndarray, " 3"]
    tail: Float[np.ndarray, " 3"]
    radii: tuple[float, float]
    """At the head and at the tail."""
    flat: tuple[float, float] = (1.0, 1.0)
    """Factors on the radius in the lateral and the normal direction."""
    limits: Limits = STIFF
    """Lowest and highest turn about the world's x, y and z axis, for the left side."""

    @property
    def group(self) -> str:
        """The name without the side: bones that change proportions together."""
        return self.name.removesuffix("_left").removesuffix("_right")

    @property
    def length(self) -> float:
        """Distance from head to tail."""
        return float(np.linalg.norm(self.tail - self.head))

    def frame(self) -> Float[np.ndarray, "3 3"]:
        """Return the unit columns lateral (as near to world x, or z, as can be), normal, along."""
        along = (self.tail - self.head) / max(self.length, 1e-12)
        side = np.eye(3)[2 if abs(along[0]) > 0.75 else 0]
        lateral = side - (side @ along) * along
        lateral /= np.linalg.norm(lateral)
        return np.stack([lateral, np.cross(along, lateral), along], axis=1)


class Plan:
    """Collects the bones of a creature; paired bones are entered once, for the left side."""

    def __init__(self) -> None:
        self.bones: list[Bone] = []

    def add(
        self,
        name: str,
        parent: str,
        step: Triple,
        radii: tuple[float, float],
        *,
        start: Triple | None = None,
        flat: tuple[float, float] = (1.0, 1.0),
        limits: Limits = STIFF,
        pair: bool = False,
    ) -> np.ndarray:
        """Append a bone (or a left and right one) and return the end of the (left) one.

        It starts at ``start``, by default at its parent's end; a paired bone hangs on the parent
        of its own side where there is one.
        """
        sides = (("_left", 1.0), ("_right", -1.0)) if pair else (("", 1.0),)
        for suffix, sign in sides:
            mirror = np.array([sign, 1.0, 1.0])
            index = self._index(parent + suffix, parent) if parent else -1
            head = self.bones[index].tail if start is None else mirror * np.asarray(start, float)
            tail = head + mirror * np.asarray(step, float)
            self.bones.append(Bone(name + suffix, index, head, tail, radii, flat, limits))
        return self.bones[-len(sides)].tail

    def _index(self, *names: str) -> int:
        known = [bone.name for bone in self.bones]
        return next(known.index(name) for name in names if name in known)


def mirror_ids(bones: Sequence[Bone]) -> Int[np.ndarray, " n"]:
    """Return, for each bone, the index of its mirror image (itself on the middle line)."""
    index = {bone.name: i for i, bone in enumerate(bones)}

    def other(name: str) -> str:
        if name.endswith("_left"):
            return name.removesuffix("_left") + "_right"
        return name.removesuffix("_right") + "_left" if name.endswith("_right") else name

    return np.array([index[other(bone.name)] for bone in bones])
