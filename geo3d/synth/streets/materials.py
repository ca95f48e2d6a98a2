"""Colours of street surfaces: class by class, instance by instance, with patterns of the world.

Notation: p surfels; colours are linear RGB (p, 3).  ``mirror`` (p,) is the share of light that a
surface mirrors from the sky; ``glow`` (p, 3) what it radiates by itself where lamps burn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from geo3d.layout.layout import Layout
from geo3d.synth.streets.patterns import bricks, fade, hashed, lane_marks, value_noise, windows
from geo3d.synth.streets.styles import Look
from geo3d.synth.streets.surfels import Surfels

_PLASTER = np.array(
    [
        (0.62, 0.54, 0.40),
        (0.66, 0.62, 0.54),
        (0.55, 0.36, 0.24),
        (0.60, 0.50, 0.26),
        (0.42, 0.45, 0.48),
        (0.68, 0.66, 0.62),
        (0.52, 0.42, 0.36),
        (0.40, 0.46, 0.38),
    ]
)
_BRICK = np.array([(0.36, 0.11, 0.06), (0.30, 0.10, 0.07), (0.42, 0.17, 0.09), (0.26, 0.12, 0.09)])
_MODERN = np.array([(0.55, 0.57, 0.60), (0.66, 0.68, 0.70), (0.30, 0.34, 0.38), (0.46, 0.50, 0.53)])
_PAINT = np.array(
    [
        (0.55, 0.04, 0.03),
        (0.03, 0.08, 0.32),
        (0.60, 0.60, 0.62),
        (0.03, 0.03, 0.035),
        (0.72, 0.72, 0.70),
        (0.22, 0.23, 0.25),
        (0.04, 0.16, 0.10),
        (0.38, 0.28, 0.10),
    ]
)
_ROOF = np.array([(0.26, 0.09, 0.06), (0.12, 0.12, 0.13), (0.20, 0.13, 0.10)])
_LEAF = np.array([(0.070, 0.150, 0.028), (0.050, 0.115, 0.030), (0.100, 0.165, 0.035)])
_TURNED = np.array([(0.50, 0.20, 0.03), (0.45, 0.08, 0.03), (0.55, 0.36, 0.05), (0.24, 0.13, 0.05)])
_CLOTH = np.array([(0.30, 0.05, 0.05), (0.06, 0.09, 0.25), (0.10, 0.10, 0.10), (0.35, 0.32, 0.25)])
_BARK = np.array([0.11, 0.075, 0.05])
_SNOW = np.array([0.82, 0.85, 0.90])
_WARM = np.array([1.0, 0.62, 0.26])
_PLAIN = ("fence", "gate", "wall")


@dataclass(frozen=True, eq=False)
class Material:
    """What light meets at each surfel."""

    albedo: Float[np.ndarray, "p 3"]
    mirror: Float[np.ndarray, " p"]
    glow: Float[np.ndarray, "p 3"]


@dataclass(frozen=True, eq=False)
class _Spot:
    """Surfels of one class, with what their pattern needs."""

    points: np.ndarray
    normals: np.ndarray
    instance: np.ndarray
    footprint: np.ndarray
    lateral: np.ndarray
    along: np.ndarray
    top: np.ndarray
    """Least y of the primitive."""
    foot: np.ndarray
    """Greatest y of the primitive."""

    @property
    def height(self) -> np.ndarray:
        return self.foot - self.points[:, 1]

    @property
    def up(self) -> np.ndarray:
        return -self.normals[:, 1]


class Materials:
    """The colours of one layout; ``seed`` chooses them."""

    def __init__(self, layout: Layout, seed: int) -> None:
        self.seed = seed
        bounds = layout.primitive_bounds()
        self._top, self._foot = bounds[:, 0, 1], bounds[:, 1, 1]
        self._is_thin = (bounds[:, 1] - bounds[:, 0])[:, [0, 2]].max(axis=1) < 1.0
        self._is_plain = np.array([p.name in _PLAIN for p in layout.primitives])
        self._is_lamp = np.array([p.name == "lamp" for p in layout.primitives])
        transforms = np.array([p.transform for p in layout.primitives])
        self._inverse = np.linalg.inv(transforms)
        self._axes = _length_and_width(transforms)
        self._painters: dict[int, Callable[[_Spot, Look], tuple[np.ndarray, ...]]] = {
            0: self._vehicle,
            1: self._cloth,
            2: self._cloth,
            3: self._pole,
            5: self._road,
            6: self._pavement,
            7: self._pavement,
            8: self._building,
            10: self._foliage,
            11: self._grass,
        }

    def at(self, surfels: Surfels, look: Look) -> Material:
        """Return the materials of all surfels."""
        count = len(surfels.rows)
        albedo, mirror, glow = np.zeros((count, 3)), np.zeros(count), np.zeros((count, 3))
        for label in np.unique(surfels.label).tolist():
            here = np.flatnonzero(surfels.label == label)
            spot = self._spot(surfels, here)
            paint = self._painters.get(label, self._other)
            albedo[here], mirror[here], glow[here] = paint(spot, look)
        if look.snow > 0:
            self._snow(surfels, look, albedo, mirror)
        return Material(albedo, mirror, glow)

    def _spot(self, surfels: Surfels, here: np.ndarray) -> _Spot:
        instance = surfels.instance[here]
        return _Spot(
            surfels.points[here],
            surfels.normals[here],
            instance,
            surfels.footprint[here],
            surfels.lateral[here],
            surfels.along[here],
            self._top[instance],
            self._foot[instance],
        )

    def _pick(self, colors: np.ndarray, instance: Int[np.ndarray, " p"], salt: int) -> np.ndarray:
        """Return a colour of the list for every instance, a little lighter or darker."""
        index = (hashed(self.seed, instance, salt) * len(colors)).astype(int)
        return colors[index] * (0.85 + 0.3 * hashed(self.seed, instance, salt + 1))[:, None]

    def _noise(self, spot: _Spot, cell: float, salt: int) -> np.ndarray:
        """Return noise in [-1, 1], 0 where it is finer than a pixel."""
        noise = value_noise(spot.points, cell, self.seed * 31 + salt)
        return (2 * noise - 1) * fade(cell, spot.footprint)

    def _vehicle(self, spot: _Spot, look: Look) -> tuple[np.ndarray, ...]:
        inverse = self._inverse[spot.instance]
        local = np.einsum("pij,pj->pi", inverse[:, :3, :3], spot.points) + inverse[:, :3, 3]
        longest, widest = self._axes[spot.instance].T[..., None]
        on_length = np.take_along_axis(local, longest, axis=1)[:, 0]
        on_width = np.take_along_axis(local, widest, axis=1)[:, 0]
        height = np.clip(spot.height / np.maximum(spot.foot - spot.top, 1e-6), 0, 1)
        albedo = self._pick(_PAINT, spot.instance, 1)
        is_side = spot.up < 0.7
        is_end = is_side & (np.abs(on_length) > 0.495)
        pillar = np.abs(np.abs(on_length) - 0.16) < 0.02
        is_glass = is_side & (height > 0.55) & (height < 0.9) & ~pillar
        is_wheel = is_side & ~is_end & (height < 0.34) & (np.abs(np.abs(on_length) - 0.31) < 0.085)
        albedo[height < 0.13] = 0.03
        albedo[is_wheel] = 0.02
        albedo[is_glass] = 0.03
        mirror = np.where(is_glass, 0.45, 0.12)
        mirror[is_wheel] = 0.0
        lamp = is_end & (height > 0.36) & (height < 0.52) & (np.abs(on_width) > 0.3)
        is_tail = on_length < 0
        albedo[lamp] = np.where(is_tail[lamp, None], [0.5, 0.03, 0.02], [0.7, 0.7, 0.65])
        light = np.where(is_tail[:, None], [0.9, 0.05, 0.03], [1.0, 0.95, 0.8])
        return albedo, mirror, look.lamps * 0.8 * lamp[:, None] * light

    def _cloth(self, spot: _Spot, look: Look) -> tuple[np.ndarray, ...]:
        albedo = self._pick(_CLOTH, spot.instance, 3)
        albedo[spot.height > 0.86 * (spot.foot - spot.top)] = (0.45, 0.30, 0.22)
        return _dull(albedo)

    def _pole(self, spot: _Spot, look: Look) -> tuple[np.ndarray, ...]:
        grey = 0.18 + 0.2 * hashed(self.seed, spot.instance, 5)
        albedo = np.repeat(grey[:, None], 3, axis=1)
        is_head = self._is_lamp[spot.instance] & (spot.points[:, 1] - spot.top < 0.9)
        glow = is_head[:, None] * _WARM * 1.3 * look.lamps
        return albedo, np.zeros(len(albedo)), glow

    def _road(self, spot: _Spot, look: Look) -> tuple[np.ndarray, ...]:
        grey = 0.095 * (1 + 0.25 * self._noise(spot, 1.7, 6) + 0.2 * self._noise(spot, 0.25, 7))
        albedo = grey[:, None] * [1.0, 1.0, 1.03]
        paint = lane_marks(spot.lateral, spot.along) * (spot.up > 0.7)
        # painted lines keep their share of a pixel that is wider than they are
        paint = paint * np.clip(0.25 / np.maximum(spot.footprint, 1e-6), 0.45, 1.0)
        albedo += paint[:, None] * (0.62 - albedo)
        flat = spot.up > 0.7
        puddle = np.clip(self._noise(spot, 2.3, 8) + 0.4, 0, 1)
        wet = look.wet * flat * (0.3 + 0.5 * puddle)
        return albedo * (1 - 0.55 * wet)[:, None], wet, np.zeros_like(albedo)

    def _pavement(self, spot: _Spot, look: Look) -> tuple[np.ndarray, ...]:
        tile = np.floor(spot.points[:, [0, 2]] / 0.6).astype(np.int64)
        shade = (hashed(self.seed, tile[:, 0], tile[:, 1]) - 0.5) * fade(0.6, spot.footprint)
        albedo = (0.33 + 0.10 * shade + 0.04 * self._noise(spot, 3.1, 9))[:, None] * [
            1.0,
            0.95,
            0.88,
        ]
        wet = look.wet * (spot.up > 0.7) * 0.35
        return albedo * (1 - 0.5 * wet)[:, None], wet, np.zeros_like(albedo)

    def _building(self, spot: _Spot, look: Look) -> tuple[np.ndarray, ...]:
        colors = {"brick": _BRICK, "modern": _MODERN}.get(look.facade, _PLASTER)
        albedo = self._pick(colors, spot.instance, 10)
        along = spot.points[:, 0] * spot.normals[:, 2] - spot.points[:, 2] * spot.normals[:, 0]
        if look.facade == "brick":
            texture = bricks(along, spot.height, self.seed) - 1
            albedo *= (1 + texture * fade(0.35, spot.footprint))[:, None]
        albedo *= (1 + 0.10 * self._noise(spot, 1.3, 11))[:, None]
        is_roof = spot.up > 0.5
        albedo[is_roof] = self._pick(_ROOF, spot.instance[is_roof], 12)
        plain = self._is_plain[spot.instance]
        boards = np.mod(np.floor(along / 0.25), 2) * fade(0.25, spot.footprint)
        wood = np.array([0.24, 0.17, 0.11]) * (1 - 0.3 * boards)[:, None]
        albedo = np.where((plain & ~is_roof)[:, None], wood, albedo)
        mirror, glow = np.zeros(len(albedo)), np.zeros_like(albedo)
        tall = spot.foot - spot.top
        with_glass = ~is_roof & ~plain & (tall > 2.6)
        self._glaze(spot, look, with_glass, (albedo, mirror, glow), along)
        return albedo, mirror, glow

    def _glaze(
        self,
        spot: _Spot,
        look: Look,
        where: np.ndarray,
        out: tuple[np.ndarray, np.ndarray, np.ndarray],
        along: np.ndarray,
    ) -> None:
        """Put windows into walls."""
        albedo, mirror, glow = out
        width = 2.4 + 1.2 * hashed(self.seed, spot.instance, 13)
        if look.facade == "modern":
            width = np.full_like(width, 1.9)
        is_glass, cells = windows(along, spot.height, spot.foot - spot.top, width)
        is_glass &= where
        if look.facade == "modern":
            storey = spot.height / 3.1
            is_glass = where & (np.mod(storey, 1.0) > 0.28)
        sharp = fade(1.2, spot.footprint) * is_glass
        # windows smaller than a pixel darken the wall by their share
        albedo *= 1 - (0.9 * sharp + 0.25 * (where & (sharp == 0)))[:, None]
        mirror[:] = 0.4 * sharp
        lit = hashed(self.seed + 1, spot.instance, cells[:, 0], cells[:, 1]) < 0.45
        warm = 0.4 + 0.6 * hashed(self.seed + 2, cells[:, 0], cells[:, 1])
        glow[:] = look.lamps * 0.75 * (sharp * lit * warm)[:, None] * _WARM

    def _foliage(self, spot: _Spot, look: Look) -> tuple[np.ndarray, ...]:
        albedo = self._pick(_LEAF, spot.instance, 14)
        has_turned = hashed(self.seed, spot.instance, 15) < look.autumn
        turned = self._pick(_TURNED, spot.instance, 16)
        albedo = np.where(has_turned[:, None], turned, albedo)
        albedo[self._is_thin[spot.instance]] = _BARK
        leaves = 0.45 * self._noise(spot, 0.8, 17) + 0.35 * self._noise(spot, 0.3, 18)
        return _dull(albedo * np.clip(1 + 1.3 * leaves, 0.15, 2.2)[:, None])

    def _grass(self, spot: _Spot, look: Look) -> tuple[np.ndarray, ...]:
        noise = self._noise(spot, 1.1, 19)[:, None]
        green = np.array([0.090, 0.165, 0.035]) * (1 + 0.3 * noise)
        straw = np.array([0.26, 0.17, 0.06]) * (1 + 0.3 * noise)
        return _dull(green + 0.6 * look.autumn * (straw - green))

    def _other(self, spot: _Spot, look: Look) -> tuple[np.ndarray, ...]:
        return _dull(self._pick(_CLOTH + 0.12, spot.instance, 20))

    def _snow(self, surfels: Surfels, look: Look, albedo: np.ndarray, mirror: np.ndarray) -> None:
        up = -surfels.normals[:, 1]
        noise = value_noise(surfels.points, 1.2, self.seed * 31 + 21)
        is_leaf = surfels.label == 10
        # twigs hold snow everywhere, tyres clear two tracks of each lane
        lane = np.abs(np.abs(np.mod(surfels.lateral + 1.75, 3.5) - 1.75) - 0.8)
        track = (surfels.label == 5) & (lane < 0.3) & (np.abs(surfels.lateral) < 5.5)
        cover = np.clip(2.5 * up - 0.6 + 0.6 * (noise - 0.5), 0, 1)
        cover = np.where(is_leaf, np.clip(0.45 + 0.5 * up + 0.9 * (noise - 0.5), 0, 1), cover)
        cover = look.snow * cover * np.where(track, 0.45, 1.0)
        albedo += cover[:, None] * (_SNOW - albedo)
        mirror *= 1 - cover


def _length_and_width(transforms: Float[np.ndarray, "n 4 4"]) -> Int[np.ndarray, "n 2"]:
    """Return the local axes of length and width: the longer and the shorter level one."""
    columns = transforms[:, :3, :3]
    lengths = np.linalg.norm(columns, axis=1)
    upright = np.argmax(np.abs(columns[:, 1]) / np.maximum(lengths, 1e-12), axis=1)
    np.put_along_axis(lengths, upright[:, None], -1.0, axis=1)
    order = np.argsort(lengths, axis=1, kind="stable")
    return order[:, [2, 1]]


def _dull(albedo: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return albedo, np.zeros(len(albedo)), np.zeros_like(albedo)
