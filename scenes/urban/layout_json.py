"""Layout files: JSON, described by ``assets/urban/layout.schema.json``.

A transform is written as the first three rows of its matrix, row by row: 12 numbers.  By hand it is
easier to give ``position``, ``size`` and ``yaw_deg`` instead.  Boxes and ellipsoids need no
vertices; where they have some of their own (imported layouts), these are kept.  What gives no
``kind`` is a box, or a mesh where it has vertices.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import numpy as np

from geo3d.errors import FileFormatError, InputError, LimitError
from geo3d.files import atomic_write_text
from geo3d.layout.layout import (
    BALL_FACES,
    BALL_VERTICES,
    CUBE_FACES,
    CUBE_VERTICES,
    Layout,
    Primitive,
    Region,
    known_kind,
    turn,
)

FORMAT = "geo3d.street"
VERSION = 1
MAX_BYTES = 512 << 20
_UNIT = {"box": (CUBE_VERTICES, CUBE_FACES), "ellipsoid": (BALL_VERTICES, BALL_FACES)}
_TOP = ("format", "version", "name", "prompt", "regions", "primitives", "trajectory")
_PRIMITIVE = "id class kind transform position size yaw_deg style vertices faces".split()
_Item = TypeVar("_Item")


def load_layout(path: str | os.PathLike[str], max_bytes: int = MAX_BYTES) -> Layout:
    """Read a layout file.

    What the layout means is checked by `scenes.urban.validate`; here only its form.

    Raises:
        InputError: ``file.missing``, ``layout.unknown_kind``.
        LimitError: ``layout_file.too_large``.
        FileFormatError: ``layout_file.not_json``, ``layout_file.bad_field``.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError("file.missing", f"There is no file {path}.", "")
    size = path.stat().st_size
    if size > max_bytes:
        message = f"{path} has {size} bytes; at most {max_bytes} are read."
        raise LimitError("layout_file.too_large", message, "")
    try:
        content = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise FileFormatError(
            "layout_file.not_json",
            f"{path} is not JSON ({error}).",
            "docs/urban.md, Layouts, shows what one holds; others: geo3d layout import FILE.",
        ) from error
    return layout_from_dict(content, path.stem)


def save_layout(layout: Layout, path: str | os.PathLike[str], decimals: int | None = None) -> Path:
    """Write a layout file, one primitive a line; exact unless ``decimals`` are given."""
    content = layout_to_dict(layout, decimals)
    lists = {key: content.pop(key) for key in ("primitives", "trajectory")}
    head = json.dumps(content, indent=1)[:-2]
    parts = [
        f'"{key}": [\n' + ",\n".join(json.dumps(item) for item in items) + "\n ]"
        for key, items in lists.items()
    ]
    return atomic_write_text(path, head + ",\n " + ",\n ".join(parts) + "\n}\n")


def layout_to_dict(layout: Layout, decimals: int | None = None) -> dict[str, Any]:
    """Return the layout as JSON-ready values."""

    def numbers(values: np.ndarray) -> list[Any]:
        # + 0.0 turns -0.0 into 0.0
        rounded = values if decimals is None else np.round(values, decimals) + 0.0
        return rounded.tolist()

    primitives = []
    for p in layout.primitives:
        item: dict[str, Any] = {"id": p.id, "class": p.name, "kind": p.kind}
        item["transform"] = numbers(p.transform[:3].reshape(-1))
        if p.style:
            item["style"] = p.style
        unit = _UNIT.get(p.kind)
        if unit is None or not (
            np.array_equal(p.vertices, unit[0]) and np.array_equal(p.faces, unit[1])
        ):
            item |= {"vertices": numbers(p.vertices), "faces": p.faces.tolist()}
        primitives.append(item)
    return {
        "format": FORMAT,
        "version": VERSION,
        "name": layout.name,
        "prompt": layout.prompt,
        "regions": [{"bounds": list(r.bounds), "prompt": r.prompt} for r in layout.regions],
        "primitives": primitives,
        "trajectory": [numbers(pose[:3].reshape(-1)) for pose in layout.trajectory],
    }


