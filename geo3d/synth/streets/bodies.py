"""What stands inside the primitives: cars with cabins and wheels, houses with roofs, rough crowns.

A layout's primitives are coarse: boxes and ellipsoids.  The painter draws finer bodies, each wholly
inside its primitive, so that maps, intervals and edits of the layout hold for the images too.

Notation: frame coordinates (l, h, w) of `geo3d.synth.streets.frames`; every face has a `Part`,
which decides its material.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import IntEnum
from itertools import pairwise
from typing import NamedTuple
from zlib import crc32

import numpy as np
from jaxtyping import Float, Int

from geo3d.layout.layout import BALL_FACES, BALL_VERTICES, CUBE_FACES, Primitive
from geo3d.synth.streets.frames import Frame, frame_of
from geo3d.synth.streets.patterns import hashed

Span = tuple[float, float]


class Part(IntEnum):
    """What a face of a body is."""

    PLAIN = 0
    CABIN = 1
    WHEEL = 2
    ROOF = 3
    HEAD = 4
    LEGS = 5
    SIGN = 6


class Body(NamedTuple):
    """A body in frame coordinates, or in the world."""

    vertices: Float[np.ndarray, "v 3"]
    faces: Int[np.ndarray, "f 3"]
    parts: Int[np.ndarray, " f"]


def key_of(primitive: Primitive) -> int:
    """Return the number from which everything random about a primitive is drawn: it depends on
    the id alone, so that an edit of one thing leaves all others as they look."""
    return crc32(primitive.id.encode())


def body_of(primitive: Primitive) -> tuple[Body, Frame]:
    """Return the body of a primitive in the world, and the frame it was made in."""
    frame = frame_of(primitive)
    maker = _maker(primitive)
    if maker is None:
        faces = primitive.faces.astype(np.int64)
        return Body(primitive.world_vertices(), faces, np.zeros(len(faces), np.int64)), frame
    made = maker(frame.size, key_of(primitive))
    points = made.vertices @ frame.to_world[:3, :3].T + frame.to_world[:3, 3]
    return Body(points, made.faces, made.parts), frame


Maker = Callable[[np.ndarray, int], Body]


def _maker(primitive: Primitive) -> Maker | None:
    if primitive.kind == "ellipsoid":
        return _crown if primitive.name == "vegetation" else None
    if primitive.kind != "box":
        return None
    if primitive.name == "building" and "modern" in primitive.style.lower().split():
        return None
    return _MAKERS.get(primitive.name)


def block(
    along: Span, h: Span, w: Span, top: tuple[Span, Span] | None = None, part: Part = Part.PLAIN
) -> Body:
    """Return a box, or a frustum whose upper side spans ``top`` = (l, w)."""
    top_l, top_w = top or (along, w)
    corners = [
        ((top_l if j else along)[i], h[j], (top_w if j else w)[k])
        for i in (0, 1)
        for j in (0, 1)
        for k in (0, 1)
    ]
    return _body(np.array(corners, np.float64), CUBE_FACES, part)


def prism(profile: Sequence[Span], w: Span, part: Part = Part.PLAIN) -> Body:
    """Return a convex outline in (l, h), extended across the width."""
    n = len(profile)
    sides = [np.column_stack([np.asarray(profile, np.float64), np.full(n, at)]) for at in w]
    a = np.arange(n)
    b = (a + 1) % n
    walls = np.concatenate([np.stack([a, b, b + n], 1), np.stack([a, b + n, a + n], 1)])
    fan = np.stack([np.zeros(n - 2, np.int64), a[1:-1], a[2:]], axis=1)
    return _body(np.concatenate(sides), np.concatenate([walls, fan, fan + n]), part)


def joined(*bodies: Body) -> Body:
    """Return several bodies as one."""
    counts = np.array([len(body.vertices) for body in bodies])
    starts = np.cumsum(counts) - counts
    return Body(
        np.concatenate([body.vertices for body in bodies]),
        np.concatenate([body.faces + start for body, start in zip(bodies, starts, strict=True)]),
        np.concatenate([body.parts for body in bodies]),
    )


def _body(vertices: np.ndarray, faces: np.ndarray, part: Part) -> Body:
    return Body(vertices, faces.astype(np.int64), np.full(len(faces), int(part), np.int64))


def _draw(key: int, salt: int) -> float:
    return float(hashed(key, salt))


def _wheels(size: np.ndarray, at: Sequence[float], radius: float) -> Body:
    """Return pairs of wheels of ``radius`` metres at places along l."""
    turns = np.linspace(0, 2 * np.pi, 15)[:-1]
    along, up = radius / size[0], radius / size[1]
    made = []
    for centre in at:
        outline = np.stack([centre + along * np.cos(turns), up + up * np.sin(turns)], axis=1)
        for side in (-1, 1):
            near, far = side * (0.5 - 0.02), side * (0.5 - 0.22 / size[2])
            made.append(prism([tuple(p) for p in outline], (near, far), Part.WHEEL))
    return joined(*made)


_BODY_WIDTH = (-0.47, 0.47)


class CarShape(NamedTuple):
    """The cabin of a car, heights and lengths in frame coordinates."""

    belt: float
    """Height at which the glass begins."""
    foot: Span
    """Where it begins and ends there, along l."""
    roof: Span
    """And at the height of the lid."""


LID = 0.95
"""Height at which a car's glass ends."""
AXLES = (-0.31, 0.31)
_CABINS: dict[str, tuple[float, Span, Span]] = {
    "hatch": (0.56, (-0.475, 0.235), (-0.396, 0.044)),
    "saloon": (0.56, (-0.34, 0.23), (-0.21, 0.044)),
    "estate": (0.56, (-0.485, 0.235), (-0.434, 0.044)),
    "van": (0.52, (-0.488, 0.36), (-0.467, 0.21)),
}


