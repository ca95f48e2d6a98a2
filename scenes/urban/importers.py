"""Read foreign street layouts: the published samples of Urban Architect, and KITTI-360's boxes.

The samples (``.npy``) are pickled; they are read as data by the project's restricted unpickler, and
no code in them runs.  KITTI-360 has one XML file of 3D primitives per sequence and one text file of
camera poses, in a world with z up; a clip of it is expressed in the frame of its middle camera, as
the samples are (metres, x right, y down, z forward).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn
from xml.etree import ElementTree

import numpy as np
from jaxtyping import Float

from geo3d.convert import read_foreign
from geo3d.errors import CheckpointError, FileFormatError, InputError, LimitError
from geo3d.files import slug
from geo3d.layout.classes import MOVABLE, SKIPPED
from geo3d.layout.layout import Kind, Layout, Primitive
from geo3d.npz import read_npz
from geo3d.pickle_records import ArrayRecord, array_of

MAX_BYTES = 1 << 30
_FLAT = "names transforms verts vert_offsets faces face_offsets camera_c2w".split()
_SLABS = frozenset({"road", "sidewalk", "parking", "ground", "terrain", "rail track"})
_STUFF_NAMES = {
    "driveway": "parking",
    "ground": "terrain",
    "unknownGround": "ground",
    "railtrack": "rail track",
    # the annotation writes some names in one word
    "trafficSign": "traffic sign",
    "trafficLight": "traffic light",
    "trashbin": "trash bin",
    "vendingmachine": "vending machine",
    "guardrail": "guard rail",
    "unknownConstruction": "unknown construction",
    "unknownVehicle": "unknown vehicle",
    "unknownObject": "unknown object",
}
# Semantic ids of the annotation, from 1 on, as listed in the data set's label table.
_KITTI_NAMES = (
    "road,parking,sidewalk,terrain,vegetation,gate,wall,fence,sky,rail track,building,garage,car,"
    "truck,trailer,caravan,motorcycle,bicycle,person,rider,pole,smallpole,traffic light,"
    "traffic sign,lamp,trash bin,vending machine,box,stop,guard rail,bridge,tunnel,train,bus,"
    "unknown construction,unknown vehicle,unknown object"
).split(",")
_NEAR_TRAJECTORY = 100.0


def import_sample(path: str | os.PathLike[str], max_bytes: int = MAX_BYTES) -> Layout:
    """Read a published sample layout: the ``.npy`` as released, or its flat ``.npz`` copy.

    Trailers and caravans are left out, as the release does.  Ids are the class name and a number
    ("car-003").

    Raises:
        InputError: ``file.missing``.
        LimitError: ``layout_file.too_large``.
        FileFormatError: ``layout_file.not_a_sample``.
        CheckpointError: ``checkpoint.forbidden_global`` for a pickle that wants to run something.
    """
    path = _existing(path, max_bytes)
    objects, cameras = (_read_flat if path.suffix == ".npz" else _read_pickled)(path, max_bytes)
    primitives = _numbered(objects)
    return Layout(slug(path.stem.removesuffix("_flat")), primitives, cameras)


def import_kitti360(
    xml: str | os.PathLike[str],
    poses: str | os.PathLike[str],
    frames: tuple[int, int],
    *,
    max_bytes: int = MAX_BYTES,
    name: str = "",
) -> Layout:
    """Cut a clip out of KITTI-360's 3D annotation.

    Kept are static primitives that are annotated for one of the frames or that lie within 100 m of
    the drive.

    Args:
        xml: ``data_3d_bboxes/*/SEQUENCE.xml``.
        poses: ``data_poses/SEQUENCE/cam0_to_world.txt``.
        frames: first and last frame, both included.

    Raises:
        InputError: ``file.missing``, ``layout_file.no_frames``.
        LimitError: ``layout_file.too_large``.
        FileFormatError: ``layout_file.not_kitti360``.
    """
    numbers, cameras = _read_poses(_existing(poses, max_bytes))
    clip = (numbers >= frames[0]) & (numbers <= frames[1])
    if not clip.any():
        raise InputError(
            "layout_file.no_frames",
            f"{poses} has no pose of the frames {frames[0]} to {frames[1]}.",
            f"It has {numbers.min()} to {numbers.max()}." if len(numbers) else "It is empty.",
        )
    cameras = cameras[clip]
    to_clip = np.linalg.inv(cameras[len(cameras) // 2])
    path = _existing(xml, max_bytes)
    objects = [
        _moved(item, to_clip)
        for item, span in _read_boxes(path)
        if item["name"] not in SKIPPED and _is_near(item, span, frames, cameras[:, :3, 3])
    ]
    primitives = _numbered(objects)
    return Layout(name or slug(path.stem), primitives, to_clip @ cameras)


def _existing(path: str | os.PathLike[str], max_bytes: int) -> Path:
    path = Path(path)
    if not path.is_file():
        raise InputError("file.missing", f"There is no file {path}.", "")
    if path.stat().st_size > max_bytes:
        message = f"{path} has {path.stat().st_size} bytes; at most {max_bytes} are read."
        raise LimitError("layout_file.too_large", message, "")
    return path


def _read_flat(path: Path, max_bytes: int) -> tuple[list[dict[str, Any]], np.ndarray]:
    try:
        data = read_npz(path, _FLAT, max_bytes)
        vertex, face = data["vert_offsets"].astype(int), data["face_offsets"].astype(int)
        objects = [
            {
                "name": str(name),
                "transform": data["transforms"][i],
                "verts": data["verts"][vertex[i] : vertex[i + 1]],
                "faces": data["faces"][face[i] : face[i + 1]],
            }
            for i, name in enumerate(data["names"])
        ]
        return objects, _matrices(data["camera_c2w"])
    except (ValueError, IndexError, OSError) as error:
        _not_a_sample(path, error)


def _read_pickled(path: Path, max_bytes: int) -> tuple[list[dict[str, Any]], np.ndarray]:
    try:
        content: Any = read_foreign(path)
        # numpy stores the dict as the only element of an object array
        while isinstance(content, ArrayRecord) and isinstance(content.raw, list):
            content = content.raw[0]
        found: dict[str, Any] = {} if isinstance(content, ArrayRecord) else content
        keys = ("transform", "verts", "faces")
        objects = [
            {"name": str(o["name"]), **{key: _array(o[key], max_bytes) for key in keys}}
            for o in found["objs"]
        ]
        return objects, _matrices(np.array([_array(c, max_bytes) for c in found["camera"]]))
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        if isinstance(error, CheckpointError) and error.code == "checkpoint.forbidden_global":
            raise
        _not_a_sample(path, error)


def _array(value: Any, max_bytes: int) -> np.ndarray:
    if isinstance(value, ArrayRecord):
        return array_of(value, max_bytes)[1]
    return np.asarray(value, np.float64)


def _matrices(values: np.ndarray) -> Float[np.ndarray, "n 4 4"]:
    values = np.asarray(values, np.float64)
    if values.ndim != 3 or values.shape[1:] != (4, 4):
        raise ValueError(f"cameras have the shape {values.shape}")
    return values


def _not_a_sample(path: Path, error: Exception) -> NoReturn:
    raise FileFormatError(
        "layout_file.not_a_sample",
        f"{path} is not a published sample layout ({error}).",
        "Expected are objs (name, verts, faces, transform) and camera, or the flat arrays "
        + ", ".join(_FLAT)
        + ".",
    ) from error


def _numbered(objects: list[dict[str, Any]]) -> tuple[Primitive, ...]:
    """Make primitives with ids by class and running number."""
    seen: Counter[str] = Counter()
    primitives = []
    for item in objects:
        name = item["name"]
        if name in SKIPPED:
            continue
        vertices = np.ascontiguousarray(item["verts"], np.float64).reshape(-1, 3)
        faces = np.ascontiguousarray(item["faces"]).astype(np.int64).reshape(-1, 3)
        if not len(faces) or faces.min() < 0 or faces.max() >= len(vertices):
            raise FileFormatError(
                "layout_file.not_a_sample", f"A {name} has faces without vertices.", ""
            )
        transform = np.asarray(item["transform"], np.float64).reshape(4, 4)
        kind = _kind(name, vertices, faces)
        id = f"{slug(name)}-{seen[name]:03d}"
        primitives.append(Primitive(id, name, kind, transform, vertices, faces))
        seen[name] += 1
    return tuple(primitives)


def _kind(name: str, vertices: np.ndarray, faces: np.ndarray) -> Kind:
    if len(vertices) == 8 and len(faces) == 12 and name not in _SLABS:
        return "box"
    if len(faces) == 80 and len(vertices) in (42, 63):
        return "ellipsoid"
    is_slab = name in _SLABS and len(faces) == 2 * len(vertices) - 4
    return "slab" if is_slab else "mesh"


def _read_poses(path: Path) -> tuple[np.ndarray, Float[np.ndarray, "n 4 4"]]:
    try:
        rows = np.loadtxt(path, np.float64, ndmin=2)
        columns = {13: 3, 17: 4}[rows.shape[1]] if len(rows) else 4
    except (ValueError, KeyError, UnicodeDecodeError) as error:
        message = f"{path} is not a table of frame numbers and poses ({error})."
        raise FileFormatError("layout_file.not_kitti360", message, "") from error
    poses = np.tile(np.eye(4), (len(rows), 1, 1))
    poses[:, :columns] = rows[:, 1:].reshape(-1, columns, 4)
    return rows[:, 0].astype(int), poses


def _read_boxes(path: Path) -> Iterator[tuple[dict[str, Any], tuple[int, int]]]:
    """Yield the static primitives with their first and last frame."""
    data = path.read_bytes()
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data:
        message = f"{path} defines XML entities; it is no annotation."
        raise FileFormatError("layout_file.not_kitti360", message, "")
    try:
        for node in ElementTree.fromstring(data):
            if node.find("transform") is None or _number(node, "timestamp", -1) != -1:
                continue
            fields = {
                "name": _name(node),
                "transform": _matrix(node, "transform"),
                "verts": _matrix(node, "vertices"),
                "faces": _matrix(node, "faces"),
            }
            yield fields, (_number(node, "start_frame", 0), _number(node, "end_frame", -1))
    except (ElementTree.ParseError, ValueError, LookupError, AttributeError) as error:
        raise FileFormatError(
            "layout_file.not_kitti360",
            f"{path} is not a KITTI-360 annotation ({error}).",
            "Expected is data_3d_bboxes/*/SEQUENCE.xml.",
        ) from error


def _name(node: ElementTree.Element) -> str:
    label = (node.findtext("label") or "").strip()
    if label:
        return _STUFF_NAMES.get(label, label)
    number = _number(node, "semanticId", 0)
    if not 1 <= number <= len(_KITTI_NAMES):
        raise ValueError(f"semanticId {number} is not known")
    return _KITTI_NAMES[number - 1]


def _number(node: ElementTree.Element, field: str, default: int) -> int:
    text = node.findtext(field)
    return default if text is None else int(text)


def _matrix(node: ElementTree.Element, field: str) -> np.ndarray:
    """Read an OpenCV matrix: rows, cols, data."""
    found = node.find(field)
    if found is None:
        raise ValueError(f"a primitive has no {field}")
    values = np.array((found.findtext("data") or "").split(), np.float64)
    return values.reshape(int(found.findtext("rows") or 0), int(found.findtext("cols") or 0))


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
