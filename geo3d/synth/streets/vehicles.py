"""How cars, lorries and buses are painted: glass, pillars, lamps, plates, seams and wheels.

Notation as in `geo3d.synth.streets.bodies`; x, y, z are metres along l, h, w.
"""

from __future__ import annotations

import numpy as np

from geo3d.synth.streets.bodies import AXLES, LID, Part, car_shape, wheel_radius
from geo3d.synth.streets.patterns import band
from geo3d.synth.streets.spots import Paint, Spot, over
from geo3d.synth.streets.styles import Look

_PAINT = np.array(
    [
        (0.50, 0.04, 0.03), (0.03, 0.08, 0.32), (0.52, 0.53, 0.55), (0.03, 0.03, 0.035),
        (0.72, 0.72, 0.70), (0.22, 0.23, 0.25), (0.04, 0.16, 0.10), (0.38, 0.30, 0.16),
        (0.30, 0.38, 0.46), (0.62, 0.60, 0.56),
    ]
)  # fmt: skip
_GLASS = np.array([0.025, 0.032, 0.038])
_TYRE, _TRIM = 0.022, 0.035
_ALLOY = np.array([0.42, 0.43, 0.45])
_PLATE = np.array([0.72, 0.72, 0.66])
_FRONT_LAMP, _REAR_LAMP = np.array([0.75, 0.76, 0.74]), np.array([0.46, 0.02, 0.015])
_FRONT_LIGHT, _REAR_LIGHT = np.array([1.0, 0.95, 0.8]), np.array([0.9, 0.05, 0.03])


def paint_vehicles(spot: Spot, look: Look) -> Paint:
    """Return the colours of vehicles of every kind."""
    albedo = spot.pick(_PAINT, 1)
    mirror = np.full(len(albedo), 0.07)
    glow = np.zeros_like(albedo)
    for i in np.unique(spot.instance).tolist():
        here = np.flatnonzero(spot.instance == i)
        one = _One(spot.select(here), albedo[here], i)
        name = spot.things.names[i]
        if name in ("truck", "trailer"):
            one.lorry()
        elif name in ("bus", "caravan"):
            one.bus()
        else:
            one.car()
        one.wheels()
        albedo[here], mirror[here] = one.albedo, one.mirror
        glow[here] = 0.8 * look.lamps * one.shine
    return Paint(albedo, mirror, glow)


