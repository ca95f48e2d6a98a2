"""Furniture: chair, stool, table, shelf, cabinet, lamp, bed, sofa.

The front looks to -y; lengths in metres.
"""

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
    tube,
)


def chair(rng: Rng) -> list[Part]:
    """Draw a chair: four legs, seat, back of a board or slats, sometimes arms."""
    w, d = rng.uniform(0.4, 0.58), rng.uniform(0.4, 0.55)
    seat, thick, back = rng.uniform(0.38, 0.52), rng.uniform(0.03, 0.09), rng.uniform(0.35, 0.7)
    frame = palette.either(rng, palette.wood(rng), palette.wood(rng), palette.metal(rng))
    soft = palette.either(rng, palette.cloth(rng), frame, palette.paint(rng))
    leg = rng.uniform(0.035, 0.06)
    parts = _legs(rng, w, d, seat, leg, frame)
    parts.append(part("seat", box((-w / 2, -d / 2, seat), (w / 2, d / 2, seat + thick)), soft))
    lean = rng.uniform(0.0, 0.2)
    top = seat + thick + back
    for piece in _back(rng, w, back, leg):
        solid = piece.turned("x", -lean).moved(y=d / 2 - leg / 2, z=seat + thick * 0.6)
        parts.append(part("back", solid, frame if len(parts) % 2 else soft))
    if rng.random() < 0.3:
        high = rng.uniform(0.16, 0.26)
        for side in (-1, 1):
            x = side * (w / 2 - leg / 2)
            post = centered_box((x, -d / 3, seat + high / 2), (leg, leg, high + thick))
            rest = centered_box((x, 0.02, seat + high + thick), (leg * 1.5, d * 0.95, leg * 0.8))
            parts += [part("arm", post, frame), part("arm", rest, frame)]
    if rng.random() < 0.2:
        head = ellipsoid((w * 0.3, 0.05, 0.08)).moved(y=d / 2 + np.sin(lean) * back, z=top)
        parts.append(part("headrest", head, soft))
    return parts


def _back(rng: Rng, w: float, back: float, leg: float) -> list[Solid]:
    style = rng.integers(3)
    thick = leg * 0.8
    if style == 0:
        return [centered_box((0, 0, back / 2), (w * 0.96, thick, back), (rng.uniform(0.75, 1), 1))]
    posts = [centered_box((s * (w - leg) / 2, 0, back / 2), (leg, leg, back)) for s in (-1, 1)]
    if style == 1:
        count = int(rng.integers(2, 5))
        heights = np.linspace(0.3, 0.93, count) * back
        high = 0.45 * back / count
        return posts + [centered_box((0, 0, z), (w - leg, thick * 0.7, high)) for z in heights]
    count = int(rng.integers(3, 6))
    places = np.linspace(-0.33, 0.33, count) * w
    slats = [centered_box((x, 0, back / 2), (leg * 0.6, thick * 0.6, back * 0.95)) for x in places]
    return [*posts, *slats, centered_box((0, 0, back * 0.95), (w * 0.98, thick * 1.2, back * 0.12))]


def _legs(rng: Rng, w: float, d: float, high: float, leg: float, color: Color) -> list[Part]:
    """Return four legs under a plate of w by d, square or round, spread or straight."""
    spread = rng.uniform(0.0, 0.06) * rng.integers(2)
    is_round = rng.random() < 0.4
    parts = []
    for sx in (-1, 1):
        for sy in (-1, 1):
            top = np.array([sx * (w / 2 - leg * 0.7), sy * (d / 2 - leg * 0.7), high + 0.01])
            foot = top + np.array([sx * spread, sy * spread, -high - 0.01])
            if is_round:
                solid = tube([foot, top], [leg * 0.4, leg * 0.55])
            else:
                solid = centered_box((0, 0, high / 2), (leg, leg, high + 0.01))
                solid = Solid(_sheared(solid.vertices, foot, top, high), solid.faces)
            parts.append(part("leg", solid, color))
    return parts


def _sheared(points: np.ndarray, foot: np.ndarray, top: np.ndarray, high: float) -> np.ndarray:
    share = points[:, 2:] / high
    return (
        points * np.array([1, 1, 1]) + (1 - share) * (foot * [1, 1, 0]) + share * (top * [1, 1, 0])
    )


