"""Vehicles: car, truck, plane, boat, rocket, train.

The front looks to -y; lengths in metres or any unit.
"""

from __future__ import annotations

import numpy as np

from geo3d.synth.objects import palette
from geo3d.synth.objects.palette import Color, Rng
from geo3d.synth.objects.solids import (
    Part,
    box,
    centered_box,
    cylinder,
    ellipsoid,
    front_prism,
    hull_along,
    lathe,
    mirrored,
    part,
    side_prism,
    tube,
)


def _wheel(name: str, x: float, y: float, radius: float, width: float, hub: Color) -> list[Part]:
    """Return tyre and hub cap, axis along x, standing on z = 0."""
    tyre = [(0, 0), (radius * 0.85, 0), (radius, width * 0.2), (radius, width * 0.8)]
    tyre += [(radius * 0.85, width), (0, width)]
    rubber = lathe(tyre, 20).turned("y", np.pi / 2).moved(x - width / 2, y, radius)
    cap = cylinder(radius * 0.55, width * 1.12, sides=12).turned("y", np.pi / 2)
    return [
        part(name, rubber, palette.RUBBER),
        part("hub", cap.moved(x - width * 0.56, y, radius), hub),
    ]


def car(rng: Rng) -> list[Part]:
    """Draw a car: body, cabin with windows, wheels, lights."""
    length, w = rng.uniform(3.4, 4.9), rng.uniform(1.6, 1.95)
    radius, clear = rng.uniform(0.28, 0.38), rng.uniform(0.16, 0.3)
    waist = clear + rng.uniform(0.5, 0.68)
    high = waist + rng.uniform(0.4, 0.68)
    color, hub = palette.paint(rng), palette.metal(rng)
    nose, tail = rng.uniform(0.72, 0.95), rng.uniform(0.8, 1.0)
    a, mid, deep = length / 2, (clear + waist) / 2, waist - clear
    stations = [
        (-a, 0, clear + deep * nose * 0.45, w * 0.86, deep * nose * 0.75),
        (-a * 0.93, 0, clear + deep * nose / 2, w * 0.97, deep * nose),
        (-a * 0.4, 0, mid, w, deep),
        (a * 0.5, 0, mid, w, deep),
        (a * 0.94, 0, clear + deep * tail / 2, w * 0.96, deep * tail),
        (a, 0, clear + deep * tail * 0.48, w * 0.88, deep * tail * 0.8),
    ]
    parts = [part("body", hull_along("y", stations, 6.0), color)]
    front, back = rng.uniform(-0.42, -0.2) * a, rng.uniform(0.45, 0.92) * a
    rake, drop = rng.uniform(0.25, 0.6), rng.uniform(0.05, 0.6)
    side = [(front - rake, waist - 0.03), (front + 0.1, high), (back - drop, high)]
    side += [(back, waist - 0.03)]
    parts += _cabin(side, w, color)
    track, width = w / 2 - 0.1, rng.uniform(0.18, 0.26)
    for y in (-a * rng.uniform(0.6, 0.68), a * rng.uniform(0.55, 0.68)):
        for s in (-1, 1):
            parts += _wheel("wheel", s * track, y, radius, width, hub)
    for s in (-1, 1):
        lamp = ellipsoid((0.14, 0.06, 0.09), 10)
        z = clear + deep * nose * 0.6
        parts.append(part("headlight", lamp.moved(s * w * 0.32, -a * 0.985, z), (250, 245, 215)))
        z = clear + deep * tail * 0.65
        parts.append(part("tail light", lamp.moved(s * w * 0.34, a * 0.985, z), (190, 30, 30)))
    return parts


