"""Streets from the features of a map: lines, areas and points with tags, as OpenStreetMap has them.

Roads become ribbons, buildings bodies of their height, trees, lamps and signs simple solids; the
ground is flat.  Tags are read as the map's own wiki describes them; what has a tag of a kind that
is looked at, but no shape here, is counted.

Notation: map coordinates in metres, x east, y north; heights in metres above the road.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from jaxtyping import Float

from geo3d.layout.layout import Primitive, box, ellipsoid, slab
from scenes.urban.imports.common import (
    Imported,
    Names,
    drive_along,
    finished,
    sideways,
    thinned,
)
from scenes.urban.imports.polygons import prism

WIDTHS = {
    **dict.fromkeys(("motorway", "trunk"), 10.5),
    **dict.fromkeys(("primary", "secondary"), 8.0),
    **dict.fromkeys(("tertiary", "unclassified", "residential", "road"), 6.5),
    **dict.fromkeys(("motorway_link", "trunk_link", "primary_link", "secondary_link"), 5.0),
    **dict.fromkeys(("tertiary_link", "living_street", "busway"), 5.0),
    **dict.fromkeys(("service", "track"), 3.5),
}
"""Metres of a road whose width is not told, by the value of its tag ``highway``."""
_LANE, _WALK, _STOREY, _HOUSE = 3.25, 2.0, 3.1, 7.0
_WALKS = frozenset({"footway", "path", "cycleway", "pedestrian", "steps", "bridleway"})
_GREEN = {
    "landuse": "grass forest meadow village_green recreation_ground cemetery allotments orchard "
    "farmland flowerbed",
    "leisure": "park garden pitch golf_course playground",
    "natural": "wood grassland scrub heath sand bare_rock",
}
_AREAS = {(key, value): "terrain" for key, words in _GREEN.items() for value in words.split()}
_AREAS |= {("amenity", "parking"): "parking", ("place", "square"): "sidewalk"}
_BARRIERS = {
    "fence": ("fence", 1.2, 0.08),
    "wall": ("wall", 1.6, 0.25),
    "retaining_wall": ("wall", 1.2, 0.3),
    "city_wall": ("wall", 4.0, 1.0),
    "hedge": ("vegetation", 1.4, 0.7),
    "guard_rail": ("guard rail", 0.8, 0.2),
    "gate": ("gate", 1.2, 0.1),
}
_POINTS = {
    ("highway", "street_lamp"): ("lamp", 6.0, 0.2),
    ("highway", "traffic_signals"): ("traffic light", 3.2, 0.35),
    ("highway", "bus_stop"): ("stop", 2.5, 0.3),
    ("traffic_sign", ""): ("traffic sign", 2.4, 0.5),
    ("power", "pole"): ("pole", 8.0, 0.25),
    ("man_made", "utility_pole"): ("pole", 8.0, 0.25),
    ("barrier", "bollard"): ("smallpole", 0.9, 0.15),
    ("amenity", "waste_basket"): ("trash bin", 1.0, 0.45),
    ("amenity", "vending_machine"): ("vending machine", 1.8, 0.8),
    ("amenity", "post_box"): ("box", 1.2, 0.5),
    ("man_made", "street_cabinet"): ("box", 1.3, 0.8),
}
_KEYS = ("building", "highway", "landuse", "leisure", "natural", "amenity", "barrier", "railway")
_KEYS += ("power", "man_made", "traffic_sign", "place")
_LEVELS = {"terrain": -0.06, "parking": -0.03, "road": 0.0, "sidewalk": 0.1}
"""Metres of ground above the road: so that one lies upon the other."""
_BASE, _LONGEST, _REACH, _MEETS = 0.15, 500.0, 80.0, 0.5


@dataclass(frozen=True, eq=False)
class Feature:
    """One thing on a map."""

    kind: Literal["line", "area", "point"]
    rings: tuple[Float[np.ndarray, "n 2"], ...]
    """The line, the outer and inner rings, or the point."""
    tags: Mapping[str, str]


def layout_of_features(
    name: str,
    features: Sequence[Feature],
    drive: Float[np.ndarray, "n 2"] | None = None,
) -> Imported:
    """Return a street along a drive, and what is within reach of it.

    The first camera stands over the origin; x stays east and z north.

    Args:
        drive: a line on the map; None takes the longest road, on its right lane.

    Raises:
        InputError: ``layout_file.no_drive``.
    """
    names = Names({})
    line = drive if drive is not None else longest_drive(features)
    trajectory = drive_along(_ground(line))
    origin = trajectory[0, [0, 2], 3]
    path = trajectory[:, [0, 2], 3]
    parts = [_base(path - origin, _REACH)]
    features = [f for f in features if f.rings and all(len(ring) for ring in f.rings)]
    for feature in features:
        low, high = (f(np.concatenate(feature.rings), axis=0) for f in (np.min, np.max))
        away = np.maximum(np.maximum(low - path, path - high), 0)
        if np.hypot(*away.T).min() > _REACH:
            continue
        moved = Feature(feature.kind, tuple(r - origin for r in feature.rings), feature.tags)
        made = list(_parts(moved))
        parts += made
        if not made:
            for key in _KEYS:
                if key in feature.tags and feature.tags[key] not in ("no", "none"):
                    names.skipped[f"{key}={feature.tags[key]}"] += 1
    trajectory[:, [0, 2], 3] -= origin
    return finished(name, parts, trajectory, names)


def longest_drive(features: Sequence[Feature]) -> Float[np.ndarray, "n 2"]:
    """Return the longest way along roads that meet end to end, of one name if they have one.

    It lies half a lane to the right of the middle, and is cut off at 500 m.
    """
    roads = [f for f in features if f.kind == "line" and f.tags.get("highway") in WIDTHS]
    roads = [f for f in roads if len(f.rings[0]) > 1]
    roads = sorted(roads, key=lambda f: -_length(f.rings[0]))
    best = np.zeros((0, 2))
    for road in roads[:20]:
        line, left = road.rings[0], [r for r in roads if r is not road]
        for _ in range(2):
            while _length(line) < _LONGEST and (more := _next(line, road, left)) is not None:
                left = [r for r in left if r is not more]
                ring = more.rings[0]
                is_forward = np.linalg.norm(ring[0] - line[-1]) < _MEETS
                line = np.concatenate([line, ring[1:] if is_forward else ring[-2::-1]])
            line = line[::-1]
        if _length(line) > _length(best):
            best = line
            lane = 0.0 if road.tags.get("oneway") == "yes" else width_of(road.tags) / 4
    if len(best) < 2:
        return best
    ground = thinned(_ground(best), 1.0)
    ground = ground[: int(_LONGEST) + 1] + lane * sideways(ground[: int(_LONGEST) + 1])
    return ground[:, [0, 2]]


def width_of(tags: Mapping[str, str]) -> float:
    """Return the width of a road in metres: told, by its lanes, or usual."""
    if (told := number_of(tags.get("width"))) > 0:
        return told
    if (lanes := number_of(tags.get("lanes"))) > 0:
        return lanes * _LANE
    return WIDTHS.get(tags.get("highway", ""), 6.5)


def height_of(tags: Mapping[str, str]) -> tuple[float, float]:
    """Return the heights of a building's underside and top in metres."""
    low = number_of(tags.get("min_height")) or _STOREY * number_of(tags.get("building:min_level"))
    high = number_of(tags.get("height")) or number_of(tags.get("building:height"))
    levels = number_of(tags.get("building:levels")) or number_of(tags.get("num_floors"))
    roof = _STOREY * number_of(tags.get("roof:levels"))
    return low, high or (levels * _STOREY + roof if levels else _HOUSE)


