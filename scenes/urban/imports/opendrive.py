"""OpenDRIVE roads (``.xodr``): lanes as slabs, objects and signals as simple solids.

Notation: s metres along a road's reference line, t metres to its left, x east, y north, z up;
heading 0 looks along x and grows anticlockwise.  Positions along the line are integrated from its
curvature: exact for lines and arcs, within a millimetre for spirals.  Every lane of a section is a
slab; superelevation, crossfall and shapes of junction surfaces are left out.
Source: ASAM OpenDRIVE 1.4 to 1.8.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np
from jaxtyping import Float

from geo3d.files import slug
from geo3d.layout.layout import Primitive, box, ellipsoid, slab
from scenes.urban.imports.common import (
    FROM_Z_UP,
    Imported,
    MalformedError,
    Names,
    drive_along,
    finished,
    importer,
    metres_in,
    number_in,
    plain,
    read_xml,
    with_ground,
)

LANES = {
    **dict.fromkeys(
        "driving bidirectional entry exit onramp offramp connectingramp stop bus taxi hov mwyentry "
        "mwyexit roadworks special1 special2 special3 shared slipLane".lower().split(),
        "road",
    ),
    **dict.fromkeys(("sidewalk", "walking", "biking"), "sidewalk"),
    "parking": "parking",
    **dict.fromkeys(("shoulder", "border", "curb", "median", "restricted"), "ground"),
    **dict.fromkeys(("tram", "rail"), "rail track"),
    "none": "",
}
OBJECTS = {
    **dict.fromkeys(("building", "gantry"), "building"),
    **dict.fromkeys(("tree", "vegetation", "bush"), "vegetation"),
    **dict.fromkeys(("pole", "streetlamp"), "pole"),
    "barrier": "guard rail",
    "railing": "fence",
    "soundbarrier": "wall",
    "obstacle": "unknown object",
    **dict.fromkeys(("car", "van", "bus", "trailer", "bike", "motorbike", "pedestrian"), ""),
    **dict.fromkeys(
        ("crosswalk", "roadmark", "parkingspace", "patch", "trafficisland", "none"), ""
    ),
}
_STEP, _FINE = 2.0, 0.05
_MANY = 100_000
"""Of one object in a row."""
_RAISED = {"sidewalk": 0.1, "ground": -0.02}


@importer("OpenDRIVE")
def import_opendrive(path: Path, drive: Float[np.ndarray, "n 2"] | None = None) -> Imported:
    """Read the roads of an OpenDRIVE file.

    Args:
        drive: x and y to drive along, in the file's metres; None follows the middle of the
            innermost driving lane of the longest road, as traffic goes there.

    Raises:
        FileFormatError: ``layout_file.bad_import``.
        InputError: ``layout_file.no_drive``.
    """
    root = read_xml(path, "OpenDRIVE")
    names = Names({**LANES, **OBJECTS})
    if root.tag != "OpenDRIVE":
        raise MalformedError(f"it begins with {root.tag}")
    roads = [_Road(element) for element in root.iter("road")]
    roads = [road for road in roads if road.length > 0.1]
    parts = [part for road in roads for part in (*road.lanes(names), *road.things(names))]
    line = np.zeros((0, 3))
    if drive is not None:
        flat = np.asarray(drive, np.float64)
        line = np.column_stack([flat, [_height(roads, at) for at in flat]])
    elif roads:
        candidates = sorted(roads, key=lambda road: -road.length)
        line = next((way for road in candidates if len(way := road.way())), line)
    origin = line[0] if len(line) else np.zeros(3)
    trajectory = drive_along((line - origin) @ FROM_Z_UP.T)
    move = np.eye(4)
    move[:3, 3] = -(FROM_Z_UP @ origin)
    moved = [
        Primitive(p.id, p.name, p.kind, move @ p.transform, p.vertices, p.faces, p.style)
        for p in parts
    ]
    return finished(slug(path.stem), with_ground(moved, trajectory), trajectory, names)


class _Road:
    """A road's reference line and what lies along it."""

    def __init__(self, element: Element) -> None:
        self._element = element
        self.length = metres_in(element, "length")
        self.is_left_hand = element.get("rule", "RHT") == "LHT"
        self._s, self._line, self._heading = _reference(element)
        self._elevation = _cubics(element.findall("elevationProfile/elevation"), "s")
        self._offset = _cubics(element.findall("lanes/laneOffset"), "s")

    def place(self, s: np.ndarray, t: np.ndarray | float, up: float = 0.0) -> np.ndarray:
        """Return points (n, 3) of the file's world."""
        s = np.clip(s, 0, self._s[-1])
        x, y = (np.interp(s, self._s, column) for column in self._line.T)
        heading = np.interp(s, self._s, self._heading)
        z = _value(self._elevation, s) + up
        return np.stack([x - t * np.sin(heading), y + t * np.cos(heading), z], axis=1)

    def heading(self, s: float) -> float:
        """Return the heading of the line in radians."""
        return float(np.interp(s, self._s, self._heading))

    def lanes(self, names: Names) -> Iterator[Primitive]:
        """Yield a slab for each lane of each section."""
        for start, end, section in self._sections():
            s = np.linspace(start, end, max(2, int(np.ceil((end - start) / _STEP)) + 1))
            # a section's own values end just before the next one's begin
            inside = np.clip(s, start, max(start, end - 1e-6))
            for kind, inner, outer in self._edges(section, inside, start):
                name = names.of(kind, "ground")
                if name and np.abs(outer - inner).max() > 0.05:
                    up = _RAISED.get(name, 0.0)
                    left, right = np.maximum(inner, outer), np.minimum(inner, outer)
                    rails = [self.place(s, t, up) @ FROM_Z_UP.T for t in (left, right)]
                    yield slab("", name, *rails)

    def things(self, names: Names) -> Iterator[Primitive]:
        """Yield objects and signals."""
        for item in self._element.findall("objects/object"):
            name = names.of(item.get("type") or item.get("name") or "none")
            if name:
                yield from self._object(item, name)
        for item in self._element.findall("signals/signal"):
            name = "traffic light" if item.get("dynamic") == "yes" else "traffic sign"
            up = number_in(item, "zOffset", 2.0) + number_in(item, "height", 0.7) / 2
            width = number_in(item, "width", 0.6) or 0.6
            height = number_in(item, "height", 0.7) or 0.7
            s, t = number_in(item, "s"), number_in(item, "t")
            centre = FROM_Z_UP @ self.place(np.array([s]), t, up)[0]
            yield box("", name, centre, (width, height, 0.15), self._yaw(s, item))

    def way(self) -> np.ndarray:
        """Return the middle of the innermost driving lane, as traffic goes; nothing without one."""
        points, is_against = [], False
        for start, end, section in self._sections():
            s = np.linspace(start, end, max(2, int(end - start)))
            inside = np.clip(s, start, max(start, end - 1e-6))
            edges = [
                e for e in self._edges(section, inside, start) if LANES.get(plain(e[0])) == "road"
            ]
            mine = [e for e in edges if ((e[2] - e[1]).mean() > 0) == self.is_left_hand]
            if not edges:
                return np.zeros((0, 3))
            is_against = not mine
            inner = (mine or edges)[0]
            points.append(self.place(s, (inner[1] + inner[2]) / 2))
        line = np.concatenate(points) if points else np.zeros((0, 3))
        return line[::-1] if is_against else line

    def _object(self, item: Element, name: str) -> Iterator[Primitive]:
        s, t = number_in(item, "s"), number_in(item, "t")
        radius, height = number_in(item, "radius"), number_in(item, "height") or 2.0
        length = number_in(item, "length") or 2 * radius or 0.5
        width = number_in(item, "width") or 2 * radius or 0.5
        repeats = item.findall("repeat")
        stations = [s]
        if repeats and number_in(repeats[0], "distance") > 0:
            first, step = number_in(repeats[0], "s", s), number_in(repeats[0], "distance")
            length_of_row = metres_in(repeats[0], "length")
            if length_of_row > step * _MANY:
                raise MalformedError(f"it repeats an object every {step:.3g} m")
            stations = [first + k * step for k in range(int(np.ceil(length_of_row / step)))]
        for at in stations or [s]:
            up = number_in(item, "zOffset") + height / 2
            centre = FROM_Z_UP @ self.place(np.array([at]), t, up)[0]
            make = ellipsoid if name == "vegetation" else box
            yield make("", name, centre, (width, height, length), self._yaw(at, item))

    def _yaw(self, s: float, item: Element) -> float:
        # anticlockwise from x becomes a turn from z towards x
        return np.pi / 2 - (
            self.heading(s) + number_in(item, "hdg" if item.get("hdg") else "hOffset")
        )

    def _sections(self) -> Iterator[tuple[float, float, Element]]:
        found = self._element.findall("lanes/laneSection")
        starts = [metres_in(section, "s") for section in found]
        for section, start, end in zip(found, starts, [*starts[1:], self.length], strict=True):
            if end - start > 1e-3:
                yield start, end, section

    def _edges(
        self, section: Element, s: np.ndarray, start: float
    ) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        """Yield the kind of each lane and the t of its inner and outer edge, inner lanes first."""
        for side, sign in (("left", 1.0), ("right", -1.0)):
            edge = _value(self._offset, s)
            lanes = section.findall(f"{side}/lane")
            for lane in sorted(lanes, key=lambda lane: abs(number_in(lane, "id"))):
                widths = _cubics(lane.findall("width"), "sOffset")
                outer = edge + sign * _value(widths, s - start)
                yield lane.get("type", "none"), edge, outer
                edge = outer