def _cabin(side: list[tuple[float, float]], w: float, color: Color) -> list[Part]:
    """Return glass that fills a side view (y, z) and a roof plate on it."""
    outline = np.array(side)
    glass = side_prism(outline, -w * 0.44, w * 0.44)
    (_, _), (y1, top), (y2, _), _ = side
    roof = box((-w * 0.43, y1 - 0.06, top - 0.05), (w * 0.43, y2 + 0.06, top + 0.05), (0.95, 0.96))
    middle = (y1 + y2) / 2
    low = side[0][1]
    pillar = box((-w * 0.452, middle - 0.05, low), (w * 0.452, middle + 0.05, top))
    return [
        part("windows", glass, palette.GLASS),
        part("roof", roof, color),
        part("pillar", pillar, color),
    ]


def truck(rng: Rng) -> list[Part]:
    """Draw a lorry: cab, box or open bed or tank, wheels."""
    w, radius = rng.uniform(1.9, 2.4), rng.uniform(0.38, 0.5)
    cab, load = rng.uniform(1.4, 2.0), rng.uniform(2.6, 5.0)
    high, floor = rng.uniform(2.0, 2.7), radius * 1.5
    color, hub, cargo = palette.paint(rng), palette.metal(rng), palette.paint(rng)
    front = -(cab + load) / 2
    frame = box((-w * 0.3, front + 0.2, floor - 0.25), (w * 0.3, -front, floor))
    parts = [part("frame", frame, palette.BLACK)]
    body = box((-w / 2, front, floor - 0.2), (w / 2, front + cab, high), (0.95, 0.92))
    parts.append(part("cab", body, color))
    glass = box((-w * 0.42, front + 0.02, high * 0.62), (w * 0.42, front + 0.3, high * 0.88))
    parts.append(part("windscreen", glass, palette.GLASS))
    window = box(
        (-w * 0.51, front + cab * 0.35, high * 0.62), (w * 0.51, front + cab * 0.75, high * 0.85)
    )
    parts.append(part("window", window, palette.GLASS))
    bumper = box((-w * 0.5, front - 0.1, floor - 0.3), (w * 0.5, front + 0.1, floor - 0.05))
    parts.append(part("bumper", bumper, hub))
    parts += _cargo(rng, w, front + cab + 0.15, -front, floor, cargo)
    places = [front + cab * 0.55, -front - radius * 1.4]
    if load > 3.6:
        places.append(-front - radius * 3.7)
    for y in places:
        for s in (-1, 1):
            parts += _wheel("wheel", s * (w / 2 - 0.18), y, radius, 0.34, hub)
    return parts


def _cargo(rng: Rng, w: float, begin: float, end: float, floor: float, color: Color) -> list[Part]:
    style = rng.integers(3)
    high = floor + rng.uniform(1.2, 2.2)
    if style == 0:
        return [part("box", box((-w / 2, begin, floor), (w / 2, end, high)), color)]
    if style == 1:
        radius = w * 0.45
        tank = [(0, 0), (radius * 0.8, 0), (radius, 0.2), (radius, end - begin - 0.2)]
        tank += [(radius * 0.8, end - begin), (0, end - begin)]
        solid = lathe(tank).turned("x", -np.pi / 2).moved(y=begin, z=floor + radius * 0.95)
        return [part("tank", solid, color)]
    wall, up = 0.08, floor + rng.uniform(0.4, 0.8)
    plates = [
        box((-w / 2, begin, floor), (w / 2, end, floor + 0.12)),
        box((-w / 2, begin, floor + 0.05), (-w / 2 + wall, end, up)),
        box((w / 2 - wall, begin, floor + 0.05), (w / 2, end, up)),
        box((-w / 2 + 0.01, begin - 0.01, floor + 0.05), (w / 2 - 0.01, begin + wall, up * 1.1)),
        box((-w / 2 + 0.01, end - wall, floor + 0.05), (w / 2 - 0.01, end + 0.01, up)),
    ]
    parts = [part("bed", plate, color) for plate in plates]
    if rng.random() < 0.6:
        heap = ellipsoid((w * 0.4, (end - begin) * 0.42, (up - floor) * 1.2))
        load = palette.either(rng, palette.stone(rng), palette.wood(rng), palette.leaf(rng))
        parts.append(part("load", heap.moved(0, (begin + end) / 2, floor + 0.15), load))
    return parts


