"""Colours of street surfaces: class by class, thing by thing, with patterns of the world.

What a thing's own words ask for (`geo3d.synth.streets.wishes`) goes before the look of its region,
and that before the look of the image.  Notation: p surfels; colours are linear RGB (p, 3).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from geo3d.layout.layout import Layout, Primitive, Region
from geo3d.synth.streets.bodies import Part, eaves_of, key_of
from geo3d.synth.streets.facades import paint_buildings
from geo3d.synth.streets.frames import Frame
from geo3d.synth.streets.grounds import paint_grass, paint_pavement, paint_road
from geo3d.synth.streets.patterns import band, every, value_noise
from geo3d.synth.streets.spots import Paint, Spot, Things, dull, over, spot_of
from geo3d.synth.streets.styles import Look
from geo3d.synth.streets.surfels import Surfels
from geo3d.synth.streets.vehicles import paint_vehicles
from geo3d.synth.streets.wishes import Wish, wish_of

_LEAF = np.array([(0.075, 0.150, 0.028), (0.055, 0.120, 0.030), (0.105, 0.165, 0.035)])
_TURNED = np.array([(0.50, 0.20, 0.03), (0.45, 0.08, 0.03), (0.55, 0.36, 0.05), (0.24, 0.13, 0.05)])
_CLOTH = np.array(
    [(0.30, 0.05, 0.05), (0.06, 0.09, 0.25), (0.10, 0.10, 0.10), (0.35, 0.32, 0.25),
     (0.05, 0.18, 0.16), (0.50, 0.36, 0.08)]
)  # fmt: skip
_TROUSERS = np.array([(0.05, 0.07, 0.14), (0.06, 0.06, 0.06), (0.20, 0.16, 0.11)])
_SKIN, _HAIR = np.array([0.46, 0.30, 0.22]), np.array([0.06, 0.04, 0.03])
_BINS = np.array([(0.05, 0.10, 0.05), (0.06, 0.07, 0.08), (0.20, 0.13, 0.04), (0.04, 0.08, 0.18)])
_SIGN_RED, _SIGN_BLUE = np.array([0.52, 0.03, 0.03]), np.array([0.02, 0.11, 0.42])
_SIGN_WHITE, _SIGN_YELLOW = np.array([0.74, 0.74, 0.72]), np.array([0.72, 0.50, 0.05])
_BARK = np.array([0.11, 0.075, 0.05])
_SNOW = np.array([0.82, 0.85, 0.90])
_WARM = np.array([1.0, 0.62, 0.26])
_STATES: dict[str, dict[str, float]] = {
    "snow": {"snow": 0.95}, "autumn": {"autumn": 1.0}, "wet": {"wet": 0.95},
}  # fmt: skip


class Materials:
    """The colours of one layout; ``seed`` chooses them."""

    def __init__(self, layout: Layout, frames: Sequence[Frame], seed: int) -> None:
        self.things = _things(layout, frames, seed)
        self._is_thin = np.array([max(f.size[0], f.size[2]) < 1.0 for f in frames], bool)
        self._is_ball = np.array([p.kind == "ellipsoid" for p in layout.primitives], bool)
        self._regions = layout.regions
        self._painters: dict[int, Callable[[Spot, Look], Paint]] = {
            0: paint_vehicles,
            1: self._cloth,
            2: self._cycle,
            3: self._pole,
            4: self._bin,
            5: paint_road,
            6: paint_pavement,
            7: paint_pavement,
            8: paint_buildings,
            10: self._foliage,
            11: paint_grass,
        }

    def at(self, surfels: Surfels, look: Look) -> Paint:
        """Return the materials of all surfels."""
        out = dull(np.zeros((len(surfels.rows), 3)))
        numbers, looks = self._looks(surfels, look)
        for label in np.unique(surfels.label).tolist():
            for number, own in enumerate(looks):
                here = np.flatnonzero((surfels.label == label) & (numbers == number))
                if not len(here):
                    continue
                paint = self._painters.get(label, self._other)
                made = paint(spot_of(surfels, here, self.things), own)
                if own.snow > 0:
                    made = self._snowed(surfels, here, own, made)
                out.albedo[here], out.mirror[here], out.glow[here] = made
        return out

    def _looks(self, surfels: Surfels, look: Look) -> tuple[np.ndarray, list[Look]]:
        """Return which look holds at each surfel, and the looks."""
        region = np.full(len(surfels.rows), -1)
        for i in range(len(self._regions) - 1, -1, -1):
            x0, x1, z0, z1 = self._regions[i].bounds
            x, z = surfels.points[:, 0], surfels.points[:, 2]
            region[(x >= x0) & (x <= x1) & (z >= z0) & (z <= z1)] = i
        states = [wish.states for wish in self.things.wishes]
        kinds = sorted({tuple(sorted(state)) for state in states})
        kind = np.array([kinds.index(tuple(sorted(state))) for state in states])
        both = (region + 1) * len(kinds) + kind[surfels.instance]
        found, numbers = np.unique(both, return_inverse=True)
        looks = []
        for code in found.tolist():
            place, own = divmod(code, len(kinds))
            base = look if place == 0 else _regional(look, self._regions[place - 1])
            changes = {k: v for state in kinds[own] for k, v in _STATES[state].items()}
            looks.append(replace(base, **changes) if changes else base)
        return numbers.reshape(-1), looks

    def _cloth(self, spot: Spot, look: Look) -> Paint:
        albedo = spot.pick(_CLOTH, 3)
        places, _ = spot.local()
        albedo[spot.part == Part.LEGS] = spot.choice(_TROUSERS, 4)[spot.part == Part.LEGS]
        is_head = spot.part == Part.HEAD
        is_hair = places[:, 1] > 0.93 + 0.25 * np.clip(places[:, 0], -0.2, 0.2)
        albedo[is_head] = np.where(is_hair[is_head, None], _HAIR, _SKIN)
        albedo[places[:, 1] < 0.04] = 0.03
        return dull(albedo)

    def _cycle(self, spot: Spot, look: Look) -> Paint:
        albedo = spot.pick(_CLOTH, 3)
        albedo[spot.part == Part.WHEEL] = 0.025
        return dull(albedo)

    def _bin(self, spot: Spot, look: Look) -> Paint:
        albedo = spot.pick(_BINS, 33)
        albedo[spot.part == Part.ROOF] *= 1.5
        albedo[spot.part == Part.WHEEL] = 0.025
        return dull(albedo)

    def _pole(self, spot: Spot, look: Look) -> Paint:
        grey = 0.18 + 0.2 * spot.draw(5)
        albedo = np.repeat(grey[:, None], 3, axis=1)
        is_sign = spot.part == Part.SIGN
        if is_sign.any():
            albedo[is_sign] = _signs(spot.select(np.flatnonzero(is_sign)))
        named = np.array([name == "lamp" for name in self.things.names])[spot.instance]
        places, sizes = spot.local()
        is_head = named & ((1 - places[:, 1]) * sizes[:, 1] < 0.9)
        glow = is_head[:, None] * _WARM * 1.3 * look.lamps
        return Paint(albedo, np.zeros(len(albedo)), glow)

    def _foliage(self, spot: Spot, look: Look) -> Paint:
        albedo = spot.pick(_LEAF, 14)
        turned = spot.choice(_TURNED, 16)
        albedo = np.where((spot.draw(15) < look.autumn)[:, None], turned, albedo)
        places, _ = spot.local()
        # light comes from above: the lower half of a crown is darker
        is_ball = self._is_ball[spot.instance]
        albedo = albedo * np.where(is_ball, 0.62 + 0.5 * places[:, 1], 0.95)[:, None]
        leaves = 0.42 * spot.noise(0.7, 17) + 0.36 * spot.noise(0.24, 18)
        albedo = albedo * np.clip(1 + 1.2 * leaves, 0.2, 2.2)[:, None]
        bark = _BARK * (1 + 0.3 * spot.noise(0.12, 22))[:, None]
        return dull(
            np.where(self._is_thin[spot.instance][:, None] & ~is_ball[:, None], bark, albedo)
        )

    def _other(self, spot: Spot, look: Look) -> Paint:
        albedo = spot.pick(_CLOTH + 0.12, 20)
        places, sizes = spot.local()
        seams = every(places[:, 1] * sizes[:, 1] - 0.05, 0.5, 0.03, spot.footprint)
        edges = band(np.abs(places[:, 0]) * sizes[:, 0], sizes[:, 0] / 2 - 0.04, 99, spot.footprint)
        lines = np.maximum(seams, edges) * (sizes.max(axis=1) < 3)
        return dull(over(albedo, 0.5 * lines, (0.05, 0.05, 0.05)))

    def _snowed(self, surfels: Surfels, here: np.ndarray, look: Look, made: Paint) -> Paint:
        up, points = -surfels.normals[here, 1], surfels.points[here]
        label, lateral = surfels.label[here], surfels.lateral[here]
        noise = value_noise(points, 1.2, self.things.seed * 31 + 21)
        # twigs hold snow everywhere, tyres clear two tracks of each lane
        lane = np.abs(np.abs(np.mod(lateral + 1.75, 3.5) - 1.75) - 0.8)
        track = (label == 5) & (lane < 0.3) & (np.abs(lateral) < 5.5)
        cover = np.clip(2.5 * up - 0.6 + 0.6 * (noise - 0.5), 0, 1)
        leaves = np.clip(0.45 + 0.5 * up + 0.9 * (noise - 0.5), 0, 1)
        cover = look.snow * np.where(label == 10, leaves, cover) * np.where(track, 0.45, 1.0)
        return Paint(over(made.albedo, cover, _SNOW), made.mirror * (1 - cover), made.glow)


def _things(layout: Layout, frames: Sequence[Frame], seed: int) -> Things:
    primitives = layout.primitives
    to_world = np.array([frame.to_world for frame in frames]).reshape(-1, 4, 4)
    sizes = np.array([frame.size for frame in frames]).reshape(-1, 3)
    keys = np.array([key_of(p) for p in primitives], np.int64)
    eaves = [
        size[1] * (eaves_of(size, int(key)) if _has_roof(p) else 1.0)
        for p, size, key in zip(primitives, sizes, keys, strict=True)
    ]
    return Things(
        keys=keys,
        to_frame=np.linalg.inv(to_world),
        sizes=sizes,
        eaves=np.array(eaves),
        names=tuple(p.name for p in primitives),
        wishes=tuple(wish_of(p.style) if p.style else Wish() for p in primitives),
        rails=tuple(_rails(p) for p in primitives),
        seed=seed,
    )


def _has_roof(primitive: Primitive) -> bool:
    is_house = primitive.kind == "box" and primitive.name == "building"
    return is_house and wish_of(primitive.style).material != "modern"


def _rails(primitive: Primitive) -> tuple[np.ndarray, np.ndarray] | None:
    if primitive.kind != "slab":
        return None
    plan = primitive.world_vertices()[:, [0, 2]]
    m = len(plan) // 4
    return plan[:m], plan[m : 2 * m]


def _regional(look: Look, region: Region) -> Look:
    """Return the look with the weather, season and material that a region's prompt names."""
    own = wish_of(region.prompt)
    changes: dict[str, Any] = {}
    for state in sorted(own.states):
        changes |= _STATES[state]
    if own.material:
        changes["facade"] = own.material
    return replace(look, **changes)


