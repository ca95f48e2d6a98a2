"""The published samples of Urban Architect: pickled ``.npy`` files, or their flat ``.npz`` copies.

They are read as data by the project's restricted unpickler, and no code in them runs.  Metres, x
right, y down, z forward, in the frame of the middle camera.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from jaxtyping import Float

from geo3d.convert import read_foreign
from geo3d.errors import CheckpointError, FileFormatError
from geo3d.files import slug
from geo3d.layout.classes import SKIPPED
from geo3d.layout.layout import Kind, Layout, Primitive
from geo3d.npz import read_npz
from geo3d.pickle_records import ArrayRecord, array_of
from scenes.urban.imports.common import MAX_BYTES, MalformedError, existing, parsing

_FLAT = "names transforms verts vert_offsets faces face_offsets camera_c2w".split()
_SLABS = frozenset({"road", "sidewalk", "parking", "ground", "terrain", "rail track"})


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
    path = existing(Path(path), max_bytes)
    objects, cameras = (_read_flat if path.suffix == ".npz" else _read_pickled)(path, max_bytes)
    try:
        primitives = numbered_objects(objects)
    except MalformedError as error:
        _not_a_sample(path, error)
    return Layout(slug(path.stem.removesuffix("_flat")), primitives, cameras)


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
    except (ValueError, IndexError, TypeError, OSError) as error:
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


def numbered_objects(objects: list[dict[str, Any]]) -> tuple[Primitive, ...]:
    """Make primitives (name, verts, faces, transform) with ids by class and running number.

    Trailers and caravans are left out, as the release does.

    Raises:
        MalformedError: of another shape, or faces without vertices.
    """
    seen: Counter[str] = Counter()
    primitives = []
    for item in objects:
        name = item["name"]
        if name in SKIPPED:
            continue
        with parsing():
            vertices = np.ascontiguousarray(item["verts"], np.float64).reshape(-1, 3)
            faces = np.ascontiguousarray(item["faces"]).astype(np.int64).reshape(-1, 3)
            transform = np.asarray(item["transform"], np.float64).reshape(4, 4)
        if not len(faces) or faces.min() < 0 or faces.max() >= len(vertices):
            raise MalformedError(f"a {name} has faces without vertices")
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
