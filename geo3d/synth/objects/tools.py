"""Things for hands and tables: hammer, spoon, key, guitar, mushroom, snowman."""

from __future__ import annotations

import numpy as np

from geo3d.synth.objects import palette
from geo3d.synth.objects.palette import Rng
from geo3d.synth.objects.solids import (
    Part,
    box,
    centered_box,
    cylinder,
    ellipsoid,
    front_prism,
    lathe,
    loft,
    part,
    torus,
    tube,
)


def hammer(rng: Rng) -> list[Part]:
    """Draw a hammer standing on its grip: handle, head with face and claw."""
    long, thick = rng.uniform(0.8, 1.3), rng.uniform(0.04, 0.065)
    grip, head = palette.either(rng, palette.wood(rng), palette.paint(rng)), palette.metal(rng)
    t = np.linspace(0, 1, 9)
    path = np.stack([0 * t, 0 * t, long * t], -1)
    handle = tube(path, list(thick * (1.1 - 0.3 * t))).scaled(1, 0.75, 1)
    size, half = rng.uniform(0.07, 0.12), rng.uniform(0.14, 0.24)
    block = centered_box((0, 0, long), (half * 1.2, size * 1.5, size * 1.6))
    face = cylinder(size * 0.85, half * 0.9).turned("y", np.pi / 2).moved(half * 0.4, 0, long)
    parts = [part("handle", handle, grip), part("head", block, head), part("face", face, head)]
    if rng.random() < 0.6:
        for s in (-1, 1):
            claw = [(-half * 0.4, s * size * 0.2, long), (-half, s * size * 0.35, long - 0.02)]
            claw.append((-half * 1.6, s * size * 0.5, long - 0.12))
            parts.append(part("claw", tube(claw, [size * 0.45, size * 0.38, size * 0.22]), head))
    else:
        wedge = [(-half * 0.3, size), (-half * 1.6, 0.1 * size), (-half * 1.6, -0.1 * size)]
        solid = front_prism([*wedge, (-half * 0.3, -size)], -size * 0.7, size * 0.7)
        parts.append(part("wedge", solid.moved(z=long), head))
    if rng.random() < 0.5:
        sleeve = cylinder(thick * 1.25, long * 0.4, thick * 1.15).scaled(1, 0.8, 1)
        parts.append(part("grip", sleeve, palette.paint(rng)))
    return parts


def spoon(rng: Rng) -> list[Part]:
    """Draw a spoon, ladle or paddle lying on the table."""
    long, color = rng.uniform(0.7, 1.2), palette.either(rng, palette.metal(rng), palette.wood(rng))
    wide, deep = rng.uniform(0.13, 0.24), rng.uniform(0.05, 0.13)
    t = np.linspace(0.15, 1, 8)
    outer = np.stack([t, deep * t**2], -1)
    inner = outer[::-1] * [0.85, 1.0] + [0, 0.03]
    profile = np.concatenate([[(0, 0)], outer, inner, [(0, 0.035 + deep * 0.01)]])
    blade = lathe(profile, 20).scaled(wide, wide * rng.uniform(1.2, 1.7), 1.0)
    s = np.linspace(0, 1, 10)
    lift = rng.uniform(0.05, 0.25)
    path = np.stack([0 * s, wide * 1.1 + long * s, deep + lift * np.sin(np.pi * s * 0.7)], -1)
    handle = tube(path, list(0.03 + 0.015 * s)).scaled(1.3, 1, 1)
    end = ellipsoid((0.07, 0.1, 0.035), 12).moved(*path[-1])
    return [
        part("bowl", blade, color),
        part("handle", handle, color),
        part("end", end, palette.darker(color, 0.8)),
    ]


def key(rng: Rng) -> list[Part]:
    """Draw a key standing on its bit: bow, shaft, collar, teeth."""
    long, thick = rng.uniform(0.8, 1.2), rng.uniform(0.045, 0.07)
    color = palette.metal(rng)
    parts = [part("shaft", cylinder(thick, long), color)]
    radius, rings = rng.uniform(0.16, 0.26), int(rng.choice([1, 1, 2, 3]))
    for i in range(rings):
        angle = np.pi / 2 + (i - (rings - 1) / 2) * 1.6
        away = radius if rings == 1 else radius * 1.25
        ring = torus(radius if rings == 1 else radius * 0.75, thick * 0.9).turned("x", np.pi / 2)
        ring = ring.moved(np.cos(angle) * away, 0, long + np.sin(angle) * away)
        parts.append(part("bow", ring, color))
    collar = lathe([(0, 0), (thick * 1.7, 0.02), (thick * 1.7, 0.07), (0, 0.09)], 16)
    parts.append(part("collar", collar.moved(z=long * 0.85), palette.darker(color, 0.8)))
    reach = rng.uniform(0.18, 0.3)
    for i in range(int(rng.integers(2, 5))):
        low = 0.04 + 0.11 * i
        tooth = box(
            (0, -thick * 0.6, low), (reach * rng.uniform(0.6, 1.0), thick * 0.6, low + 0.08)
        )
        parts.append(part("tooth", tooth, color))
    return parts


