"""Maps: OpenStreetMap extracts (``.osm``) and GeoJSON.

Degrees become metres east and north of the middle of the map, on the tangent plane of the WGS 84
ellipsoid there: within a centimetre over a kilometre.
Source: OpenStreetMap XML, API 0.6; GeoJSON, RFC 7946.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from geo3d.files import slug
from scenes.urban.imports.common import (
    Imported,
    MalformedError,
    importer,
    number_in,
    parsing,
    plain,
    read_json,
    read_xml,
)
from scenes.urban.imports.features import Feature, layout_of_features

_A, _E2 = 6378137.0, 0.00669437999014
"""WGS 84: half the greater axis in metres, and its eccentricity squared."""


class Plane:
    """Degrees to metres on the tangent plane at a place."""

    def __init__(self, longitude: float, latitude: float) -> None:
        self._origin = np.array([longitude, latitude])
        sine = math.sin(math.radians(latitude))
        bent = 1 - _E2 * sine * sine
        north = _A * (1 - _E2) / bent**1.5
        east = _A / math.sqrt(bent) * math.cos(math.radians(latitude))
        self._metres = np.array([east, north]) * math.pi / 180

    def metres(self, degrees: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
        """Return metres east and north of longitudes and latitudes."""
        return (np.asarray(degrees, np.float64).reshape(-1, 2) - self._origin) * self._metres


@importer("an OpenStreetMap extract")
def import_osm(path: Path, drive: Float[np.ndarray, "n 2"] | None = None) -> Imported:
    """Read an extract of OpenStreetMap.

    Args:
        drive: longitudes and latitudes to drive along; None takes the longest road.

    Raises:
        FileFormatError: ``layout_file.bad_import``.
        InputError: ``layout_file.no_drive``.
    """
    root = read_xml(path, "an OpenStreetMap extract")
    # nodes that were deleted have no place
    places = {
        node.get("id", ""): (number_in(node, "lon"), number_in(node, "lat"))
        for node in root.iter("node")
        if node.get("lon") is not None and node.get("lat") is not None
    }
    if root.tag != "osm" or not places:
        raise MalformedError("it has no nodes; expected is the XML form (.osm)")
    plane = Plane(*_middle(np.array(list(places.values()))))

    def line(ids: Iterable[str]) -> np.ndarray:
        return plane.metres(np.array([places[i] for i in ids if i in places]))

    features, ways = [], {}
    for way in root.iter("way"):
        ids = [nd.get("ref", "") for nd in way.iter("nd")]
        ways[way.get("id", "")] = ids
        features += _way(line(ids), ids[:1] == ids[-1:] and len(ids) > 3, _tags(way))
    for node in root.iter("node"):
        if tags := _tags(node):
            features.append(Feature("point", (line([node.get("id", "")]),), tags))
    for relation in root.iter("relation"):
        tags = _tags(relation)
        if tags.get("type") == "multipolygon":
            members = [
                (m.get("role"), ways.get(m.get("ref", ""), [])) for m in relation.iter("member")
            ]
            inner = [line(ids[:-1]) for role, ids in members if role == "inner" and len(ids) > 3]
            for outer in _joined([ids for role, ids in members if role == "outer" and ids]):
                rings = (line(outer), *inner)
                features.append(Feature("area", rings, tags))
    wanted = None if drive is None else plane.metres(drive)
    return layout_of_features(slug(path.stem), features, wanted)


@importer("GeoJSON")
def import_geojson(path: Path, drive: Float[np.ndarray, "n 2"] | None = None) -> Imported:
    """Read buildings and roads from GeoJSON, in degrees, or in metres where they are no degrees.

    Properties are read as OpenStreetMap's tags; an area with nothing but a height is a building, a
    line with nothing a road.

    Raises:
        FileFormatError: ``layout_file.bad_import``.
        InputError: ``layout_file.no_drive``.
    """
    content = read_json(path, "GeoJSON")
    with parsing():
        items = content["features"] if content["type"] == "FeatureCollection" else [content]
        shapes = [
            (shape, _properties(item))
            for item in items
            for shape in _shapes(item["geometry"] if item["type"] == "Feature" else item)
        ]
        places = np.array([p[:2] for _, rings in (s for s, _ in shapes) for r in rings for p in r])
        if not len(places) or not np.isfinite(places).all():
            raise MalformedError("it has no places")
        is_degrees = np.abs(places[:, 0]).max() <= 180 and np.abs(places[:, 1]).max() <= 90
        plane = Plane(*_middle(places)) if is_degrees else None
        middle = places.mean(axis=0)

        def metres(values: Any) -> np.ndarray:
            flat = np.array([p[:2] for p in values], np.float64).reshape(-1, 2)
            return flat - middle if plane is None else plane.metres(flat)

        features = [
            _guessed(Feature(kind, tuple(map(metres, rings)), tags))
            for (kind, rings), tags in shapes
        ]
    wanted = None if drive is None else metres(drive)
    return layout_of_features(slug(path.stem), features, wanted)


def _way(line: np.ndarray, is_closed: bool, tags: Mapping[str, str]) -> list[Feature]:
    if not tags:
        return []
    is_line = {"highway", "barrier", "railway"} & tags.keys() and tags.get("area") != "yes"
    if is_closed and not is_line:
        return [Feature("area", (line[:-1],), tags)]
    return [Feature("line", (line,), tags)]


def _joined(pieces: list[list[str]]) -> list[list[str]]:
    """Join ways end to end to closed rings, without the last node."""
    rings, left = [], [list(p) for p in pieces]
    while left:
        ring = left.pop()
        while ring[0] != ring[-1]:
            found = next((p for p in left if ring[-1] in (p[0], p[-1])), None)
            if found is None:
                break
            left.remove(found)
            ring += found[1:] if found[0] == ring[-1] else found[-2::-1]
        if ring[0] == ring[-1] and len(ring) > 3:
            rings.append(ring[:-1])
    return rings


def _tags(element: Any) -> dict[str, str]:
    return {tag.get("k", ""): tag.get("v", "") for tag in element.findall("tag")}


def _properties(item: Mapping[str, Any]) -> dict[str, str]:
    properties = item.get("properties") or {}
    # some exports keep the map's tags one level below
    nested = properties.get("tags")
    merged = {**properties, **(nested if isinstance(nested, dict) else {})}
    return {str(k): str(v) for k, v in merged.items() if v not in (None, "") and k != "tags"}


def _shapes(geometry: Mapping[str, Any] | None) -> Iterator[tuple[Any, list[Any]]]:
    """Yield the lines, areas (rings without the repeated end) and points of a geometry."""
    if geometry is None:
        return
    kind = geometry["type"]
    if kind == "GeometryCollection":
        for part in geometry["geometries"]:
            yield from _shapes(part)
        return
    values = geometry["coordinates"]
    many = values if kind.startswith("Multi") else [values]
    simple = kind.removeprefix("Multi")
    for one in many:
        if simple == "Polygon":
            yield "area", [ring[:-1] if ring[0] == ring[-1] else ring for ring in one]
        elif simple == "LineString":
            yield "line", [one]
        elif simple == "Point":
            yield "point", [[one]]
        else:
            raise MalformedError(f"geometry {kind!r}")


def _guessed(feature: Feature) -> Feature:
    """Say what a feature without the map's usual tags is."""
    tags = dict(feature.tags)
    kind = plain(str(tags.get("class") or tags.get("type") or tags.get("kind") or ""))
    usual = {
        "building",
        "highway",
        "landuse",
        "leisure",
        "natural",
        "amenity",
        "barrier",
        "railway",
    }
    if feature.kind == "area" and not usual & tags.keys():
        if "height" in tags or "building:levels" in tags or kind in ("", "building", "house"):
            tags["building"] = "yes"
    elif feature.kind == "line" and not usual & tags.keys():
        tags["highway"] = str(tags.get("class") or "residential")
    elif feature.kind == "point" and kind == "tree":
        tags["natural"] = "tree"
    return Feature(feature.kind, feature.rings, tags)


def _middle(places: Float[np.ndarray, "n 2"]) -> tuple[float, float]:
    low, high = np.nanmin(places, axis=0), np.nanmax(places, axis=0)
    return float((low[0] + high[0]) / 2), float((low[1] + high[1]) / 2)