def stool(rng: Rng) -> list[Part]:
    """Draw a stool: round seat on three or four legs, with a ring or bars."""
    radius, high = rng.uniform(0.16, 0.24), rng.uniform(0.35, 0.8)
    thick, count = rng.uniform(0.03, 0.08), int(rng.integers(3, 5))
    color, seat = palette.either(rng, palette.wood(rng), palette.metal(rng)), palette.paint(rng)
    profile = [(0, 0), (radius * 0.9, 0), (radius, thick * 0.4), (radius * 0.9, thick), (0, thick)]
    parts = [part("seat", lathe(profile).moved(z=high), seat)]
    spread, leg = rng.uniform(0.7, 1.15) * radius, rng.uniform(0.018, 0.03)
    for i in range(count):
        angle = 2 * np.pi * (i + 0.5) / count
        way = np.array([np.cos(angle), np.sin(angle), 0])
        path = [way * spread, way * radius * 0.6 + [0, 0, high + thick * 0.3]]
        parts.append(part("leg", tube(path, leg), color))
    corners = [2 * np.pi * (i + 0.5) / count for i in range(count + 1)]
    level, share = 0.3 * high, 0.7 * spread + 0.3 * radius * 0.6
    points = [np.array([np.cos(a) * share, np.sin(a) * share, level]) for a in corners]
    for a, b in pairwise(points):
        parts.append(part("bar", tube([a, b], leg * 0.7, 8), color))
    return parts


def table(rng: Rng) -> list[Part]:
    """Draw a table: rectangular on four legs, or round on one column."""
    high, thick = rng.uniform(0.45, 0.85), rng.uniform(0.03, 0.07)
    top_color = palette.either(rng, palette.wood(rng), palette.stone(rng), palette.paint(rng))
    color = palette.either(rng, palette.wood(rng), palette.metal(rng), palette.darker(top_color))
    if rng.random() < 0.35:
        radius = rng.uniform(0.35, 0.65)
        foot, column = radius * rng.uniform(0.4, 0.65), rng.uniform(0.04, 0.09)
        profile = [(0, 0), (foot, 0), (foot, 0.03), (column * 1.3, 0.09), (column, high * 0.6)]
        profile += [(column * 1.5, high + 0.01), (0, high + 0.01)]
        plate = cylinder(radius, thick, sides=32).moved(z=high)
        return [part("top", plate, top_color), part("column", lathe(profile), color)]
    w, d = rng.uniform(0.7, 1.8), rng.uniform(0.5, 0.9)
    leg = rng.uniform(0.05, 0.1)
    inset = rng.uniform(0.0, 0.08)
    parts = _legs(rng, w - inset, d - inset, high, leg, color)
    parts.append(part("top", box((-w / 2, -d / 2, high), (w / 2, d / 2, high + thick)), top_color))
    if rng.random() < 0.6:
        a, b, apron = w - inset - leg, d - inset - leg, rng.uniform(0.06, 0.12)
        for s in (-1, 1):
            parts.append(
                part(
                    "apron", centered_box((0, s * b / 2, high - apron / 2), (a, 0.03, apron)), color
                )
            )
            parts.append(
                part(
                    "apron", centered_box((s * a / 2, 0, high - apron / 2), (0.03, b, apron)), color
                )
            )
    elif rng.random() < 0.4:
        shelf = centered_box((0, 0, high * 0.25), (w - inset - leg, d - inset - leg, 0.03))
        parts.append(part("shelf", shelf, top_color))
    return parts