def plane(rng: Rng) -> list[Part]:
    """Draw an aeroplane: fuselage, wings, tail, jets or a propeller."""
    length, radius = rng.uniform(6, 10), rng.uniform(0.5, 0.8)
    color, accent = palette.either(rng, palette.WHITE, palette.paint(rng)), palette.paint(rng)
    a, d = length / 2, 2 * radius
    stations = [(-a, 0, -0.1 * d, 0.2 * d, 0.2 * d), (-a * 0.9, 0, -0.05 * d, 0.65 * d, 0.65 * d)]
    stations += [(-a * 0.72, 0, 0, d, d), (a * 0.35, 0, 0, d, d)]
    stations += [(a * 0.8, 0, 0.15 * d, 0.5 * d, 0.55 * d), (a, 0, 0.25 * d, 0.15 * d, 0.2 * d)]
    parts = [part("fuselage", hull_along("y", stations, 2.2), color)]
    nose = ellipsoid((radius * 0.6, a * 0.22, radius * 0.45)).moved(0, -a * 0.72, radius * 0.62)
    parts.append(part("cockpit", nose, palette.GLASS))
    span, chord = length * rng.uniform(0.38, 0.55), rng.uniform(0.16, 0.26) * length
    sweep, rise = rng.uniform(0.0, 0.6) * span, rng.uniform(-0.05, 0.15) * span
    at, level = rng.uniform(-0.25, 0.1) * a, rng.choice([-0.5, 0.0, 0.7]) * radius
    parts += _wing("wing", (at, level, span, chord, sweep, rise), 0.14, accent)
    tail = (a * 0.85, 0.3 * d, span * 0.38, chord * 0.55, sweep * 0.3, 0.0)
    parts += _wing("tailplane", tail, 0.12, accent)
    fin_y, tall = a * 0.82, rng.uniform(0.12, 0.2) * length
    outline = [(fin_y - chord * 0.35, 0.1 * d), (fin_y + chord * 0.3, 0.1 * d)]
    outline += [(fin_y + chord * 0.5, tall + 0.2 * d), (fin_y + chord * 0.15, tall + 0.2 * d)]
    parts.append(part("fin", side_prism(outline, -0.05 * d, 0.05 * d), accent))
    if rng.random() < 0.5:
        return parts + _propeller(rng, -a, radius)
    jet = [(0, 0.15), (0.3, 0), (0.38, 0.1), (0.36, 0.9), (0.22, 1.3), (0, 1.3)]
    for s in (-1, 1):
        for share in (0.38, 0.68)[: int(rng.integers(1, 3))]:
            solid = lathe(jet, 16).scaled(*(3 * [chord * 0.55])).turned("x", -np.pi / 2)
            y, z = at + sweep * share - chord * 0.45, level + rise * share - chord * 0.25
            parts.append(part("engine", solid.moved(s * span * share, y, z), palette.metal(rng)))
    return parts


def _wing(
    name: str, shape: tuple[float, float, float, float, float, float], thick: float, color: Color
) -> list[Part]:
    """Return a pair; ``shape`` is (y, z, span, chord, sweep, rise) of one side."""
    y, z, span, chord, sweep, rise = shape
    stations = [(0.0, y, z, chord, chord * thick)]
    stations.append((span, y + sweep, z + rise, chord * 0.4, chord * 0.5 * thick))
    half = hull_along("x", stations, 2.5)
    return [part(name, half, color), part(name, mirrored(half, "x"), color)]


def _propeller(rng: Rng, at: float, radius: float) -> list[Part]:
    blades, long = int(rng.integers(2, 5)), radius * rng.uniform(1.3, 1.8)
    spinner = ellipsoid((radius * 0.25, radius * 0.5, radius * 0.25), 12).moved(
        0, at, -0.2 * radius
    )
    parts = [part("spinner", spinner, palette.metal(rng))]
    turn = rng.uniform(0, np.pi)
    for i in range(blades):
        blade = box(
            (-0.1 * radius, -0.04 * radius, 0), (0.1 * radius, 0.04 * radius, long), (0.6, 1)
        )
        solid = blade.turned("y", turn + 2 * np.pi * i / blades)
        parts.append(part("blade", solid.moved(0, at - 0.2 * radius, -0.2 * radius), palette.BLACK))
    return parts


