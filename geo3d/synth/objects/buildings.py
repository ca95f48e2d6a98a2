"""Buildings and plants: house, tower, castle, windmill, tree.  The front looks to -y."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from geo3d.synth.objects import palette
from geo3d.synth.objects.palette import Color, Rng
from geo3d.synth.objects.solids import (
    Part,
    Solid,
    box,
    centered_box,
    cylinder,
    ellipsoid,
    lathe,
    part,
    side_prism,
    tube,
)


def _gable(w: float, d: float, low: float, rise: float, over: float) -> Solid:
    """Return a roof of triangular section, its ridge along x."""
    a = d / 2 + over
    return side_prism([(-a, low), (a, low), (0.0, low + rise)], -w / 2 - over, w / 2 + over)


def house(rng: Rng) -> list[Part]:
    """Draw a house: walls, gable, hip or flat roof, door, windows, chimney, sometimes a wing."""
    w, d = rng.uniform(5, 10), rng.uniform(4.5, 7)
    floors = int(rng.integers(1, 3))
    high = 2.8 * floors
    wall, roof = palette.either(rng, palette.stone(rng), palette.cloth(rng)), palette.brick(rng)
    trim = palette.either(rng, palette.WHITE, palette.wood(rng))
    parts = [part("walls", box((-w / 2, -d / 2, 0), (w / 2, d / 2, high)), wall)]
    rise = rng.uniform(1.4, 3.2)
    style = rng.random()
    if style < 0.6:
        parts.append(part("roof", _gable(w, d, high - 0.05, rise, 0.4), roof))
    elif style < 0.85:
        low, top = (
            (-w / 2 - 0.4, -d / 2 - 0.4, high - 0.05),
            (w / 2 + 0.4, d / 2 + 0.4, high + rise),
        )
        parts.append(part("roof", box(low, top, (rng.uniform(0.1, 0.6), 0.08)), roof))
    else:
        low, top = (-w / 2 - 0.3, -d / 2 - 0.3, high - 0.05), (w / 2 + 0.3, d / 2 + 0.3, high + 0.4)
        parts.append(part("roof", box(low, top), roof))
    door = rng.uniform(-0.3, 0.3) * w
    parts.append(
        part("door", centered_box((door, -d / 2, 1.05), (1.1, 0.3, 2.1)), palette.wood(rng))
    )
    parts += _windows(rng, (w, d, floors), door, trim)
    if rng.random() < 0.6:
        x = rng.uniform(-0.35, 0.35) * w
        stack = box((x - 0.4, d * 0.1, high), (x + 0.4, d * 0.1 + 0.8, high + rise + 0.8))
        parts.append(part("chimney", stack, palette.brick(rng)))
    if rng.random() < 0.35:
        side = w / 2 + 1.4
        shed = centered_box((side, 0.3, 1.2), (2.9, d * 0.8, 2.4))
        cover = centered_box((side, 0.3, 2.5), (3.3, d * 0.86, 0.3))
        parts += [part("garage", shed, wall), part("garage roof", cover, roof)]
        gate = centered_box((side, 0.3 - d * 0.4, 1.0), (2.2, 0.3, 2.0))
        parts.append(part("gate", gate, trim))
    return parts


def _windows(rng: Rng, size: tuple[float, float, int], door: float, trim: Color) -> list[Part]:
    w, d, floors = size
    count, parts = int(rng.integers(2, 5)), []
    wide, tall = min(1.2, 0.6 * w / count), rng.uniform(1.0, 1.4)
    for level in range(floors):
        z = 2.8 * level + 1.6
        for x in (np.arange(count) + 0.5) / count * w - w / 2:
            for y in (-d / 2, d / 2):
                if y < 0 and level == 0 and abs(x - door) < 0.6 + wide / 2:
                    continue
                frame = centered_box((x, y, z), (wide + 0.3, 0.2, tall + 0.3))
                glass = centered_box((x, y, z), (wide, 0.34, tall))
                parts += [part("frame", frame, trim), part("window", glass, palette.GLASS)]
        for x in (-w / 2, w / 2):
            frame = centered_box((x, 0, z), (0.2, 1.5, tall + 0.3))
            glass = centered_box((x, 0, z), (0.34, 1.2, tall))
            parts += [part("frame", frame, trim), part("window", glass, palette.GLASS)]
    return parts


def tower(rng: Rng) -> list[Part]:
    """Draw a tower block or a lighthouse."""
    if rng.random() < 0.5:
        return _lighthouse(rng)
    w, d, floors = rng.uniform(3, 5), rng.uniform(3, 5), int(rng.integers(4, 9))
    wall = palette.either(rng, palette.stone(rng), palette.brick(rng), palette.cloth(rng))
    parts, low, shrink = [], 0.0, rng.uniform(0.8, 1.0)
    for level in range(floors):
        if level == floors // 2:
            w, d = w * shrink, d * shrink
        parts.append(part("storey", box((-w / 2, -d / 2, low), (w / 2, d / 2, low + 1.15)), wall))
        band = box((-w * 0.48, -d * 0.48, low + 1.1), (w * 0.48, d * 0.48, low + 1.65))
        parts.append(part("windows", band, palette.GLASS))
        low += 1.6
    top = box((-w * 0.53, -d * 0.53, low), (w * 0.53, d * 0.53, low + 0.4))
    parts.append(part("roof", top, palette.darker(wall)))
    style = rng.integers(3)
    if style == 0:
        spire = tube([(0, 0, low), (0, 0, low + 3.5)], [0.18, 0.12])
        parts.append(part("mast", spire, palette.metal(rng)))
    elif style == 1:
        cap = box((-w / 2, -d / 2, low + 0.35), (w / 2, d / 2, low + 2.2), (0.05, 0.05))
        parts.append(part("spire", cap, palette.brick(rng)))
    else:
        hut = box((-w * 0.2, -d * 0.3, low + 0.3), (w * 0.2, d * 0.1, low + 1.3))
        parts.append(part("hut", hut, wall))
    return parts


def _lighthouse(rng: Rng) -> list[Part]:
    high, foot = rng.uniform(5, 9), rng.uniform(1.0, 1.6)
    top, bands = foot * rng.uniform(0.5, 0.75), int(rng.integers(3, 8))
    colors, parts = (palette.WHITE, palette.paint(rng)), []
    edges = np.linspace(0, 1, bands + 1)
    for i, (a, b) in enumerate(pairwise(edges)):
        r0, r1 = foot + (top - foot) * a, foot + (top - foot) * b
        solid = cylinder(r0, high * (b - a), r1, 24).moved(z=high * a)
        parts.append(part("band", solid, colors[i % 2]))
    gallery = cylinder(top * 1.35, 0.3, sides=24).moved(z=high)
    light = cylinder(top * 0.65, 1.2, sides=12).moved(z=high + 0.25)
    cap = cylinder(top * 0.9, 0.9, 0.05).moved(z=high + 1.4)
    door = centered_box((0, -foot * 0.95, 0.7), (0.7, 0.5, 1.4))
    parts += [part("gallery", gallery, palette.BLACK), part("light", light, (250, 236, 170))]
    return [*parts, part("roof", cap, colors[1]), part("door", door, palette.wood(rng))]


def castle(rng: Rng) -> list[Part]:
    """Draw a castle: four corner towers, walls with a gate, a keep, flags."""
    w, wall, high = rng.uniform(5, 8), rng.uniform(1.6, 2.6), rng.uniform(2.8, 4.2)
    stone, roof = palette.stone(rng), palette.either(rng, palette.brick(rng), palette.paint(rng))
    radius, pointed = rng.uniform(0.7, 1.1), rng.random() < 0.6
    a, thick, parts = w / 2, 0.5, []
    for sx in (-1, 1):
        for sy in (-1, 1):
            base = cylinder(radius, high, radius * 0.93).moved(sx * a, sy * a)
            parts.append(part("tower", base, stone))
            if pointed:
                tip = cylinder(radius * 1.25, radius * 2.2, 0.04).moved(sx * a, sy * a, high - 0.02)
                parts.append(part("spire", tip, roof))
            else:
                crown = cylinder(radius * 1.15, 0.6).moved(sx * a, sy * a, high - 0.1)
                parts.append(part("crown", crown, palette.darker(stone, 0.85)))
    for s in (-1, 1):
        parts.append(part("wall", centered_box((0, s * a, wall / 2), (w, thick, wall)), stone))
        parts.append(part("wall", centered_box((s * a, 0, wall / 2), (thick, w, wall)), stone))
        for t in np.linspace(-0.32, 0.32, 5) * w:
            merlon = centered_box((t, s * a, wall + 0.15), (w * 0.07, thick * 0.98, 0.4))
            parts.append(part("merlon", merlon, palette.darker(stone, 0.9)))
    gate = centered_box((0, -a, wall * 0.35), (w * 0.2, thick * 1.3, wall * 0.7))
    parts.append(part("gate", gate, palette.wood(rng)))
    keep, tall = w * rng.uniform(0.2, 0.3), high * rng.uniform(1.1, 1.5)
    parts.append(
        part("keep", box((-keep, -keep, 0), (keep, keep, tall)), palette.darker(stone, 0.92))
    )
    cap = box(
        (-keep * 1.15, -keep * 1.15, tall), (keep * 1.15, keep * 1.15, tall + keep), (0.05, 0.05)
    )
    parts.append(part("roof", cap, roof))
    return parts


def windmill(rng: Rng) -> list[Part]:
    """Draw a windmill: tapering tower, cap, four sails."""
    high, foot = rng.uniform(4, 6), rng.uniform(1.2, 1.8)
    top, wall = (
        foot * rng.uniform(0.5, 0.75),
        palette.either(rng, palette.stone(rng), palette.wood(rng)),
    )
    parts = [part("tower", cylinder(foot, high, top, int(rng.choice([6, 8, 20]))), wall)]
    cap = lathe([(0, 0), (top * 1.15, 0), (top * 0.9, 0.6), (top * 0.3, 1.1), (0, 1.15)], 16)
    parts.append(part("cap", cap.moved(z=high - 0.02), palette.brick(rng)))
    long, wide = high * rng.uniform(0.55, 0.8), rng.uniform(0.5, 0.9)
    front, level, turn = -top * 1.3, high + 0.2, rng.uniform(0, np.pi / 2)
    axle = cylinder(0.2, top * 1.3).turned("x", np.pi / 2).moved(0, 0.0, level)
    parts.append(part("axle", axle, palette.metal(rng)))
    sail, beam = palette.either(rng, palette.WHITE, palette.cloth(rng)), palette.wood(rng)
    for i in range(4):
        angle = turn + i * np.pi / 2
        pole = centered_box((0, 0, long / 2), (0.16, 0.16, long))
        sheet = box((0.05, -0.06, long * 0.2), (wide, 0.06, long * 0.98))
        for name, solid, color in (("pole", pole, beam), ("sail", sheet, sail)):
            parts.append(part(name, solid.turned("y", angle).moved(0, front, level), color))
    door = centered_box((0, -foot * 0.93, 0.7), (0.8, 0.6, 1.4))
    parts.append(part("door", door, palette.wood(rng)))
    return parts


def tree(rng: Rng) -> list[Part]:
    """Draw a tree: a conifer of cones, or a trunk with balls of leaves; sometimes in a pot."""
    leaf, bark = palette.leaf(rng), palette.wood(rng)
    high, thick = rng.uniform(0.8, 1.8), rng.uniform(0.1, 0.2)
    bend = rng.normal(0, 0.12, 2)
    t = np.linspace(0, 1, 7)[:, None]
    path = np.concatenate([bend * t**2, t * high], 1)
    parts = [part("trunk", tube(path, list(thick * (1 - 0.4 * t[:, 0]))), bark)]
    if rng.random() < 0.4:
        layers, wide = int(rng.integers(2, 5)), rng.uniform(0.6, 0.9)
        low = high * 0.35
        for i in range(layers):
            radius = wide * (1 - 0.65 * i / layers)
            cone = cylinder(radius, high * 0.75, 0.03).moved(bend[0] / 2, bend[1] / 2, low)
            parts.append(part("needles", cone, palette.darker(leaf, 0.8 + 0.2 * i / layers)))
            low += high * 0.42
    else:
        for _ in range(int(rng.integers(3, 8))):
            radius = rng.uniform(0.35, 0.6)
            offset = rng.normal(0, 1, 3) * [0.35, 0.35, 0.22]
            place = path[-1] + offset + np.array([0, 0, 0.25])
            ball = ellipsoid((radius, radius, radius * rng.uniform(0.7, 1.0)), 14).moved(*place)
            parts.append(part("leaves", ball, palette.darker(leaf, rng.uniform(0.8, 1.1))))
    if rng.random() < 0.3:
        pot = [(0, -0.25), (0.28, -0.25), (0.38, 0.12), (0.33, 0.12), (0.3, 0.05), (0, 0.05)]
        parts.append(part("pot", lathe(pot), palette.brick(rng)))
    return parts