def number_of(text: object) -> float:
    """Return the number that a tag begins with, feet turned to metres; 0 for none."""
    found = re.match(r"\s*(\d+(?:\.\d+)?)\s*(ft|')?", str(text or ""))
    if not found:
        return 0.0
    return float(found[1]) * (0.3048 if found[2] else 1.0)


def _parts(feature: Feature) -> Iterator[Primitive]:
    tags = feature.tags
    if tags.get("building", "no") != "no" or tags.get("building:part", "no") != "no":
        if feature.kind == "area":
            yield from _some(prism("building", feature.rings, *height_of(tags)))
    elif feature.kind == "line":
        yield from _lines(feature.rings[0], tags)
    elif feature.kind == "area":
        name = next((_AREAS[item] for item in tags.items() if item in _AREAS), None)
        name = "sidewalk" if tags.get("highway") == "pedestrian" else name
        if name is not None:
            top = _LEVELS[name]
            yield from _some(prism(name, feature.rings, top - 0.6, top))
        elif tags.get("barrier") in _BARRIERS:
            yield from _lines(np.concatenate([feature.rings[0], feature.rings[0][:1]]), tags)
    else:
        yield from _points(feature.rings[0][0], tags)


def _lines(line: np.ndarray, tags: Mapping[str, str]) -> Iterator[Primitive]:
    if len(line) < 2 or _length(line) < 0.1:
        return
    highway, railway = tags.get("highway", ""), tags.get("railway", "")
    if highway in WIDTHS:
        width = width_of(tags)
        yield from _ribbon("road", line, width)
        sides = {"both": (-1, 1), "yes": (-1, 1), "left": (-1,), "right": (1,)}
        said = {key: tags.get(f"sidewalk:{key}") for key in ("both", "left", "right")}
        told = next((k for k, v in said.items() if v in ("yes", "separate")), tags.get("sidewalk"))
        for side in sides.get(told or "", ()):
            yield from _ribbon("sidewalk", line, _WALK, side * (width + _WALK) / 2)
    elif highway in _WALKS:
        yield from _ribbon("sidewalk", line, number_of(tags.get("width")) or _WALK)
    elif railway in ("rail", "tram", "light_rail"):
        yield from _ribbon("rail track", line, 3.0)
    elif tags.get("barrier") in _BARRIERS:
        name, height, depth = _BARRIERS[tags["barrier"]]
        height = number_of(tags.get("height")) or height
        for a, b in pairwise(line):
            length = float(np.linalg.norm(b - a))
            if length > 0.05:
                middle, yaw = (a + b) / 2, float(np.arctan2(b[0] - a[0], b[1] - a[1]))
                centre = (middle[0], -height / 2, middle[1])
                yield box("", name, centre, (depth, height, length), yaw)
    elif tags.get("natural") == "tree_row":
        for x, z in thinned(line, 8.0):
            yield from _tree(x, z, tags)