def boat(rng: Rng) -> list[Part]:
    """Draw a boat: hull, deck, and sails or a cabin."""
    length, w, deep = rng.uniform(4, 8), rng.uniform(1.3, 2.4), rng.uniform(0.8, 1.4)
    a, color = length / 2, palette.paint(rng)
    stations = [
        (-a, 0, deep * 0.9, 0.1 * w, 0.35 * deep),
        (-a * 0.8, 0, deep * 0.68, 0.45 * w, 0.8 * deep),
    ]
    stations += [(-a * 0.35, 0, deep * 0.54, 0.92 * w, deep), (a * 0.3, 0, deep * 0.5, w, deep)]
    stations += [
        (a * 0.9, 0, deep * 0.58, 0.75 * w, 0.82 * deep),
        (a, 0, deep * 0.62, 0.65 * w, 0.7 * deep),
    ]
    parts = [part("hull", hull_along("y", stations, 3.0), color)]
    deck = [(y, x, z + h * 0.46, b * 0.9, deep * 0.12) for y, x, z, b, h in stations]
    parts.append(part("deck", hull_along("y", deck, 5.0), palette.wood(rng)))
    if rng.random() < 0.55:
        return parts + _sails(rng, a, deep)
    tall = rng.uniform(0.6, 1.1)
    y, long = rng.uniform(-0.1, 0.2) * a, length * rng.uniform(0.2, 0.35)
    house = centered_box((0, y, deep + tall / 2), (w * 0.6, long, tall), (0.9, 0.9))
    parts.append(part("cabin", house, palette.WHITE))
    band = centered_box((0, y, deep + tall * 0.65), (w * 0.6, long * 0.96, tall * 0.25))
    parts.append(part("windows", band, palette.GLASS))
    roof = centered_box((0, y, deep + tall), (w * 0.64, long * 1.1, 0.1))
    parts.append(part("roof", roof, color))
    if rng.random() < 0.6:
        funnel = cylinder(w * 0.12, tall * 0.9, w * 0.1).moved(0, y + long * 0.2, deep + tall)
        parts.append(part("funnel", funnel, palette.paint(rng)))
    return parts


def _sails(rng: Rng, a: float, deep: float) -> list[Part]:
    tall, y = a * rng.uniform(1.5, 2.2), rng.uniform(-0.25, 0.0) * a
    wooden, cloth = palette.wood(rng), palette.either(rng, palette.WHITE, palette.cloth(rng))
    foot = deep * 0.8
    parts = [part("mast", tube([(0, y, foot), (0, y, foot + tall)], [0.09, 0.05]), wooden)]
    boom = tube([(0, y, foot + 0.45), (0, a * 0.75, foot + 0.4)], 0.05)
    parts.append(part("boom", boom, wooden))
    main = [(y + 0.1, foot + 0.5), (a * 0.7, foot + 0.5), (y + 0.1, foot + tall * 0.95)]
    jib = [(y - 0.12, foot + 0.4), (-a * 0.9, foot + 0.3), (y - 0.12, foot + tall * 0.8)]
    for name, outline in (("sail", main), ("jib", jib)):
        parts.append(part(name, side_prism(outline, -0.035, 0.035), cloth))
    return parts


