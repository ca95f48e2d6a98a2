"""Objects from a kind and a seed: parts with names and colours, in the cube of TRELLIS.

    car = generate_object("car", seed=3)
    car.mesh            # one mesh with vertex colours, z up, front to -y, inside [-0.5, 0.5]^3
    car.parts           # names, closed solids, colours

The object's bounding box is centred and its longest side is 1 (less a hair, so that no surface lies
on the border of the cube).  Parts are closed surfaces and may run into each other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Int

from geo3d.errors import ConfigError, NumericalError
from geo3d.mesh.mesh import Mesh
from geo3d.synth.creatures import KINDS as CREATURES
from geo3d.synth.objects import animals, buildings, furniture, tools, vehicles, vessels
from geo3d.synth.objects.palette import Rng
from geo3d.synth.objects.solids import Part, Solid

_MADE_BY_HAND: dict[str, tuple[Callable[[Rng], list[Part]], ...]] = {
    "furniture": (
        *(furniture.chair, furniture.stool, furniture.table, furniture.shelf, furniture.cabinet),
        *(furniture.lamp, furniture.bed, furniture.sofa),
    ),
    "vehicles": (
        *(vehicles.car, vehicles.truck, vehicles.plane, vehicles.boat, vehicles.rocket),
        vehicles.train,
    ),
    "buildings": (
        *(buildings.house, buildings.tower, buildings.castle, buildings.windmill, buildings.tree),
    ),
    "vessels": (vessels.cup, vessels.vase, vessels.bottle, vessels.bowl, vessels.teapot),
    "things": (
        *(tools.hammer, tools.spoon, tools.key, tools.guitar, tools.mushroom, tools.snowman),
    ),
}
FAMILIES: dict[str, dict[str, Callable[[Rng], list[Part]]]] = {
    name: {draw.__name__: draw for draw in kinds} for name, kinds in _MADE_BY_HAND.items()
} | {"creatures": {kind: partial(animals.animal, kind) for kind in CREATURES}}
KINDS = tuple(kind for family in FAMILIES.values() for kind in family)
EXTENT = 1.0 - 1e-4
"""Longest side of the finished object."""
_TRIES = 4


@dataclass(frozen=True)
class ProceduralObject:
    """A finished object."""

    kind: str
    seed: int
    parts: tuple[Part, ...]
    mesh: Mesh
    """All parts one after the other, float64, with vertex colours."""
    part_ids: Int[np.ndarray, " f"]
    """The part of each face."""


def generate_object(kind: str, seed: int) -> ProceduralObject:
    """Return the object of this kind and seed; the same on every machine with the same numpy.

    Raises:
        ConfigError: ``objects.unknown_kind``.
        NumericalError: ``creature.no_surface`` where several creatures in a row fail.
    """
    draw = next((family[kind] for family in FAMILIES.values() if kind in family), None)
    if draw is None:
        raise ConfigError(
            "objects.unknown_kind", f"There is no object {kind!r}.", f"Known: {', '.join(KINDS)}."
        )
    parts = _drawn(draw, kind, seed)
    points = np.concatenate([p.solid.vertices for p in parts])
    low, high = points.min(0), points.max(0)
    scale = EXTENT / float((high - low).max())
    middle = (low + high) / 2
    parts = [
        Part(p.name, Solid((p.solid.vertices - middle) * scale, p.solid.faces), p.colors)
        for p in parts
    ]
    return ProceduralObject(kind, seed, tuple(parts), *_joined(parts, f"{kind}{seed}"))


def _drawn(draw: Callable[[Rng], list[Part]], kind: str, seed: int) -> list[Part]:
    for attempt in range(_TRIES):
        rng = np.random.default_rng([*kind.encode(), seed, attempt])
        try:
            return draw(rng)
        except NumericalError:
            if attempt == _TRIES - 1:
                raise
    raise AssertionError("the loop returns or raises")


def _joined(parts: list[Part], name: str) -> tuple[Mesh, Int[np.ndarray, " f"]]:
    sizes = [len(p.solid.vertices) for p in parts]
    starts = np.cumsum([0, *sizes[:-1]])
    faces = np.concatenate([p.solid.faces + s for p, s in zip(parts, starts, strict=True)])
    vertices = np.concatenate([p.solid.vertices for p in parts])
    colors = np.concatenate([p.colors for p in parts])
    ids = np.repeat(np.arange(len(parts)), [len(p.solid.faces) for p in parts])
    return Mesh(vertices, faces, colors, name=name), ids
