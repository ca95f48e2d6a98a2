"""The creatures of `geo3d.synth.creatures`, posed, coloured by limb and given eyes."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, UInt8

from geo3d.synth.creatures import Creature, generate_creature, pose
from geo3d.synth.objects import palette
from geo3d.synth.objects.palette import Color, Rng
from geo3d.synth.objects.solids import Part, Solid, ellipsoid, part

VERTICES = 1500
_DARK_ENDS = ("foot", "hand", "ear", "beak", "tip", "fan", "tail")
_HEADS = ("head", "mantle", "crown")


def animal(kind: str, rng: Rng) -> list[Part]:
    """Draw a creature of this kind, standing in a calm pose.

    Raises:
        NumericalError: ``creature.no_surface``.
    """
    creature = generate_creature(kind, int(rng.integers(1 << 31)), VERTICES)
    mesh = pose(creature, int(rng.integers(1 << 31)), rng.uniform(0.1, 0.4))
    points = _upright(mesh.vertices.astype(np.float64))
    fur = palette.either(rng, palette.wood(rng), palette.cloth(rng), palette.paint(rng))
    colors = _fur(creature, points, rng, fur)
    parts = [Part("body", Solid(points, mesh.faces), colors)]
    return parts + _eyes(creature, points)


def _upright(points: Float[np.ndarray, "v 3"]) -> Float[np.ndarray, "v 3"]:
    """Turn y up, looking to +z, into z up, looking to -y."""
    return points[:, [0, 2, 1]] * [1.0, -1.0, 1.0]


def _fur(
    creature: Creature, points: Float[np.ndarray, "v 3"], rng: Rng, fur: Color
) -> UInt8[np.ndarray, "v 3"]:
    """Return a base colour with darker ends, another head and sometimes stripes or a pale belly."""
    second = palette.either(rng, palette.darker(fur, 0.55), palette.paint(rng), palette.WHITE)
    share = np.zeros(len(points))
    for bone, weight in zip(creature.bones, creature.weights.T, strict=True):
        if any(word in bone.name for word in _DARK_ENDS):
            share += weight
        elif bone.name.startswith(_HEADS) and creature.seed % 2:
            share += 0.7 * weight
    style = rng.integers(3)
    along, up = creature.rest.vertices[:, 2], creature.rest.vertices[:, 1]
    if style == 0:
        share = np.maximum(share, 0.8 * (np.sin(along * rng.uniform(15, 30)) > 0.5))
    elif style == 1:
        low = up < np.quantile(up, 0.35)
        share = np.maximum(share, 0.6 * low)
    share = np.clip(share, 0, 1)[:, None]
    return np.rint((1 - share) * fur + share * second).astype(np.uint8)


def _eyes(creature: Creature, points: Float[np.ndarray, "v 3"]) -> list[Part]:
    """Return two eyes on the front of the head, where there is a head."""
    names = [bone.name for bone in creature.bones]
    if "head" not in names:
        return []
    index = names.index("head")
    on_head = np.flatnonzero(creature.weights[:, index] > 0.6)
    if len(on_head) < 8:
        return []
    rest = creature.rest.vertices[on_head]
    size = np.ptp(rest, axis=0)
    # at rest: to the side, upward and forward
    score = 0.8 * rest[:, 0] / size[0] + 0.5 * rest[:, 1] / size[1] + 0.7 * rest[:, 2] / size[2]
    left = int(on_head[np.argmax(score)])
    radius = 0.09 * float(size.max())
    eyes = []
    for vertex in (left, int(creature.symmetry[left])):
        ball = ellipsoid((radius,) * 3, 10).moved(*points[vertex])
        eyes.append(part("eye", ball, palette.BLACK))
    return eyes