def car_shape(size: Float[np.ndarray, " 3"], key: int) -> CarShape:
    """Return the shape of a car's cabin: a hatchback, a saloon, an estate or a van."""
    kind = "van" if size[1] > 0.41 * size[0] else ("hatch", "saloon", "estate")[key % 3]
    return CarShape(*_CABINS[kind])


def wheel_radius(size: Float[np.ndarray, " 3"]) -> float:
    """Return the radius of a car's wheels in metres."""
    return float(min(0.34, 0.22 * size[1]))


def _car(size: np.ndarray, key: int) -> Body:
    belt, foot, roof = car_shape(size, key)
    bonnet, nose = (0.54, 0.46) if belt > 0.54 else (0.46, 0.44)
    lower = prism(
        [
            (-0.47, 0.15), (0.46, 0.15), (0.497, 0.22), (0.49, nose - 0.04), (0.44, nose),
            (0.24, bonnet), (0.10, belt), (-0.46, belt), (-0.492, belt - 0.08), (-0.497, 0.22),
        ],
        _BODY_WIDTH,
    )  # fmt: skip
    side = (-0.385, 0.385)
    glass = block(foot, (belt - 0.02, LID), (-0.455, 0.455), (roof, side), Part.CABIN)
    inner = ((roof[0] + 0.03, roof[1] - 0.03), (-0.32, 0.32))
    lid = block(roof, (LID, 1.0), side, inner)
    return joined(lower, glass, lid, _wheels(size, AXLES, wheel_radius(size)))


def _truck(size: np.ndarray, key: int) -> Body:
    """Return a lorry: a cab and a box behind it."""
    cab = block(
        (0.26, 0.497), (0.18, 0.80), (-0.46, 0.46), ((0.26, 0.46), (-0.44, 0.44)), Part.CABIN
    )
    load = block((-0.5, 0.23), (0.26, 1.0), (-0.5, 0.5), part=Part.ROOF)
    frame = block((-0.48, 0.44), (0.16, 0.27), (-0.38, 0.38))
    return joined(cab, load, frame, _wheels(size, (-0.33, 0.33), min(0.48, 0.2 * size[1])))


