"""City models: CityJSON, also as a text sequence; every object's most detailed geometry as a mesh.

Coordinates are metres, x east, y north, z up, of any projection.
Source: CityJSON 1.0 to 2.0, CityJSONSeq.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from operator import index
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from geo3d.files import slug
from geo3d.layout.layout import Primitive
from scenes.urban.imports.common import (
    FROM_Z_UP,
    LONGEST,
    Imported,
    MalformedError,
    Names,
    bad_file,
    drive_along,
    existing,
    finished,
    importer,
    parsing,
    thinned,
    with_ground,
)
from scenes.urban.imports.polygons import triangulated_in_space

CITY = {
    **dict.fromkeys(
        ("building", "buildingpart", "buildinginstallation", "buildingunit"), "building"
    ),
    **dict.fromkeys(("road", "transportsquare", "square", "track"), "road"),
    "railway": "rail track",
    **dict.fromkeys(("bridge", "bridgepart", "bridgeinstallation"), "bridge"),
    **dict.fromkeys(("tunnel", "tunnelpart", "tunnelinstallation"), "tunnel"),
    **dict.fromkeys(("solitaryvegetationobject", "plantcover"), "vegetation"),
    **dict.fromkeys(("landuse", "tinrelief"), "terrain"),
    **dict.fromkeys(("otherconstruction", "genericcityobject"), "unknown construction"),
    "cityfurniture": "unknown object",
    **dict.fromkeys(("waterbody", "waterway", "cityobjectgroup", "bridgeroom", "buildingroom"), ""),
}


@importer("CityJSON")
def import_cityjson(path: Path, drive: Float[np.ndarray, "n 2"] | None = None) -> Imported:
    """Read a city model: every object's most detailed geometry, triangulated, as a mesh.

    Args:
        drive: x and y to drive along, in the file's coordinates (metres); None goes along the
            middle of the longest road object.

    Raises:
        FileFormatError: ``layout_file.bad_import``.
        InputError: ``layout_file.no_drive``.
    """
    names, parts, floor = Names(CITY), [], []
    with parsing():
        for model in _city_models(existing(path)):
            shift = model.get("transform", {"scale": [1, 1, 1], "translate": [0, 0, 0]})
            raw = np.array(model["vertices"], np.float64).reshape(-1, 3)
            vertices = raw * shift["scale"] + np.array(shift["translate"], np.float64)
            for item in model["CityObjects"].values():
                geometry = _most_detailed(item.get("geometry") or [])
                if geometry is None or not (name := names.of(item["type"])):
                    continue
                parts.append((name, _surfaces(geometry, vertices)))
    meshes = []
    for name, surfaces in parts:
        if (found := _city_mesh(surfaces)) is not None:
            meshes.append((name, *found))
            floor.append(found[0][:, 2].min())
    if meshes and max(np.ptp(m[1][:, 0]) for m in meshes) < 0.01:
        bad_file(path, "in metres", "its coordinates seem to be degrees", "Project it first.")
    line, height = _city_drive(meshes, drive, min(floor, default=0.0))
    origin = np.array([*line[0], height]) if len(line) else np.zeros(3)
    made = [
        Primitive("", name, "mesh", np.eye(4), (points - origin) @ FROM_Z_UP.T, faces)
        for name, points, faces in meshes
    ]
    ground = np.stack([line[:, 0] - origin[0], 0 * line[:, 0], line[:, 1] - origin[1]], axis=1)
    trajectory = drive_along(ground)
    return finished(slug(path.stem), with_ground(made, trajectory), trajectory, names)


def _city_models(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the model, or, of a text sequence, every feature with the head's transform."""
    text = path.read_text("utf-8")
    try:
        yield json.loads(text)
        return
    except (json.JSONDecodeError, RecursionError):
        lines = [line for line in text.splitlines() if line.strip()]
    head = json.loads(lines[0])
    if head.get("type") != "CityJSON":
        raise MalformedError("it is not JSON")
    for line in lines[1:]:
        yield {**json.loads(line), "transform": head["transform"]}


def _most_detailed(geometries: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    kinds = ("MultiSurface", "CompositeSurface", "Solid", "MultiSolid", "CompositeSolid")
    shown = [g for g in geometries if g.get("boundaries") and g["type"] in kinds]
    return max(shown, key=lambda g: str(g.get("lod", "")), default=None)


def _surfaces(geometry: Mapping[str, Any], vertices: np.ndarray) -> list[list[np.ndarray]]:
    """Return the surfaces of a geometry, each a list of rings of points (n, 3)."""
    boundaries = geometry["boundaries"]
    depth = {"Solid": 1, "MultiSolid": 2, "CompositeSolid": 2}.get(geometry["type"], 0)
    for _ in range(depth):
        boundaries = [part for shell in boundaries for part in shell]
    found = [[vertices[list(map(index, ring))] for ring in rings] for rings in boundaries]
    if not all(np.isfinite(ring).all() for rings in found for ring in rings):
        raise MalformedError("some of its numbers are not finite")
    return found


def _city_mesh(surfaces: list[list[np.ndarray]]) -> tuple[np.ndarray, np.ndarray] | None:
    points, faces, count = [], [], 0
    for rings in surfaces:
        if not rings or len(rings[0]) < 3:
            continue
        found, made = triangulated_in_space([ring for ring in rings if len(ring)])
        points.append(found)
        faces.append(made + count)
        count += len(found)
    if not points or not sum(map(len, faces)):
        return None
    # walls share corners: one number each makes a solid closed
    corners, same = np.unique(np.concatenate(points), axis=0, return_inverse=True)
    return corners, same.reshape(-1)[np.concatenate(faces)]


def _city_drive(
    meshes: Sequence[tuple[str, np.ndarray, np.ndarray]],
    drive: np.ndarray | None,
    floor: float,
) -> tuple[np.ndarray, float]:
    """Return a line to drive along (x, y), and the height of the ground there."""
    roads = [points for name, points, _ in meshes if name == "road"]
    longest = max(roads, key=lambda p: np.ptp(p[:, :2], axis=0).max(), default=np.zeros((0, 3)))
    height = float(np.median(longest[:, 2])) if len(longest) else floor
    if drive is not None:
        return np.asarray(drive, np.float64), height
    if len(longest) < 3:
        return np.zeros((0, 2)), height
    flat = longest[:, :2]
    axis = np.linalg.svd(flat - flat.mean(axis=0), full_matrices=False)[2][0]
    axis = axis if axis @ [0.3, 1.0] > 0 else -axis
    along, aside = (
        (flat - flat.mean(axis=0)) @ axis,
        (flat - flat.mean(axis=0)) @ [axis[1], -axis[0]],
    )
    if not np.ptp(along) <= LONGEST:
        raise MalformedError(f"a road of it is {np.ptp(along):.3g} m long")
    low, high = along.min() + 1, along.max() - 1
    edges = np.linspace(along.min(), along.max(), max(2, int(np.ptp(along) / 20) + 1))
    line = []
    for at in np.linspace(low, high, max(2, int((high - low) / 10) + 1)):
        k = min(int(np.searchsorted(edges, at, side="right")) - 1, len(edges) - 2)
        near = aside[(along >= edges[k] - 1e-6) & (along <= edges[k + 1] + 1e-6)]
        near = near if len(near) > 1 else aside
        middle, right = (near.min() + near.max()) / 2, np.ptp(near) / 4
        line.append(
            flat.mean(axis=0) + at * axis + (middle + right) * np.array([axis[1], -axis[0]])
        )
    return thinned(np.array(line), 5.0), height