def _reference(element: Element) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return s, points (n, 2) and headings along a road's reference line."""
    stations, points, headings = [], [], []
    for piece in element.findall("planView/geometry"):
        start, length = metres_in(piece, "s"), metres_in(piece, "length")
        if length <= 0:
            continue
        at = np.linspace(0, length, max(2, int(np.ceil(length / _FINE)) + 1))
        local, turn = _local(piece, at)
        heading = number_in(piece, "hdg")
        c, s = np.cos(heading), np.sin(heading)
        place = np.array([number_in(piece, "x"), number_in(piece, "y")])
        stations.append(start + at)
        points.append(local @ np.array([[c, s], [-s, c]]) + place)
        headings.append(heading + turn)
    if not stations:
        raise MalformedError("a road has no geometry")
    return np.concatenate(stations), np.concatenate(points), np.unwrap(np.concatenate(headings))


def _local(piece: Element, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return points and headings along one geometry, from the origin along x."""
    for kind in ("poly3", "paramPoly3"):
        found = piece.find(kind)
        if found is not None:
            return _polynomial(found, at, kind)
    first = last = 0.0
    if (arc := piece.find("arc")) is not None:
        first = last = number_in(arc, "curvature")
    elif (spiral := piece.find("spiral")) is not None:
        first, last = number_in(spiral, "curvStart"), number_in(spiral, "curvEnd")
    heading = first * at + (last - first) / (2 * at[-1]) * at**2
    middle, turned = (heading[1:] + heading[:-1]) / 2, np.diff(heading)
    # the chord of an arc: sin(a / 2) / (a / 2) of its length
    chord = np.diff(at) * np.sinc(turned / (2 * np.pi))
    steps = chord[:, None] * np.stack([np.cos(middle), np.sin(middle)], axis=1)
    return np.concatenate([np.zeros((1, 2)), steps.cumsum(axis=0)]), heading


def _polynomial(found: Element, at: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray]:
    if kind == "poly3":
        v = [number_in(found, key) for key in "abcd"]
        # u grows as the curve is walked: once with steps of the length, then by what they made
        u = at.copy()
        for _ in range(8):
            slope = v[1] + 2 * v[2] * u + 3 * v[3] * u**2
            speed = 1 / np.sqrt(1 + slope**2)
            u = np.concatenate([[0], ((speed[1:] + speed[:-1]) / 2 * np.diff(at)).cumsum()])
        slope = v[1] + 2 * v[2] * u + 3 * v[3] * u**2
        return np.stack([u, np.polyval(v[::-1], u)], axis=1), np.arctan(slope)
    p = at if found.get("pRange") == "arcLength" else at / at[-1]
    u, v = ([number_in(found, f"{key}{axis}") for key in "abcd"] for axis in "UV")
    du, dv = ([c[1], 2 * c[2], 3 * c[3]] for c in (u, v))
    heading = np.arctan2(np.polyval(dv[::-1], p), np.polyval(du[::-1], p))
    return np.stack([np.polyval(u[::-1], p), np.polyval(v[::-1], p)], axis=1), heading


def _cubics(elements: list[Element], key: str) -> np.ndarray:
    """Return rows of start and a, b, c, d, sorted; one of zeros if there are none."""
    rows = [[number_in(e, k) for k in (key, "a", "b", "c", "d")] for e in elements]
    return np.array(sorted(rows) or [[0.0] * 5])


def _value(rows: np.ndarray, s: np.ndarray) -> np.ndarray:
    """Return the value of piecewise cubics at s."""
    which = np.clip(np.searchsorted(rows[:, 0], s, side="right") - 1, 0, len(rows) - 1)
    start, a, b, c, d = rows[which].T
    ds = s - start
    return a + ds * (b + ds * (c + ds * d))


def _height(roads: list[_Road], place: np.ndarray) -> float:
    """Return the height of the nearest road's reference line."""
    best, height = np.inf, 0.0
    for road in roads:
        s = np.arange(0, road.length + 1, 1.0)
        points = road.place(s, 0.0)
        far = np.linalg.norm(points[:, :2] - place[:2], axis=1)
        if far.min() < best:
            best, height = float(far.min()), float(points[int(far.argmin()), 2])
    return height