def _bus(size: np.ndarray, key: int) -> Body:
    cabin = block(
        (-0.5, 0.5), (0.1, 1.0), (-0.49, 0.49), ((-0.49, 0.485), (-0.46, 0.46)), Part.CABIN
    )
    return joined(cabin, _wheels(size, (-0.3, 0.33), min(0.48, 0.2 * size[1])))


def eaves_of(size: Float[np.ndarray, " 3"], key: int) -> float:
    """Return the height, in frame coordinates, at which a house's roof begins; 1: it is flat."""
    length, height, width = size
    if min(length, width) < 2.5 or height < 3.0 or _draw(key, 41) < 0.12 or height > 14:
        return 1.0
    return float(1 - (0.45 + min(0.36 * width, 0.38 * height, 4.0)) / height)


def _house(size: np.ndarray, key: int) -> Body:
    """Return walls under a gable, a hip or a flat roof."""
    length, height, width = size
    eaves, ridge = eaves_of(size, key), 1 - 0.45 / height
    if eaves == 1.0:
        return block((-0.5, 0.5), (0.0, 1.0), (-0.5, 0.5))
    over_l, over_w = 0.3 / length, 0.35 / width
    inner = (-0.5 + over_l, 0.5 - over_l), (-0.5 + over_w, 0.5 - over_w)
    walls = block(inner[0], (0.0, eaves + 0.02), inner[1])
    hip = 0.0 if _draw(key, 42) < 0.7 else min(0.45, 0.5 * width / length)
    top = ((-0.5 + hip, 0.5 - hip), (-0.005, 0.005))
    thick = 0.12 / height
    board = block((-0.5, 0.5), (eaves - thick, eaves), (-0.5, 0.5), part=Part.ROOF)
    roof = block((-0.5, 0.5), (eaves, ridge), (-0.5, 0.5), top, Part.ROOF)
    at, half = (_draw(key, 43) - 0.5) * 0.5, (0.3 / length, 0.3 / width)
    off = 0.12 if _draw(key, 44) < 0.5 else -0.12
    chimney = block((at - half[0], at + half[0]), (eaves, 1.0), (off - half[1], off + half[1]))
    return joined(walls, board, roof, chimney)


def _person(size: np.ndarray, key: int) -> Body:
    step = 0.1 * (_draw(key, 45) - 0.3)
    legs = [
        block(
            (-0.16 + s * step, 0.16 + s * step), (0.0, 0.48), (s * 0.06, s * 0.26), part=Part.LEGS
        )
        for s in (-1, 1)
    ]
    torso = block((-0.22, 0.22), (0.46, 0.83), (-0.3, 0.3), ((-0.2, 0.2), (-0.36, 0.36)))
    arms = [block((-0.14, 0.14), (0.42, 0.8), (s * 0.36, s * 0.5)) for s in (-1, 1)]
    ball = BALL_VERTICES * (0.42, 0.15, 0.40) + (0.0, 0.92, 0.0)
    head = _body(ball, BALL_FACES, Part.HEAD)
    return joined(*legs, torso, *arms, head)


def _bicycle(size: np.ndarray, key: int) -> Body:
    radius = min(0.34, 0.21 * size[0])
    along, up = radius / size[0], radius / size[1]
    turns = np.linspace(0, 2 * np.pi, 13)
    rims = []
    for centre in (-0.5 + along, 0.5 - along):
        for a, b in pairwise(turns):
            arc = [(r, t) for r, t in ((0.84, a), (1.0, a), (1.0, b), (0.84, b))]
            outline = [(centre + r * along * np.cos(t), up + r * up * np.sin(t)) for r, t in arc]
            rims.append(prism(outline, (-0.05, 0.05), Part.WHEEL))
    bars = [
        prism([(-0.28, 0.32), (-0.06, 0.32), (-0.06, 0.36), (-0.28, 0.36)], (-0.04, 0.04)),
        prism([(-0.1, 0.3), (-0.06, 0.3), (-0.12, 0.84), (-0.16, 0.84)], (-0.04, 0.04)),
        prism([(-0.08, 0.32), (0.24, 0.74), (0.22, 0.78), (-0.1, 0.36)], (-0.04, 0.04)),
        prism([(-0.13, 0.70), (0.24, 0.72), (0.24, 0.77), (-0.13, 0.75)], (-0.04, 0.04)),
        prism([(0.29, 0.32), (0.31, 0.34), (0.23, 0.95), (0.2, 0.95)], (-0.04, 0.04)),
        block((0.17, 0.25), (0.94, 0.99), (-0.45, 0.45)),
        block((-0.22, -0.08), (0.82, 0.87), (-0.12, 0.12), part=Part.WHEEL),
    ]
    return joined(*rims, *bars)


