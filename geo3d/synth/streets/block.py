"""What stands along 20 m of a made-up street.

Path coordinates as in `geo3d.synth.streets.path`; ``side`` is +1 to the right and -1 to the left,
and distances from the middle of the road (``out``) are counted outwards on that side.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from geo3d.layout.layout import Primitive, box, ellipsoid, slab
from geo3d.synth.streets.path import BLOCK, Path

CURB = 0.12
"""Metres by which sidewalks rise above the road."""
_COLOURS = ("white", "black", "silver", "grey", "blue", "red", "dark green")
_SIDE_STREET = 45.0
_SIDE_HALF_WIDTH = 3.0


@dataclass(frozen=True)
class Section:
    """The street's cross-section in metres from the middle of the road; the same all along."""

    road: float = 3.4
    """Half of the road's width."""
    parking: tuple[float, float] = (2.2, 2.2)
    """Width of the parking bays on the left and on the right; 0 for none."""
    sidewalk: float = 2.2
    garden: float = 4.0
    """From the sidewalk to the houses."""
    depth: float = 32.0
    """How far the ground reaches from the middle of the road."""

    def curb(self, side: int) -> float:
        """Where the sidewalk begins."""
        return self.road + self.parking[side > 0]

    def front(self, side: int) -> float:
        """Where the gardens begin."""
        return self.curb(side) + self.sidewalk


@dataclass
class Block:
    """One block while it is furnished."""

    path: Path
    section: Section
    number: int
    random: np.random.Generator
    prefix: str = ""
    made: list[Primitive] = field(default_factory=list)
    end: float = 0.0
    """s where the street ends; the last block may be shorter."""

    @property
    def start(self) -> float:
        """s where the block begins."""
        return self.number * BLOCK

    def id(self, name: str) -> str:
        """Return a new id: block, class, number."""
        return f"{self.prefix}{self.number:04d}-{name.replace(' ', '_')}-{len(self.made):03d}"

    def stands(
        self, name: str, s: float, u: float, size: tuple[float, float, float], **more
    ) -> None:
        """Add a box that stands at (s, u); ``size`` is across, up, along the path."""
        up, yaw, style = more.get("up", 0.0), more.get("yaw", 0.0), more.get("style", "")
        centre = self.path.point(s, u, up + size[1] / 2)
        heading = self.path.heading(s) + yaw
        self.made.append(box(self.id(name), name, centre, size, heading, style))

    def grows(self, s: float, u: float, size: tuple[float, float, float], up: float = 0.0) -> None:
        """Add a ball of leaves whose lowest point is ``up`` metres above the road."""
        centre = self.path.point(s, u, up + size[1] / 2)
        yaw = float(self.random.uniform(0, np.pi))
        self.made.append(ellipsoid(self.id("vegetation"), "vegetation", centre, size, yaw))

    def strip(
        self, name: str, span: tuple[float, float], u: tuple[float, float], up: float
    ) -> None:
        """Add a slab along the path between two distances from its middle."""
        if span[1] - span[0] < 0.05:
            return
        pieces = 5 if self.path.kind == "curved" else 2
        s = np.linspace(span[0], span[1], pieces)
        left, right = self.path.points(s, min(u), up), self.path.points(s, max(u), up)
        self.made.append(slab(self.id(name), name, left, right))

    def chance(self, probability: float) -> bool:
        """Return true with this probability."""
        return bool(self.random.random() < probability)

    def between(self, low: float, high: float) -> float:
        """Draw uniformly; ``low`` where a short piece of street leaves no room up to ``high``."""
        return float(self.random.uniform(low, max(low, high)))


def furnish(block: Block) -> None:
    """Fill a block: the ground, then what stands on it, from the road outwards."""
    block.strip("road", (block.start, block.end), (-block.section.road, block.section.road), 0.0)
    middle = block.path.crossing(block.number)
    if middle is not None and middle + 9.0 > block.end:
        middle = None
    for side in (-1, 1):
        if middle is None:
            spans = [(block.start, block.end)]
        else:
            spans = [(block.start, middle - 4.5), (middle + 4.5, block.end)]
            _side_street(block, middle, side)
        for span in spans:
            _ground(block, span, side)
            _parked(block, span, side)
            _garden(block, span, side)
            _furniture(block, span, side)
        if middle is None:
            _houses(block, side)
        _behind(block, side, middle)
    _traffic(block)