def guitar(rng: Rng) -> list[Part]:
    """Draw a guitar standing upright: body of two bouts, neck, head, strings, hole."""
    color, neck = palette.either(rng, palette.wood(rng), palette.paint(rng)), palette.wood(rng)
    low, high = rng.uniform(0.26, 0.34), rng.uniform(0.18, 0.26)
    waist, deep = rng.uniform(0.12, 0.18), rng.uniform(0.07, 0.16)
    z = np.array([0, 0.04, 0.2, 0.36, 0.5, 0.64, 0.76, 0.8])
    half = np.array([0.12, low * 0.8, low, waist + 0.03, waist, high, high * 0.8, 0.08])
    fine = np.linspace(0, 0.8, 17)
    side = np.interp(fine, z, half)
    # sections one above the other: the outline is not seen whole from its middle
    corners = np.array([[-1, -deep / 2], [1, -deep / 2], [1, deep / 2], [-1, deep / 2]])
    rings = np.empty((17, 4, 3))
    rings[..., 0], rings[..., 1] = side[:, None] * corners[:, 0], corners[:, 1]
    rings[..., 2] = fine[:, None]
    parts = [part("body", loft(rings), color)]
    long = rng.uniform(0.6, 0.85)
    front = -deep / 2
    board = box((-0.04, front - 0.03, 0.55), (0.04, front + 0.03, 0.8 + long))
    parts.append(part("neck", board, neck))
    head = box((-0.05, front - 0.02, 0.8 + long), (0.05, front + 0.03, 1.0 + long), (1.3, 1.0))
    parts.append(part("head", head, palette.darker(color, 0.7)))
    hole = cylinder(0.09, 0.02).turned("x", np.pi / 2).moved(0, front + 0.005, 0.5)
    parts.append(part("hole", hole, palette.BLACK))
    bridge = centered_box((0, front - 0.01, 0.22), (0.2, 0.04, 0.04))
    parts.append(part("bridge", bridge, palette.BLACK))
    for s in (-1, 1):
        for i in range(3):
            peg = ellipsoid((0.035, 0.02, 0.02), 8).moved(s * 0.085, front, 0.84 + long + 0.055 * i)
            parts.append(part("peg", peg, palette.metal(rng)))
    return parts


def mushroom(rng: Rng) -> list[Part]:
    """Draw one to three mushrooms with spots."""
    cap, stem = (
        palette.either(rng, palette.hsv(0.0, 0.8, 0.8), palette.wood(rng), palette.paint(rng)),
        palette.WHITE,
    )
    parts: list[Part] = []
    for i in range(int(rng.integers(1, 4))):
        scale = 1.0 if i == 0 else rng.uniform(0.4, 0.7)
        high, radius = scale * rng.uniform(0.5, 0.9), scale * rng.uniform(0.35, 0.55)
        tall = scale * rng.uniform(0.25, 0.5)
        angle = rng.uniform(0, 2 * np.pi)
        x, y = (0.0, 0.0) if i == 0 else (0.6 * np.cos(angle), 0.6 * np.sin(angle))
        foot = [
            (0, 0),
            (0.16 * scale, 0),
            (0.1 * scale, high * 0.5),
            (0.11 * scale, high),
            (0, high),
        ]
        parts.append(part("stem", lathe(foot, 16).moved(x, y), stem))
        t = np.linspace(0, np.pi / 2, 8)
        dome = np.stack([radius * np.cos(t), tall * np.sin(t)], -1)
        dome[-1, 0] = 0.0
        profile = np.concatenate([[(0, 0.02), (radius * 0.9, -0.03 * scale)], dome])
        parts.append(part("cap", lathe(profile).moved(x, y, high - 0.05 * scale), cap))
        for _ in range(int(rng.integers(0, 8))):
            a, b = rng.uniform(0, 2 * np.pi), rng.uniform(0.3, 1.3)
            place = (
                radius * np.cos(b) * np.cos(a),
                radius * np.cos(b) * np.sin(a),
                tall * np.sin(b),
            )
            spot = ellipsoid((0.07 * scale,) * 3, 8).moved(*place).moved(x, y, high - 0.06 * scale)
            parts.append(part("spot", spot, palette.WHITE))
    return parts


def snowman(rng: Rng) -> list[Part]:
    """Draw a snowman: balls, hat, nose, eyes, arms, scarf."""
    sizes = [rng.uniform(0.45, 0.6), rng.uniform(0.32, 0.42), rng.uniform(0.22, 0.3)]
    parts, z = [], 0.0
    for i, radius in enumerate(sizes):
        z += radius * (0.9 if i == 0 else 0.85)
        parts.append(part("ball", ellipsoid((radius,) * 3, 20).moved(z=z), (240, 243, 248)))
        z += radius * 0.85 if i < 2 else 0.0
    head, r = z, sizes[2]
    scarf = torus(r * 0.75, r * 0.22).moved(z=head - r * 0.8)
    parts.append(part("scarf", scarf, palette.paint(rng)))
    hat, tall = palette.either(rng, palette.BLACK, palette.paint(rng)), rng.uniform(0.8, 1.5) * r
    parts.append(part("brim", cylinder(r * 1.15, 0.05).moved(z=head + r * 0.7), hat))
    parts.append(part("hat", cylinder(r * 0.75, tall).moved(z=head + r * 0.72), hat))
    nose = cylinder(0.06, rng.uniform(0.2, 0.4), 0.01, 10).turned("x", np.pi / 2)
    parts.append(part("nose", nose.moved(0, -r * 0.9, head), (235, 130, 40)))
    for s in (-1, 1):
        eye = ellipsoid((0.04,) * 3, 8).moved(s * r * 0.35, -r * 0.88, head + r * 0.3)
        parts.append(part("eye", eye, palette.BLACK))
        level = head - r - sizes[1] * 0.6
        reach = sizes[1] + rng.uniform(0.25, 0.5)
        arm = [(s * sizes[1] * 0.8, 0, level), (s * reach, 0, level + rng.uniform(-0.1, 0.4))]
        parts.append(part("arm", tube(arm, 0.03, 8), palette.wood(rng)))
    return parts