class _One:
    """One vehicle while it is painted."""

    def __init__(self, spot: Spot, albedo: np.ndarray, instance: int) -> None:
        self.size = spot.things.sizes[instance]
        self.key = int(spot.things.keys[instance])
        places, _ = spot.local()
        self.at, facing = places, spot.facing()
        self.x, self.y, self.z = (places * self.size).T
        self.out = np.abs(self.z)
        self.part, self.fine = spot.part, spot.footprint
        self.albedo, self.mirror = albedo, np.full(len(albedo), 0.07)
        self.shine = np.zeros_like(albedo)
        self.is_front, self.is_rear = facing[:, 0] > 0.5, facing[:, 0] < -0.5
        self.is_side = np.abs(facing[:, 2]) > 0.6

    def fill(self, where: np.ndarray, share: np.ndarray, color: object, mirror: float = 0) -> None:
        """Cover shares of the pixels of one part."""
        share = np.where(where, share, 0.0)
        self.albedo = over(self.albedo, share, color)
        self.mirror = self.mirror + share * (mirror - self.mirror)

    def rectangle(self, out: tuple[float, float], up: tuple[float, float]) -> np.ndarray:
        """Return the share in a rectangle of an end, given in metres from the middle and up."""
        return band(self.out, *out, self.fine) * band(self.y, *up, self.fine)

    def car(self) -> None:
        """Paint the body and the glass of a car."""
        length, height, _ = self.size
        is_body = self.part == Part.PLAIN
        self.fill(is_body, band(self.y, 0.0, 0.21 * height, self.fine), _TRIM)
        radius = wheel_radius(self.size)
        for axle in AXLES:
            away = np.hypot(self.x - axle * length, self.y - radius)
            arch = band(away, -1, radius + 0.06, self.fine)
            self.fill(is_body & self.is_side, arch, 0.015)
        belt = car_shape(self.size, self.key).belt * height
        doors = band(self.y, 0.24 * height, belt, self.fine)
        for seam in (-0.155, 0.045, 0.185):
            line = band(self.x, seam * length - 0.012, seam * length + 0.012, self.fine)
            self.fill(is_body & self.is_side, 0.8 * line * doors, _TRIM)
            grip = band(self.x, seam * length - 0.26, seam * length - 0.1, self.fine)
            bar = grip * band(self.y, belt - 0.16, belt - 0.125, self.fine)
            self.fill(is_body & self.is_side, 0.5 * bar, _TRIM)
        self._ends(is_body)
        self._cabin(belt / height)

    def _ends(self, is_body: np.ndarray) -> None:
        """Paint lamps, grille and plates."""
        _, height, width = self.size
        front, rear = is_body & self.is_front, is_body & self.is_rear
        grille = self.rectangle((-1, 0.2 * width), (0.29 * height, 0.38 * height))
        self.fill(front, grille, 0.02)
        lamp = self.rectangle((0.25 * width, 0.44 * width), (0.34 * height, 0.43 * height))
        self.fill(front, lamp, _FRONT_LAMP, 0.3)
        self.shine += np.where(front, lamp, 0.0)[:, None] * _FRONT_LIGHT
        lamp = self.rectangle((0.33 * width, 0.46 * width), (0.36 * height, 0.51 * height))
        self.fill(rear, lamp, _REAR_LAMP, 0.15)
        self.shine += np.where(rear, lamp, 0.0)[:, None] * _REAR_LIGHT
        plate = self.rectangle((-1, 0.26), (0.22 * height, 0.22 * height + 0.12))
        self.fill(front, plate, _PLATE)
        plate = self.rectangle((-1, 0.26), (0.33 * height, 0.33 * height + 0.12))
        self.fill(rear, plate, _PLATE)

    def _cabin(self, belt: float) -> None:
        """Paint the windows between the pillars."""
        length, height, width = self.size
        shape = car_shape(self.size, self.key)
        is_cabin = self.part == Part.CABIN
        up = np.clip((self.at[:, 1] - belt) / (LID - belt), 0, 1)
        rows = band(self.y, belt * height + 0.03, LID * height - 0.03, self.fine)
        rear, front = (length * (a + up * (b - a)) for a, b in zip(*shape[1:], strict=True))
        pane = band(self.x, rear + 0.14, front - 0.09, self.fine)
        for pillar in (-0.155, 0.045) if length > 4.2 else (-0.1,):
            x = pillar * length
            pane = pane * (1 - band(self.x, x - 0.04, x + 0.04, self.fine))
        self.fill(is_cabin & self.is_side, pane * rows, _GLASS, 0.34)
        edge = width * (0.455 - 0.07 * up) - 0.09
        shield = band(self.out, -1, edge, self.fine) * rows
        self.fill(is_cabin & ~self.is_side, shield, _GLASS, 0.34)

    def lorry(self) -> None:
        """Paint a cab and its load."""
        length, height, width = self.size
        is_cab, is_load = self.part == Part.CABIN, self.part == Part.ROOF
        self.albedo[is_load] = (0.62, 0.62, 0.60)
        stripe = band(self.y, 0.5 * height, 0.62 * height, self.fine)
        own = (0.05, 0.12, 0.34) if self.key % 2 else (0.45, 0.06, 0.04)
        self.fill(is_load & self.is_side, stripe, own)
        door = band(self.out, 0.0, 0.02, self.fine)
        self.fill(is_load & self.is_rear, 0.7 * door, 0.08)
        self.albedo[self.part == Part.PLAIN] = _TRIM
        pane = self.rectangle((-1, 0.41 * width), (0.5 * height, 0.73 * height))
        self.fill(is_cab & self.is_front, pane, _GLASS, 0.34)
        side = band(self.y, 0.5 * height, 0.72 * height, self.fine)
        side = side * band(self.x, 0.31 * length, 0.43 * length, self.fine)
        self.fill(is_cab & self.is_side, side, _GLASS, 0.34)
        self.fill(is_cab, band(self.y, 0.0, 0.26 * height, self.fine), _TRIM)
        lamp = self.rectangle((0.3 * width, 0.43 * width), (0.27 * height, 0.32 * height))
        self.fill(is_cab & self.is_front, lamp, _FRONT_LAMP, 0.3)
        self.shine += np.where(is_cab & self.is_front, lamp, 0.0)[:, None] * _FRONT_LIGHT
        lamp = self.rectangle((0.38 * width, 0.48 * width), (0.27 * height, 0.33 * height))
        self.fill(is_load & self.is_rear, lamp, _REAR_LAMP)
        self.shine += np.where(is_load & self.is_rear, lamp, 0.0)[:, None] * _REAR_LIGHT

    def bus(self) -> None:
        """Paint a row of windows, and a shield in front."""
        length, height, width = self.size
        is_cabin = self.part == Part.CABIN
        row = band(self.y, 0.47 * height, 0.84 * height, self.fine)
        panes = np.abs(self.x - 1.4 * np.round(self.x / 1.4))
        pane = band(panes, -1, 0.64, self.fine) * band(self.x, -9, 0.46 * length, self.fine)
        self.fill(is_cabin & self.is_side, pane * row, _GLASS, 0.34)
        shield = self.rectangle((-1, 0.43 * width), (0.4 * height, 0.88 * height))
        self.fill(is_cabin & self.is_front, shield, _GLASS, 0.34)
        shield = self.rectangle((-1, 0.38 * width), (0.55 * height, 0.85 * height))
        self.fill(is_cabin & self.is_rear, shield, _GLASS, 0.34)
        self.fill(is_cabin, band(self.y, 0.0, 0.16 * height, self.fine), _TRIM)
        lamp = self.rectangle((0.3 * width, 0.44 * width), (0.2 * height, 0.27 * height))
        for where, color, light in (
            (self.is_front, _FRONT_LAMP, _FRONT_LIGHT),
            (self.is_rear, _REAR_LAMP, _REAR_LIGHT),
        ):
            self.fill(is_cabin & where, lamp, color, 0.2)
            self.shine += np.where(is_cabin & where, lamp, 0.0)[:, None] * light

    def wheels(self) -> None:
        """Paint tyres and rims."""
        is_wheel = self.part == Part.WHEEL
        if not is_wheel.any():
            return
        self.albedo[is_wheel], self.mirror[is_wheel] = _TYRE, 0.0
        radius = float(self.y[is_wheel].max()) / 2
        rear, front = (self.size[0] * axle for axle in AXLES)
        axle = np.where(np.abs(self.x - rear) < np.abs(self.x - front), rear, front)
        dx, dy = self.x - axle, self.y - radius
        away = np.hypot(dx, dy)
        rim = band(away, -1, 0.64 * radius, self.fine)
        spokes = 0.5 + 0.5 * np.cos(5 * np.arctan2(dy, dx))
        gap = band(away, 0.2 * radius, 0.54 * radius, self.fine) * (spokes < 0.35)
        self.fill(is_wheel & self.is_side, rim * (1 - 0.9 * gap), _ALLOY)
