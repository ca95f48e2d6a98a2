"""Vessels: cup, vase, bottle, bowl, teapot.  Hollow ones have an inner and an outer wall."""

from __future__ import annotations

import numpy as np

from geo3d.synth.objects import palette
from geo3d.synth.objects.palette import Color, Rng
from geo3d.synth.objects.solids import Part, Solid, cylinder, ellipsoid, lathe, part, torus, tube

_SIDES = 28


def _hollow(outer: np.ndarray, wall: float) -> np.ndarray:
    """Return the closed profile of a vessel whose outer profile (radius, z) rises from the foot."""
    inner = outer[outer[:, 0] > 2.5 * wall] - [wall, 0]
    inner = inner[inner[:, 1] > outer[0, 1] + wall]
    floor = outer[0, 1] + wall
    bottom = [[0.0, floor], [inner[0, 0] * 0.9, floor]]
    return np.concatenate([[[0.0, outer[0, 1]]], outer, inner[::-1], bottom[::-1]])


def _banded(solid: Solid, rng: Rng, base: Color) -> np.ndarray:
    """Return vertex colours: one glaze with bands or a dipped half in another."""
    z = solid.vertices[:, 2]
    share = (z - z.min()) / np.ptp(z)
    style, other = rng.integers(3), palette.ceramic(rng)
    if style == 0:
        inside = np.zeros(len(z), bool)
    elif style == 1:
        middle, half = rng.uniform(0.3, 0.8), rng.uniform(0.06, 0.15)
        inside = np.abs(share - middle) < half
    else:
        inside = share > rng.uniform(0.4, 0.7)
    return np.where(inside[:, None], other, base)


def _handle(x: float, z: float, reach: float, tall: float, radius: float) -> Solid:
    """Return half a ring standing on the wall at x, in the plane y = 0."""
    angle = np.linspace(-np.pi / 2, np.pi / 2, 13)
    path = np.stack([x + reach * np.cos(angle), 0 * angle, z + tall / 2 * np.sin(angle)], -1)
    return tube(path, radius)


def cup(rng: Rng) -> list[Part]:
    """Draw a cup or mug with a handle, sometimes on a saucer, sometimes full."""
    low, top, high = rng.uniform(0.25, 0.4), rng.uniform(0.36, 0.52), rng.uniform(0.5, 1.0)
    wall, power = rng.uniform(0.035, 0.05), rng.uniform(0.5, 1.2)
    t = np.linspace(0, 1, 14)
    outer = np.stack([low + (top - low) * t**power, high * t], -1)
    body, color = lathe(_hollow(outer, wall), _SIDES), palette.ceramic(rng)
    parts = [part("cup", body, _banded(body, rng, color))]
    middle = low + (top - low) * 0.5**power
    handle = _handle(
        middle - 0.05, high * 0.52, rng.uniform(0.22, 0.34), high * rng.uniform(0.5, 0.7), 0.045
    )
    parts.append(part("handle", handle, color))
    if rng.random() < 0.5:
        level = rng.uniform(0.7, 0.88)
        radius = low + (top - low) * level**power - wall * 0.8
        drink = cylinder(radius, 0.04).moved(z=high * level)
        parts.append(part("drink", drink, palette.either(rng, (70, 40, 25), (180, 110, 40))))
    if rng.random() < 0.35:
        plate = [
            (0, -0.08),
            (low, -0.08),
            (low * 2.3, 0.04),
            (low * 2.25, 0.08),
            (low, -0.02),
            (0, -0.02),
        ]
        parts.append(part("saucer", lathe(plate, _SIDES), color))
    return parts


def vase(rng: Rng) -> list[Part]:
    """Draw a vase: a smooth random profile, hollow, sometimes with two handles."""
    high, wall = rng.uniform(0.8, 1.5), 0.035
    knots = np.array([rng.uniform(0.15, 0.3), rng.uniform(0.25, 0.5), rng.uniform(0.25, 0.55),
                      rng.uniform(0.12, 0.3), rng.uniform(0.16, 0.38)])  # fmt: skip
    t = np.linspace(0, 1, 24)
    outer = np.stack([_smooth(knots, t), high * t], -1)
    body, color = lathe(_hollow(outer, wall), _SIDES), palette.ceramic(rng)
    parts = [part("vase", body, _banded(body, rng, color))]
    if rng.random() < 0.3:
        radius = float(_smooth(knots, np.array([0.65]))[0])
        handle = _handle(radius - 0.06, high * 0.65, rng.uniform(0.14, 0.25), high * 0.35, 0.04)
        parts += [part("handle", handle.turned("z", angle), color) for angle in (0.0, np.pi)]
    if rng.random() < 0.35:
        parts += _flowers(rng, high)
    return parts