def shelf(rng: Rng) -> list[Part]:
    """Draw a bookcase with some books."""
    w, d, high = rng.uniform(0.5, 1.2), rng.uniform(0.22, 0.4), rng.uniform(0.8, 1.9)
    board, count = rng.uniform(0.025, 0.05), int(rng.integers(3, 6))
    color = palette.either(rng, palette.wood(rng), palette.wood(rng), palette.paint(rng))
    parts = [
        part("side", centered_box((s * (w - board) / 2, 0, high / 2), (board, d, high)), color)
        for s in (-1, 1)
    ]
    levels = np.linspace(board / 2 + 0.03, high - board / 2, count)
    for z in levels:
        parts.append(part("board", centered_box((0, 0, z), (w - board, d * 0.98, board)), color))
    if rng.random() < 0.6:
        back = centered_box((0, d * 0.47, high / 2), (w - board, 0.02, high * 0.98))
        parts.append(part("back", back, palette.darker(color, 0.8)))
    gap = levels[1] - levels[0] - board
    for z in levels[:-1]:
        x, end = -w / 2 + board * 1.2, w / 2 - board * 1.2
        end = x + (end - x) * rng.uniform(0.0, 0.95)
        while x < end - 0.05:
            wide, tall = rng.uniform(0.05, 0.11), gap * rng.uniform(0.6, 0.92)
            deep = d * rng.uniform(0.55, 0.8)
            low = (x, -d * 0.4, z + board * 0.45)
            book = box(low, (min(x + wide, end), -d * 0.4 + deep, z + board / 2 + tall))
            parts.append(part("book", book, palette.paint(rng)))
            x += wide + 0.004
    return parts


def cabinet(rng: Rng) -> list[Part]:
    """Draw a chest: body on feet, doors or drawers with knobs."""
    w, d, high = rng.uniform(0.5, 1.3), rng.uniform(0.35, 0.55), rng.uniform(0.5, 1.3)
    foot = rng.uniform(0.03, 0.15)
    color, knob = palette.either(rng, palette.wood(rng), palette.cloth(rng)), palette.metal(rng)
    front = palette.either(rng, palette.darker(color, 0.85), palette.paint(rng), palette.wood(rng))
    parts = _legs(rng, w * 0.94, d * 0.9, foot, 0.05, palette.darker(color, 0.7))
    parts.append(part("body", box((-w / 2, -d / 2, foot), (w / 2, d / 2, high)), color))
    plate = box((-w / 2 - 0.02, -d / 2 - 0.02, high), (w / 2 + 0.02, d / 2 + 0.01, high + 0.03))
    parts.append(part("top", plate, palette.darker(color, 0.9)))
    columns, rows = int(rng.integers(1, 4)), int(rng.integers(1, 5))
    wide, tall = (w - 0.04) / columns, (high - foot - 0.04) / rows
    for i in range(columns):
        for j in range(rows):
            x, z = -w / 2 + 0.02 + (i + 0.5) * wide, foot + 0.02 + (j + 0.5) * tall
            panel = centered_box((x, -d / 2, z), (wide - 0.025, 0.03, tall - 0.025))
            handle = ellipsoid((0.02, 0.02, 0.02), 8).moved(x, -d / 2 - 0.03, z)
            parts += [part("front", panel, front), part("knob", handle, knob)]
    return parts


def lamp(rng: Rng) -> list[Part]:
    """Draw a lamp: base, straight or bent pole, shade and bulb."""
    high, base = rng.uniform(0.35, 1.5), rng.uniform(0.1, 0.17)
    pole = rng.uniform(0.012, 0.025) * (1 + high / 2)
    color, shade = palette.metal(rng), palette.either(rng, palette.cloth(rng), palette.paint(rng))
    foot = [(0, 0), (base, 0), (base, 0.02), (base * 0.4, 0.05), (pole * 1.2, 0.08), (0, 0.08)]
    parts = [part("base", lathe(foot), color)]
    wide, narrow = rng.uniform(0.13, 0.24), rng.uniform(0.05, 0.13)
    tall = rng.uniform(0.14, 0.28)
    reach = rng.uniform(0.15, 0.35) if rng.random() < 0.35 else 0.0
    t = np.linspace(0, 1, 13)
    bend = np.clip(t - 0.6, 0, None) / 0.4
    path = np.stack([reach * bend**2, 0 * t, 0.05 + high * (t - 0.12 * (reach > 0) * bend**3)], -1)
    parts.append(part("pole", tube(path, pole), color))
    end = path[-1]
    cone = [(0, tall * 0.8), (narrow * 0.9, tall * 0.8), (wide * 0.93, 0), (wide, 0)]
    cone += [(narrow, tall), (0, tall)]
    parts.append(part("shade", lathe(cone).moved(end[0], 0, end[2] - tall * 0.75), shade))
    bulb = ellipsoid((0.04, 0.04, 0.055), 10).moved(end[0], 0, end[2] - tall * 0.4)
    parts.append(part("bulb", bulb, (255, 244, 200)))
    return parts