def rocket(rng: Rng) -> list[Part]:
    """Draw a rocket: body, nose, fins, window, nozzle."""
    radius, long = rng.uniform(0.4, 0.7), rng.uniform(2.0, 3.6)
    color, accent = palette.either(rng, palette.WHITE, palette.paint(rng)), palette.paint(rng)
    body = [(0, 0), (radius * 0.8, 0), (radius, long * 0.3), (radius, long * 0.7)]
    body += [(radius * 0.85, long), (0, long)]
    t = np.linspace(0, 1, 8)
    tip = rng.uniform(0.7, 1.4)
    nose = np.stack([radius * 0.85 * np.sqrt(np.clip(1 - t**2, 0, 1)), tip * t], -1)
    nose = np.concatenate([[[0.0, 0.0]], nose])
    nose[-1, 0] = 0.0
    parts = [part("body", lathe(body), color), part("nose", lathe(nose).moved(z=long), accent)]
    nozzle = cylinder(radius * 0.6, 0.3, radius * 0.4).moved(z=-0.25)
    parts.append(part("nozzle", nozzle, palette.metal(rng)))
    count, reach = int(rng.integers(3, 5)), rng.uniform(0.5, 1.0)
    drop = rng.uniform(0.1, 0.5)
    outline = [(radius * 0.7, long * 0.35), (radius * 0.7, 0.05), (radius + reach, -drop)]
    outline += [(radius + reach, long * 0.12)]
    fin = front_prism(outline, -0.05, 0.05)
    for i in range(count):
        parts.append(part("fin", fin.turned("z", 2 * np.pi * i / count), accent))
    for i in range(int(rng.integers(1, 3))):
        ring = cylinder(radius * 0.3, 0.16).turned("x", np.pi / 2)
        ring = ring.moved(0, -radius + 0.1, long * (0.78 - 0.25 * i))
        parts.append(part("window", ring, palette.GLASS))
    return parts


def train(rng: Rng) -> list[Part]:
    """Draw a steam engine: boiler, cab, chimney, wheels."""
    long, radius = rng.uniform(2.4, 3.6), rng.uniform(0.45, 0.65)
    color, accent = palette.paint(rng), palette.paint(rng)
    wheel = rng.uniform(0.3, 0.42)
    floor, w = wheel * 1.25, radius * 2.2
    frame = box((-w * 0.42, -long / 2, floor - 0.12), (w * 0.42, long / 2 + 0.9, floor + 0.1))
    parts = [part("frame", frame, palette.BLACK)]
    boiler = [(0, 0), (radius * 0.9, 0), (radius, 0.1), (radius, long), (0, long)]
    solid = lathe(boiler).turned("x", -np.pi / 2).moved(0, -long / 2, floor + radius)
    parts.append(part("boiler", solid, color))
    tall = floor + 2 * radius + rng.uniform(0.2, 0.6)
    cab = box((-w / 2, long / 2 - 0.05, floor), (w / 2, long / 2 + 0.9, tall))
    window = box((-w * 0.52, long / 2 + 0.2, tall - 0.6), (w * 0.52, long / 2 + 0.65, tall - 0.2))
    roof = box((-w * 0.56, long / 2 - 0.15, tall), (w * 0.56, long / 2 + 1.0, tall + 0.1))
    parts += [part("cab", cab, color), part("window", window, palette.GLASS)]
    parts.append(part("roof", roof, palette.darker(color)))
    stack = [(0, 0), (0.14, 0), (0.12, 0.35), (rng.uniform(0.15, 0.28), 0.6), (0, 0.6)]
    parts.append(
        part(
            "chimney", lathe(stack, 16).moved(0, -long * 0.36, floor + 1.9 * radius), palette.BLACK
        )
    )
    dome = ellipsoid((0.2, 0.2, 0.28), 14).moved(
        0, rng.uniform(-0.1, 0.2) * long, floor + 1.95 * radius
    )
    parts.append(part("dome", dome, palette.metal(rng)))
    plough = box((-w * 0.4, -long / 2 - 0.3, 0.1), (w * 0.4, -long / 2 + 0.05, floor), (0.9, 0.3))
    parts.append(part("plough", plough, accent))
    for y in np.linspace(-long * 0.36, long / 2 + 0.5, int(rng.integers(3, 5))):
        for s in (-1, 1):
            parts += _wheel("wheel", s * w * 0.46, float(y), wheel, 0.16, accent)
    return parts