def _points(place: np.ndarray, tags: Mapping[str, str]) -> Iterator[Primitive]:
    x, z = place
    if tags.get("natural") == "tree":
        yield from _tree(x, z, tags)
        return
    for (key, value), (name, height, size) in _POINTS.items():
        if key in tags and value in ("", tags[key]):
            height = number_of(tags.get("height")) or height
            yield box("", name, (x, -height / 2, z), (size, height, size))
            return


def _tree(x: float, z: float, tags: Mapping[str, str]) -> Iterator[Primitive]:
    height = number_of(tags.get("height")) or 8.0
    crown = number_of(tags.get("diameter_crown")) or 0.6 * height
    yield ellipsoid("", "vegetation", (x, -0.6 * height, z), (crown, 0.8 * height, crown))


def _ribbon(name: str, line: np.ndarray, width: float, aside: float = 0.0) -> Iterator[Primitive]:
    ground = thinned(_ground(line), 4.0)
    if len(ground) < 2:
        return
    side = sideways(ground)
    ground = ground + aside * side - np.array([0.0, _LEVELS.get(name, 0.02), 0.0])
    half = side * (width / 2)
    yield slab("", name, ground - half, ground + half)


def _base(path: np.ndarray, reach: float) -> Primitive:
    """Return wide green ground below everything."""
    low, high = path.min(axis=0) - reach - 20, path.max(axis=0) + reach + 20
    left = np.array([[low[0], _BASE, low[1]], [low[0], _BASE, high[1]]])
    return slab("", "terrain", left, left + np.array([high[0] - low[0], 0, 0]))


def _next(line: np.ndarray, road: Feature, left: Sequence[Feature]) -> Feature | None:
    """Return the road that goes on from a line's end: of the same name, else the straightest."""
    way = line[-1] - line[-2]
    found = []
    for other in left:
        ring = other.rings[0]
        for a, b in ((ring[0], ring[1]), (ring[-1], ring[-2])):
            if np.linalg.norm(a - line[-1]) < _MEETS:
                size = np.linalg.norm(way) * np.linalg.norm(b - a)
                turn = float(way @ (b - a) / max(float(size), 1e-9))
                same = road.tags.get("name", "") == other.tags.get("name", "")
                if turn > 0.3:
                    found.append((not same, -turn, len(found), other))
    return min(found)[3] if found else None


def _ground(line: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 3"]:
    line = np.asarray(line, np.float64).reshape(-1, 2)
    return np.stack([line[:, 0], np.zeros(len(line)), line[:, 1]], axis=1)


def _length(line: np.ndarray) -> float:
    return float(np.linalg.norm(np.diff(line, axis=0), axis=1).sum())


def _some(part: Primitive | None) -> Iterator[Primitive]:
    if part is not None:
        yield part