def layout_from_dict(content: Any, name: str = "layout") -> Layout:
    """Make a layout of values read from JSON.

    Raises:
        InputError: ``layout.unknown_kind``.
        FileFormatError: ``layout_file.bad_field``.
    """
    _known_keys(content, _TOP, "the file")
    if content.get("format", FORMAT) != FORMAT or content.get("version", VERSION) != VERSION:
        _bad("format", f"is not {FORMAT}, version {VERSION}")
    poses = _each(content, "trajectory", _matrix)
    return Layout(
        _text(content, "name", name),
        tuple(_each(content, "primitives", _primitive)),
        np.stack(poses) if poses else np.zeros((0, 4, 4)),
        _text(content, "prompt", Layout.prompt),
        tuple(_each(content, "regions", _region)),
    )


def _each(content: Mapping[str, Any], key: str, read: Callable[[Any, str], _Item]) -> list[_Item]:
    items = content.get(key, [])
    if not isinstance(items, list):
        _bad(key, "is not a list")
    return [read(item, f"{key}[{i}]") for i, item in enumerate(items)]


def _primitive(item: Any, where: str) -> Primitive:
    _known_keys(item, _PRIMITIVE, where)
    for key in ("id", "class"):
        if key not in item:
            _bad(f"{where}.{key}", "is missing")
    kind = known_kind(_text(item, "kind", "mesh" if "vertices" in item else "box", where))
    if ("vertices" in item) != ("faces" in item):
        _bad(where, "has only one of vertices and faces")
    if "vertices" in item:
        vertices = _array(item["vertices"], (-1, 3), f"{where}.vertices")
        faces = _array(item["faces"], (-1, 3), f"{where}.faces")
        if (faces != np.round(faces)).any() or (np.abs(faces) > 2**52).any():
            _bad(f"{where}.faces", "are not whole numbers")
    elif kind in _UNIT:
        vertices, faces = _UNIT[kind]
    else:
        _bad(where, f"is a {kind} and has no vertices and faces")
    return Primitive(
        _text(item, "id", "", where),
        _text(item, "class", "", where),
        kind,
        _transform(item, where),
        vertices,
        faces.astype(np.int64),
        _text(item, "style", "", where),
    )


def _transform(item: Mapping[str, Any], where: str) -> np.ndarray:
    if "transform" in item:
        return _matrix(item["transform"], f"{where}.transform")
    if "position" not in item:
        _bad(where, "has neither transform nor position")
    yaw = _array(item.get("yaw_deg", 0.0), (), f"{where}.yaw_deg")
    transform = np.eye(4)
    size = _array(item.get("size", [1.0, 1.0, 1.0]), (3,), f"{where}.size")
    transform[:3, :3] = turn(float(np.deg2rad(yaw))) * size
    transform[:3, 3] = _array(item["position"], (3,), f"{where}.position")
    return transform


def _region(item: Any, where: str) -> Region:
    _known_keys(item, ("bounds", "prompt"), where)
    x0, x1, z0, z1 = _array(item.get("bounds"), (4,), f"{where}.bounds").tolist()
    return Region((x0, x1, z0, z1), _text(item, "prompt", "", where))


def _matrix(value: Any, where: str) -> np.ndarray:
    numbers = _array(value, None, where).ravel()
    if numbers.size not in (12, 16):
        _bad(where, "is not a matrix of 12 or 16 numbers")
    matrix = np.eye(4)
    matrix[: numbers.size // 4] = numbers.reshape(-1, 4)
    return matrix


def _array(value: Any, shape: tuple[int, ...] | None, where: str) -> np.ndarray:
    try:
        array = np.asarray(value)
        if array.dtype.kind not in "if":
            raise ValueError("not numbers")
        array = array.astype(np.float64)
    except (ValueError, TypeError, OverflowError):
        _bad(where, "is not an array of numbers")
    fits = shape is None or (
        array.ndim == len(shape)
        and all(a in (-1, b) for a, b in zip(shape, array.shape, strict=True))
    )
    if not fits:
        _bad(where, f"has the shape {array.shape}, not {shape}")
    return array


def _text(content: Mapping[str, Any], key: str, default: str, where: str = "") -> str:
    value = content.get(key, default)
    if not isinstance(value, str):
        _bad(f"{where}.{key}".lstrip("."), "is not a text")
    return value


def _known_keys(content: Any, known: Sequence[str], where: str) -> None:
    if not isinstance(content, dict):
        _bad(where, "is not an object")
    for key in content:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            _bad(where, f"has an unknown key {key!r}", f"Did you mean {near[0]}?" if near else "")


def _bad(where: str, what: str, hint: str = "") -> NoReturn:
    raise FileFormatError(
        "layout_file.bad_field",
        f"Layout file: {where} {what}.",
        hint or "The format is described in assets/urban/layout.schema.json.",
    )