def _post(size: np.ndarray, key: int) -> Body:
    """Return an eight-sided post; thin boxes only."""
    if max(size[0], size[2]) > 1.0:
        return block((-0.5, 0.5), (0.0, 1.0), (-0.5, 0.5))
    turns = np.linspace(0, 2 * np.pi, 9)[:-1] + np.pi / 8
    outline = 0.5 * np.stack([np.cos(turns), np.sin(turns)], axis=1)
    upright = prism([tuple(p) for p in outline], (0.0, 1.0))
    return Body(upright.vertices[:, [0, 2, 1]], upright.faces, upright.parts)


def _sign(size: np.ndarray, key: int) -> Body:
    """Return a disc, a triangle or a square, by the key; the material follows the same rule."""
    corners, turn = ((20, 0.0), (3, np.pi / 2), (4, np.pi / 4), (20, 0.0))[key % 4]
    turns = np.linspace(0, 2 * np.pi, corners + 1)[:-1] + turn
    outline = np.stack([0.5 * np.cos(turns), 0.5 + 0.5 * np.sin(turns)], axis=1)
    return prism([tuple(p) for p in outline], (-0.5, 0.5), Part.SIGN)


def _bin(size: np.ndarray, key: int) -> Body:
    trunk = block((-0.4, 0.4), (0.06, 0.88), (-0.4, 0.4), ((-0.47, 0.47), (-0.47, 0.47)))
    lid = block((-0.5, 0.5), (0.88, 0.93), (-0.5, 0.5), ((-0.42, 0.42), (-0.35, 0.5)), Part.ROOF)
    top = block((-0.42, 0.42), (0.93, 1.0), (-0.35, 0.45), ((-0.36, 0.36), (-0.2, 0.4)), Part.ROOF)
    feet = block((-0.35, 0.35), (0.0, 0.06), (-0.45, -0.2), part=Part.WHEEL)
    return joined(trunk, lid, top, feet)


_INNER = 0.465
"""Radius of the ball that an icosahedron subdivided once, of radius 1/2, holds."""


def _crown(size: np.ndarray, key: int) -> Body:
    """Return balls of leaves inside an ellipsoid."""
    count = 5 if size.max() < 1.5 else 12
    turn = 2 * np.pi * _draw(key, 46)
    parts = [_body(BALL_VERTICES * 0.74 + (0.0, 0.5, 0.0), BALL_FACES, Part.PLAIN)]
    for i in range(count):
        # evenly over the sphere (a Fibonacci lattice), then each a little aside
        up = 1 - 2 * (i + 0.5) / count
        angle = turn + 2.39996 * i + 0.5 * _draw(key, 50 + 2 * i)
        radius = 0.17 + 0.10 * _draw(key, 51 + 2 * i)
        flat = np.sqrt(1 - up * up)
        way = np.array([flat * np.cos(angle), up, flat * np.sin(angle)])
        middle = (_INNER - radius) * way + (0.0, 0.5, 0.0)
        parts.append(_body(BALL_VERTICES * 2 * radius + middle, BALL_FACES, Part.PLAIN))
    return joined(*parts)


_MAKERS: dict[str, Maker] = {
    "car": _car,
    "van": _car,
    "truck": _truck,
    "trailer": _truck,
    "bus": _bus,
    "caravan": _bus,
    "building": _house,
    "person": _person,
    "rider": _person,
    "bicycle": _bicycle,
    "motorcycle": _bicycle,
    "motorbike": _bicycle,
    "pole": _post,
    "smallpole": _post,
    "traffic sign": _sign,
    "trash bin": _bin,
}