def _ground(block: Block, span: tuple[float, float], side: int) -> None:
    section = block.section
    road, curb, front = section.road, section.curb(side), section.front(side)
    if curb > road:
        block.strip("parking", span, (side * road, side * curb), 0.0)
    block.strip("sidewalk", span, (side * curb, side * front), CURB)
    block.strip("terrain", span, (side * front, side * section.depth), CURB)


def _side_street(block: Block, middle: float, side: int) -> None:
    section = block.section
    span = (middle - _SIDE_HALF_WIDTH, middle + _SIDE_HALF_WIDTH)
    block.strip("road", span, (side * section.road, side * _SIDE_STREET), 0.0)
    for low, high in ((middle - 4.5, span[0]), (span[1], middle + 4.5)):
        block.strip("sidewalk", (low, high), (side * section.curb(side), side * _SIDE_STREET), CURB)
        block.strip("road", (low, high), (side * section.road, side * section.curb(side)), 0.0)
    if block.chance(0.7):
        u = side * (section.curb(side) + 0.5)
        s = middle - side * 4.0
        block.stands("pole", s, u, (0.12, 2.4, 0.12), up=CURB)
        block.stands("traffic sign", s - 0.15, u, (0.7, 0.7, 0.06), up=CURB + 1.9)
    if block.chance(0.6):
        out = block.between(section.front(side) + 4, _SIDE_STREET - 4)
        _vehicle(block, middle - side * 1.5, side * out, yaw=side * np.pi / 2)


def _parked(block: Block, span: tuple[float, float], side: int) -> None:
    width = block.section.parking[side > 0]
    if width == 0:
        return
    s = span[0] + block.between(0.3, 3.0)
    while s + 5.6 < span[1]:
        if block.chance(0.55):
            u = side * (block.section.road + width / 2) + block.between(-0.12, 0.12)
            _vehicle(block, s + 2.7, u, yaw=0.0 if side > 0 else np.pi)
        s += 5.9


def _vehicle(block: Block, s: float, u: float, yaw: float, moving: bool = False) -> None:
    yaw += block.between(-0.04, 0.04)
    if block.chance(0.05 if moving else 0.03):
        size = (2.3, block.between(2.6, 3.2), block.between(5.0, 5.5))
        name = "truck"
    else:
        size = (block.between(1.75, 2.0), block.between(1.4, 1.85), block.between(3.9, 4.9))
        name = "car"
    style = str(block.random.choice(_COLOURS))
    block.stands(name, s, u, size, up=0.02, yaw=yaw, style=style)


def _traffic(block: Block) -> None:
    """Put a car on the oncoming lane now and then; the lane of the camera stays free."""
    if block.chance(0.22):
        s = block.start + block.between(4.0, max(4.1, block.end - block.start - 4))
        _vehicle(block, s, -block.section.road / 2, yaw=np.pi, moving=True)


def _garden(block: Block, span: tuple[float, float], side: int) -> None:
    """Close the garden towards the sidewalk, and plant it."""
    front, length = block.section.front(side), span[1] - span[0]
    s = span[0]
    while s < span[1] - 1.0:
        piece = min(block.between(3.5, 7.0), span[1] - s)
        middle, u = s + piece / 2, side * (front + 0.25)
        choice = block.random.random()
        if choice < 0.3:
            height = block.between(0.7, 1.6)
            block.stands("wall", middle, u, (0.3, height, piece - 0.1), up=CURB)
        elif choice < 0.42:
            height = block.between(0.9, 1.5)
            block.stands("fence", middle, u, (0.1, height, piece - 0.1), up=CURB)
        elif choice < 0.66:
            height = block.between(0.8, 1.9)
            block.stands("vegetation", middle, u, (0.5, height, piece - 0.2), up=CURB)
        elif choice < 0.76:
            block.stands("gate", middle, u, (0.1, block.between(1.0, 1.7), piece - 0.5), up=CURB)
        s += piece
    for _ in range(int(block.random.poisson(length * 0.12))):
        size = block.between(0.7, 2.2)
        u = side * (front + block.between(1.2, block.section.garden - 0.8))
        shape = (size, size * block.between(0.6, 1.0), size)
        block.grows(block.between(span[0] + 1, max(span[1] - 1, span[0] + 1.1)), u, shape, CURB)