def _signs(spot: Spot) -> np.ndarray:
    """Return the faces of traffic signs; the key decides as it does for the body."""
    places, sizes = spot.local()
    facing = spot.facing()
    x, y = places[:, 0] * sizes[:, 0], (places[:, 1] - 0.5) * sizes[:, 1]
    half, away = sizes[:, 0] / 2, np.hypot(x, y)
    fine = spot.footprint
    forbids = over(
        np.broadcast_to(_SIGN_RED, (len(x), 3)), band(away, -1, 0.7 * half, fine), _SIGN_WHITE
    )
    dash = band(np.abs(x), -1, 0.45 * half, fine) * band(np.abs(y), -1, 0.13 * half, fine)
    forbids = over(forbids, dash, (0.04, 0.04, 0.04))
    depth = np.minimum(y + 0.5 * half, (half - y - 1.732 * np.abs(x)) / 2)
    warns = over(
        np.broadcast_to(_SIGN_RED, (len(x), 3)), band(depth, 0.16 * half, 99, fine), _SIGN_WHITE
    )
    square = np.abs(x) + np.abs(y)
    leads = over(
        np.broadcast_to(_SIGN_WHITE, (len(x), 3)), band(square, -1, 0.72 * half, fine), _SIGN_YELLOW
    )
    arrow = band(np.abs(x), -1, 0.14 * half, fine) * band(np.abs(y), -1, 0.55 * half, fine)
    allows = over(np.broadcast_to(_SIGN_BLUE, (len(x), 3)), arrow, _SIGN_WHITE)
    kind = (spot.key % 4)[:, None]
    face = np.select([kind == 0, kind == 1, kind == 2], [forbids, warns, leads], allows)
    return np.where((np.abs(facing[:, 2]) > 0.5)[:, None], face, 0.3)