def bed(rng: Rng) -> list[Part]:
    """Draw a bed: frame, head and foot board, mattress, blanket, pillows."""
    w, d = rng.uniform(0.9, 1.9), rng.uniform(1.9, 2.2)
    low, thick = rng.uniform(0.2, 0.4), rng.uniform(0.15, 0.28)
    frame, cover = palette.wood(rng), palette.cloth(rng)
    parts = _legs(rng, w, d, low, 0.09, frame)
    parts.append(
        part("frame", box((-w / 2, -d / 2, low - 0.08), (w / 2, d / 2, low + 0.06)), frame)
    )
    inside = w / 2 - 0.03
    mattress = box((-inside, -d / 2 + 0.03, low), (inside, d / 2 - 0.03, low + thick))
    parts.append(part("mattress", mattress, palette.WHITE))
    until = rng.uniform(-0.1, 0.25) * d
    blanket = box(
        (-w / 2 - 0.01, -d / 2 + 0.01, low + 0.07), (w / 2 + 0.01, until, low + thick + 0.05)
    )
    parts.append(part("blanket", blanket, cover))
    head = low + thick + rng.uniform(0.2, 0.6)
    board = box((-w / 2 - 0.02, d / 2, 0.0), (w / 2 + 0.02, d / 2 + 0.06, head))
    parts.append(part("headboard", board, palette.darker(frame, 0.9)))
    if rng.random() < 0.5:
        foot = low + thick * rng.uniform(0.8, 1.6)
        board = box((-w / 2 - 0.02, -d / 2 - 0.05, 0.0), (w / 2 + 0.02, -d / 2, foot))
        parts.append(part("footboard", board, palette.darker(frame, 0.9)))
    pillow = palette.either(rng, palette.WHITE, palette.cloth(rng))
    for x in (0.0,) if w < 1.3 else (-w / 4, w / 4):
        solid = ellipsoid((min(w, 1.3) * 0.3, 0.2, 0.1)).moved(x, d / 2 - 0.3, low + thick + 0.05)
        parts.append(part("pillow", solid, pillow))
    return parts


def sofa(rng: Rng) -> list[Part]:
    """Draw a sofa or armchair: base, cushions, arms, back, feet."""
    seats = int(rng.integers(1, 4))
    w, d = 0.62 * seats * rng.uniform(0.9, 1.1), rng.uniform(0.75, 0.95)
    low, seat = rng.uniform(0.06, 0.14), rng.uniform(0.22, 0.3)
    arm, back = rng.uniform(0.12, 0.22), rng.uniform(0.35, 0.55)
    color = palette.cloth(rng)
    soft = palette.either(rng, color, palette.darker(color, 0.8), palette.cloth(rng))
    parts = _legs(rng, w + arm, d * 0.95, low, 0.05, palette.wood(rng))
    parts.append(part("base", box((-w / 2, -d / 2, low), (w / 2, d / 2, low + seat * 0.6)), color))
    rest = box((-w / 2, d / 2 - 0.2, low), (w / 2, d / 2, low + seat + back), (1.0, 0.7))
    parts.append(part("back", rest, color))
    high = low + seat + rng.uniform(0.08, 0.25)
    for s in (-1, 1):
        x = s * (w / 2 + arm / 2)
        solid = centered_box((x, 0, (low + high) / 2), (arm * 1.02, d * 1.01, high - low))
        parts.append(part("arm", solid, color))
        if rng.random() < 0.5:
            roll = cylinder(arm * 0.62, d * 1.03).turned("x", np.pi / 2).moved(x, d * 0.515, high)
            parts.append(part("arm", roll, color))
    each = w / seats
    for i in range(seats):
        x = -w / 2 + (i + 0.5) * each
        size = (each * 0.97, d - 0.2, seat * 0.5)
        cushion = centered_box((x, -0.1, low + seat * 0.8), size, (0.97, 0.97))
        parts.append(part("cushion", cushion, soft))
        pad = centered_box((0, 0, back * 0.45), (each * 0.94, 0.14, back * 0.85), (0.96, 0.8))
        pad = pad.turned("x", -0.15).moved(x, d / 2 - 0.24, low + seat)
        parts.append(part("cushion", pad, soft))
    return parts
