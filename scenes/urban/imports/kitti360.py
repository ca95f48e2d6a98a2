"""KITTI-360's 3D annotation: one XML file of boxes and meshes per sequence, and its camera poses.

    data_3d_bboxes/train/SEQUENCE.xml     or train_full
    data_poses/SEQUENCE/cam0_to_world.txt

Their world has z up; a clip of it is expressed in the frame of its middle camera, as the published
samples are (metres, x right, y down, z forward).  Static primitives only; those of vehicles that
move have a timestamp.

Source: Liao et al. 2022 (KITTI-360); names as in its public tools.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np
from jaxtyping import Float

from geo3d.errors import ConfigError, InputError
from geo3d.files import slug
from geo3d.layout.classes import CLASSES, MOVABLE
from geo3d.layout.layout import Layout
from scenes.urban.imports.common import (
    MAX_BYTES,
    Imported,
    MalformedError,
    Names,
    bad_file,
    existing,
    importer,
    parsing,
    plain,
    read_xml,
)
from scenes.urban.imports.samples import numbered_objects

# Semantic ids of the annotation, from 1 on, as listed in the data set's label table.
_BY_NUMBER = (
    "road,parking,sidewalk,terrain,vegetation,gate,wall,fence,sky,rail track,building,garage,car,"
    "truck,trailer,caravan,motorcycle,bicycle,person,rider,pole,smallpole,traffic light,"
    "traffic sign,lamp,trash bin,vending machine,box,stop,guard rail,bridge,tunnel,train,bus,"
    "unknown construction,unknown vehicle,unknown object"
).split(",")
NAMES = {
    **{plain(name): name for name in CLASSES},
    "driveway": "parking",
    # their "ground" is green, their "unknown ground" is paved
    "ground": "terrain",
    "unknownground": "ground",
    "bigpole": "pole",
    "polegroup": "pole",
    "streetlight": "lamp",
    "streetlamp": "lamp",
    "hedge": "vegetation",
    "tree": "vegetation",
    "static": "unknown object",
    "dynamic": "unknown object",
    **dict.fromkeys(
        ("sky", "unlabeled", "egovehicle", "rectificationborder", "outofroi", "licenseplate"), ""
    ),
}
"""Labels by letters to our classes; "" is left out."""
_NEAR_TRAJECTORY = 100.0
_WHAT = "a KITTI-360 annotation"
_TABLE = "a table of frame numbers and poses"


@importer("a KITTI-360 annotation")
def import_kitti360(
    xml: Path,
    poses: Path | None = None,
    frames: tuple[int, int] | None = None,
    *,
    max_bytes: int = MAX_BYTES,
) -> Imported:
    """Cut a clip out of KITTI-360's 3D annotation.

    Kept are static primitives that are annotated for one of the frames or that lie within 100 m of
    the drive.  Labels that are not known become unknown objects, and are named.

    Args:
        poses: ``cam0_to_world.txt``; None looks beside the XML.
        frames: first and last frame, both included; None for all.

    Raises:
        InputError: ``file.missing``, ``layout_file.no_frames``.
        ConfigError: ``layout_file.no_poses``.
        LimitError: ``layout_file.too_large``.
        FileFormatError: ``layout_file.bad_import``.
    """
    beside = xml.parent / "cam0_to_world.txt"
    if poses is None and not beside.is_file():
        raise ConfigError(
            "layout_file.no_poses",
            f"{xml} tells boxes only; the drive is in another file.",
            "Name it: --poses data_poses/SEQUENCE/cam0_to_world.txt.",
        )
    poses = poses or beside
    numbers, cameras = _read_poses(existing(poses, max_bytes))
    first, last = frames or (-(1 << 62), 1 << 62)
    clip = (numbers >= first) & (numbers <= last)
    if not clip.any():
        raise InputError(
            "layout_file.no_frames",
            f"{poses} has no pose of the frames {first} to {last}.",
            f"It has {numbers.min()} to {numbers.max()}." if len(numbers) else "It is empty.",
        )
    cameras, shown = cameras[clip], (int(numbers[clip].min()), int(numbers[clip].max()))
    to_clip = np.linalg.inv(cameras[len(cameras) // 2])
    names = Names(NAMES)
    objects = []
    for item, span in _read_boxes(existing(xml, max_bytes)):
        if _is_near(item, span, shown, cameras[:, :3, 3]):
            name = names.of(item["label"])
            if name:
                objects.append(_moved({**item, "name": name}, to_clip))
    layout = Layout(slug(xml.stem), numbered_objects(objects), to_clip @ cameras)
    return Imported(layout, names.mapped, names.skipped)


def _read_poses(path: Path) -> tuple[np.ndarray, Float[np.ndarray, "n 4 4"]]:
    try:
        rows = np.loadtxt(path, np.float64, ndmin=2)
    except ValueError as error:
        bad_file(path, _TABLE, error)
    if len(rows) and rows.shape[1] not in (13, 17):
        bad_file(path, _TABLE, f"it has {rows.shape[1]} columns")
    if not np.isfinite(rows).all():
        bad_file(path, _TABLE, "some of its numbers are not finite")
    columns = 3 if rows.shape[1] == 13 else 4
    poses = np.tile(np.eye(4), (len(rows), 1, 1))
    poses[:, :columns] = rows[:, 1:].reshape(-1, columns, 4)
    if not (np.abs(np.linalg.det(poses)) > 1e-9).all():
        bad_file(path, _TABLE, "some of its poses are no turns and moves")
    return rows[:, 0].astype(int), poses


def _read_boxes(path: Path) -> Iterator[tuple[dict[str, Any], tuple[int, int]]]:
    """Yield the static primitives with their first and last frame."""
    root = read_xml(path, _WHAT)
    if root.find("*/transform") is None:
        bad_file(path, _WHAT, "it holds no primitives")
    for node in root:
        if node.find("transform") is None or _number(node, "timestamp", -1) != -1:
            continue
        fields = {
            "label": _label(node),
            "transform": _matrix(node, "transform", 4),
            "verts": _matrix(node, "vertices", 3),
            "faces": _matrix(node, "faces", 3),
        }
        if fields["transform"].shape != (4, 4) or not len(fields["verts"]):
            raise MalformedError("a primitive has no transform of 4 x 4, or no vertices")
        yield fields, (_number(node, "start_frame", 0), _number(node, "end_frame", -1))


def _label(node: Element) -> str:
    """Return the label: its text where that is known, else the name of its number."""
    label = (node.findtext("label") or "").strip()
    number = _number(node, "semanticId", 0)
    if plain(label) not in NAMES and 1 <= number <= len(_BY_NUMBER):
        return _BY_NUMBER[number - 1]
    return label or f"semanticId {number}"


def _number(node: Element, field: str, default: int) -> int:
    text = node.findtext(field)
    with parsing():
        return default if text is None else int(text)


def _matrix(node: Element, field: str, columns: int) -> np.ndarray:
    """Read an OpenCV matrix: rows, cols, data."""
    found = node.find(field)
    if found is None:
        raise MalformedError(f"a primitive has no {field}")
    with parsing():
        values = np.array((found.findtext("data") or "").split(), np.float64)
        matrix = values.reshape(int(found.findtext("rows") or 0), -1)
    if matrix.shape[1] != columns or not np.isfinite(matrix).all():
        raise MalformedError(f"{field} of a primitive is no table of {columns} finite columns")
    return matrix


def _is_near(
    item: Mapping[str, Any], span: tuple[int, int], frames: tuple[int, int], path: np.ndarray
) -> bool:
    if span[0] <= frames[1] and span[1] >= frames[0]:
        return True
    points = item["verts"] @ item["transform"][:3, :3].T + item["transform"][:3, 3]
    low, high = points.min(axis=0), points.max(axis=0)
    gap = np.maximum(np.maximum(low - path, path - high), 0)
    return bool(np.linalg.norm(gap, axis=1).min() <= _NEAR_TRAJECTORY)


def _moved(item: Mapping[str, Any], to_clip: np.ndarray) -> dict[str, Any]:
    """Express a primitive in the clip's frame; only vehicles keep a transform of their own."""
    transform = to_clip @ item["transform"]
    if item["name"] in MOVABLE:
        return {**item, "transform": transform}
    vertices = item["verts"] @ transform[:3, :3].T + transform[:3, 3]
    return {**item, "verts": vertices, "transform": np.eye(4)}