def _smooth(knots: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Interpolate evenly spaced values by cosine easing."""
    place = np.clip(t, 0, 1) * (len(knots) - 1)
    i = np.minimum(place.astype(int), len(knots) - 2)
    ease = (1 - np.cos(np.pi * (place - i))) / 2
    return knots[i] * (1 - ease) + knots[i + 1] * ease


def _flowers(rng: Rng, high: float) -> list[Part]:
    parts = []
    for _ in range(int(rng.integers(2, 6))):
        angle, reach = rng.uniform(0, 2 * np.pi), rng.uniform(0.05, 0.35)
        end = np.array(
            [np.cos(angle) * reach, np.sin(angle) * reach, high + rng.uniform(0.25, 0.55)]
        )
        stem = tube([(0, 0, 0.1), (*(end[:2] * 0.2), high), end], 0.022, 8)
        head = ellipsoid((0.12, 0.12, 0.09), 12).moved(*end)
        parts += [part("stem", stem, (70, 120, 50)), part("flower", head, palette.paint(rng))]
    return parts


def bottle(rng: Rng) -> list[Part]:
    """Draw a bottle: body, shoulder, neck, cap, label."""
    radius, high = rng.uniform(0.2, 0.32), rng.uniform(0.6, 1.0)
    neck, tall = radius * rng.uniform(0.3, 0.5), rng.uniform(0.15, 0.45)
    shoulder = rng.uniform(0.1, 0.35)
    t = np.linspace(0, 1, 8)
    ease = (1 - np.cos(np.pi * t)) / 2
    side = np.stack([radius + (neck - radius) * ease, high + shoulder * t], -1)
    end = high + shoulder + tall
    profile = np.concatenate(
        [[(0, 0), (radius * 0.9, 0), (radius, 0.05)], side, [(neck, end), (0, end)]]
    )
    glass = palette.either(
        rng, palette.hsv(rng.uniform(0.2, 0.45), 0.6, 0.45), palette.paint(rng), palette.GLASS
    )
    parts = [part("bottle", lathe(profile, _SIDES), glass)]
    low = rng.uniform(0.1, 0.3) * high
    label = cylinder(radius * 1.03, high * rng.uniform(0.4, 0.65), sides=_SIDES).moved(z=low)
    parts.append(part("label", label, palette.either(rng, palette.WHITE, palette.paint(rng))))
    cap = cylinder(neck * 1.2, 0.1).moved(z=end - 0.03)
    parts.append(part("cap", cap, palette.either(rng, palette.metal(rng), palette.paint(rng))))
    return parts


def bowl(rng: Rng) -> list[Part]:
    """Draw a bowl on a foot, often with fruit."""
    radius, high, wall = rng.uniform(0.5, 0.75), rng.uniform(0.3, 0.6), 0.04
    t = np.linspace(0.25, 1, 12)
    power = rng.uniform(1.5, 3.0)
    outer = np.stack([radius * t, 0.06 + high * (t**power - t[0] ** power)], -1)
    body, color = (
        lathe(_hollow(outer, wall), _SIDES),
        palette.either(rng, palette.ceramic(rng), palette.wood(rng)),
    )
    foot = cylinder(radius * 0.36, 0.09, radius * 0.28)
    parts = [
        part("bowl", body, _banded(body, rng, color)),
        part("foot", foot, palette.darker(color, 0.8)),
    ]
    for i in range(int(rng.integers(0, 6))):
        size, angle = rng.uniform(0.13, 0.2), 1.2 * i + rng.uniform(0, 0.5)
        reach = 0.0 if i == 0 else radius * 0.42
        place = (reach * np.cos(angle), reach * np.sin(angle), high * 0.55 + rng.uniform(0.0, 0.1))
        fruit = ellipsoid((size, size, size * rng.uniform(0.85, 1.1)), 14).moved(*place)
        parts.append(part("fruit", fruit, palette.paint(rng)))
    return parts


def teapot(rng: Rng) -> list[Part]:
    """Draw a teapot: belly, lid, knob, spout, handle."""
    radius, squash, color = rng.uniform(0.4, 0.5), rng.uniform(0.7, 1.05), palette.ceramic(rng)
    belly = ellipsoid((radius, radius, radius * squash), _SIDES).moved(z=radius * squash * 0.92)
    top = radius * squash * 1.78
    lid = lathe([(0, 0), (radius * 0.5, 0), (radius * 0.42, 0.07), (0.05, 0.12), (0, 0.12)], 20)
    accent = palette.either(rng, color, palette.darker(color, 0.7), palette.ceramic(rng))
    parts = [
        part("belly", belly, _banded(belly, rng, color)),
        part("lid", lid.moved(z=top), accent),
    ]
    parts.append(part("knob", ellipsoid((0.06, 0.06, 0.06), 12).moved(z=top + 0.15), accent))
    rise, reach = rng.uniform(0.35, 0.6), rng.uniform(0.3, 0.5)
    t = np.linspace(0, 1, 9)
    low = radius * squash * 0.8
    path = np.stack([-radius * 0.75 - reach * t, 0 * t, low + rise * t**1.6], -1)
    parts.append(part("spout", tube(path, list(0.12 - 0.06 * t)), color))
    handle = _handle(radius * 0.85, radius * squash, rng.uniform(0.25, 0.4), radius * squash, 0.045)
    parts.append(part("handle", handle, accent))
    foot = torus(radius * 0.45, 0.035, 20, 8).moved(z=0.03)
    parts.append(part("foot", foot, accent))
    return parts
