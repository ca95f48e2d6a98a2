"""Any file that tells of a street becomes a layout: the format is told by the file, or by name."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from geo3d.errors import ConfigError, InputError
from scenes.urban.imports.cityjson import import_cityjson
from scenes.urban.imports.common import Imported
from scenes.urban.imports.drives import import_nuscenes, import_waymo
from scenes.urban.imports.kitti360 import import_kitti360
from scenes.urban.imports.maps import import_geojson, import_osm
from scenes.urban.imports.opendrive import import_opendrive
from scenes.urban.imports.samples import import_sample
from scenes.urban.layout_json import load_layout

FORMATS: Mapping[str, str] = {
    "layout": "a layout file of ours (.json)",
    "sample": "a published sample of Urban Architect (.npy, .npz)",
    "kitti360": "KITTI-360's boxes (data_3d_bboxes/*/SEQUENCE.xml), with --poses",
    "nuscenes": "a folder of nuScenes' tables (v1.0-*), with --scene",
    "waymo": "Waymo's boxes: frames as JSON, or the table lidar_box (.csv, .parquet)",
    "osm": "an OpenStreetMap extract (.osm)",
    "geojson": "buildings and roads as GeoJSON (.geojson, .json)",
    "cityjson": "a CityJSON model (.city.json, .json, .jsonl)",
    "opendrive": "OpenDRIVE roads (.xodr)",
}
"""What can be read."""
_HEAD = 1 << 16
_SUFFIXES = {".npy": "sample", ".npz": "sample", ".xodr": "opendrive", ".osm": "osm"}
_SUFFIXES |= {".geojson": "geojson", ".csv": "waymo", ".parquet": "waymo"}
_MARKS = {
    "layout": ('"geo3d.street"', '"primitives"'),
    "cityjson": ('"CityJSON"', '"CityJSONFeature"'),
    "geojson": ('"FeatureCollection"', '"Feature"'),
    "waymo": ('"laserLabels"', '"laser_labels"'),
    "osm": ("<osm",),
    "opendrive": ("<OpenDRIVE",),
    "kitti360": ("<opencv_storage", "<object1>"),
}


@dataclass(frozen=True)
class ImportOptions:
    """What some formats are told besides the file."""

    format: str = ""
    """One of `FORMATS`; "" looks at the file."""
    poses: Path | None = None
    """Of kitti360 and waymo's tables."""
    frames: tuple[int, int] | None = None
    """First and last frame of kitti360."""
    scene: str = ""
    """Of nuscenes."""
    drive: Float[np.ndarray, "n 2"] | None = None
    """A line to drive along on maps, in the file's coordinates; None chooses a road."""


def import_layout(path: Path, options: ImportOptions | None = None) -> Imported:
    """Read any of the formats.

    Raises:
        InputError: ``file.missing``, and those of the formats.
        ConfigError: ``layout_file.unknown_format``, ``layout_file.no_poses``.
        FileFormatError: ``layout_file.bad_import``, and those of the formats.
    """
    asked = options or ImportOptions()
    format = asked.format or format_of(path)
    if format == "layout":
        return Imported(load_layout(path))
    if format == "sample":
        return Imported(import_sample(path))
    if format == "kitti360":
        return import_kitti360(path, asked.poses, asked.frames)
    if format == "nuscenes":
        return import_nuscenes(path, asked.scene)
    if format == "waymo":
        return import_waymo(path, asked.poses)
    maps = {
        "osm": import_osm,
        "geojson": import_geojson,
        "cityjson": import_cityjson,
        "opendrive": import_opendrive,
    }
    if format not in maps:
        near = difflib.get_close_matches(format, FORMATS, 1)
        guess = f" Did you mean {near[0]!r}?" if near else ""
        raise _unknown(f"There is no format {format!r}.{guess}")
    return maps[format](path, asked.drive)


def format_of(path: Path) -> str:
    """Return the format of a file or folder, by its name or what it begins with.

    Raises:
        InputError: ``file.missing``.
        ConfigError: ``layout_file.unknown_format``.
    """
    if path.is_dir() and (path / "sample_annotation.json").is_file():
        return "nuscenes"
    if not path.exists():
        raise InputError("file.missing", f"There is no file {path}.", "")
    if (found := _SUFFIXES.get(path.suffix.lower())) is not None:
        return found
    if path.is_file():
        with open(path, "rb") as stream:
            head = stream.read(_HEAD)
        text = head.decode(
            "utf-16" if head[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8", "replace"
        )
        for format, marks in _MARKS.items():
            if any(mark in text for mark in marks):
                return format
        if path.suffix.lower() in (".json", ""):
            return "layout"
    raise _unknown(f"{path} does not look like a street.")


def _unknown(message: str) -> ConfigError:
    known = "; ".join(f"{name}: {what}" for name, what in FORMATS.items())
    return ConfigError("layout_file.unknown_format", message, f"Formats (--as): {known}.")