def _houses(block: Block, side: int) -> None:
    """Put one house into the block, and sometimes a garage beside it."""
    length = block.end - block.start
    if length < 12 or block.chance(0.06):
        return
    inner = block.section.front(side) + block.section.garden + block.between(0.0, 2.0)
    wide = block.between(9.0, min(14.0, length - 5.5))
    deep, high = block.between(8.0, 11.0), block.between(5.5, 10.5)
    room = length - wide
    s = block.start + wide / 2 + block.between(0.4, max(0.5, room - 4.6))
    size = (deep, high, wide)
    block.stands("building", s, side * (inner + deep / 2), size, up=CURB - 0.2)
    free = block.end - (s + wide / 2)
    # on the inner side of a bend there is less room behind than in front
    bend = (block.path.heading(block.end) - block.path.heading(block.start)) / length
    if free > 4.2 and bend * side < 1e-3 and block.chance(0.6):
        at = s + wide / 2 + free / 2
        block.stands("garage", at, side * (inner + 4.0), (6.0, 2.7, 3.2), up=CURB - 0.1)


def _furniture(block: Block, span: tuple[float, float], side: int) -> None:
    """Put trees, lamps, poles, signs, bins and people on the sidewalk."""
    curb, front = block.section.curb(side), block.section.front(side)
    if span[1] - span[0] < 3:
        return
    edge = side * (curb + 0.35)
    if block.number % 2 == (side > 0):
        _lamp(block, span[0] + 1.0, edge, side)
    elif block.chance(0.35):
        block.stands("pole", span[0] + 1.2, edge, (0.18, block.between(3.5, 7.5), 0.18), up=CURB)
    if block.chance(0.22):
        s = block.between(span[0] + 1.8, span[1] - 1)
        block.stands("smallpole", s, edge, (0.1, 2.3, 0.1), up=CURB)
        block.stands("traffic sign", s - 0.1, edge, (0.6, 0.6, 0.05), up=CURB + 1.7)
    if block.chance(0.45):
        _tree(block, block.between(span[0] + 2.5, span[1] - 0.6), edge)
    for name, chance, size in (
        ("trash bin", 0.35, (0.6, 1.05, 0.6)),
        ("box", 0.15, (0.5, 1.2, 0.9)),
    ):
        if block.chance(chance):
            s = block.between(span[0] + 0.5, span[1] - 0.5)
            block.stands(name, s, side * (front - 0.4), size, up=CURB, yaw=block.between(-0.2, 0.2))
    if block.chance(0.18):
        s, u = block.between(span[0] + 0.5, span[1] - 0.5), side * (curb + front) / 2
        size = (0.55, block.between(1.5, 1.9), 0.45)
        block.stands("person", s, u, size, up=CURB, yaw=block.between(-3.0, 3.0))
    if block.chance(0.05):
        s, u = block.between(span[0] + 1, span[1] - 1), side * (front - 0.35)
        block.stands("bicycle", s, u, (0.5, 1.1, 1.7), up=CURB)


def _lamp(block: Block, s: float, u: float, side: int) -> None:
    height = block.between(5.5, 7.5)
    block.stands("pole", s, u, (0.16, height, 0.16), up=CURB)
    block.stands("lamp", s, u - side * 0.7, (1.2, 0.22, 0.35), up=CURB + height - 0.1)


def _tree(block: Block, s: float, u: float) -> None:
    """Add a trunk and a crown; both are vegetation, as in the samples."""
    trunk, crown = block.between(1.8, 2.8), block.between(2.4, 4.2)
    block.stands("vegetation", s, u, (0.3, trunk + 0.5, 0.3), up=CURB)
    block.grows(s, u, (crown, crown * block.between(0.9, 1.3), crown), CURB + trunk)


def _behind(block: Block, side: int, crossing: float | None) -> None:
    """Plant trees behind the houses, where the ground ends."""
    inner = block.section.front(side) + block.section.garden + 14.0
    for _ in range(int(block.random.poisson(1.2))):
        s = block.between(block.start, block.end)
        if crossing is not None and abs(s - crossing) < 9:
            continue
        size = block.between(4.0, 7.5)
        out = block.between(inner + size / 2, max(block.section.depth - 1, inner + size / 2 + 0.1))
        block.grows(s, side * out, (size, size * block.between(0.9, 1.4), size), CURB + 0.3)
