"""The accessors of a GLB file: checked against the bytes that are there, read, or written anew.

An accessor that is used as it is keeps its bytes; numbers that a library may not understand
(quantised positions, strips, colours) are converted and appended to the payload.  Accessors are
renumbered in order of use.
"""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np
from jaxtyping import Float, UInt8

from geo3d.errors import FileFormatError
from geo3d.mesh.mesh import require_bytes

COMPONENT_TYPES = {5120: "i1", 5121: "u1", 5122: "i2", 5123: "u2", 5125: "u4", 5126: "f4"}
COMPONENTS = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}
FLOAT, UNSIGNED_INT, BYTE = 5126, 5125, 5121


def bad(message: str) -> NoReturn:
    """Raise ``mesh_file.bad_structure``."""
    raise FileFormatError(
        "mesh_file.bad_structure",
        f"The glTF content is damaged: {message}.",
        "Check it with a glTF validator, or export it again.",
    )


def unsupported(message: str) -> NoReturn:
    """Raise ``mesh_file.unsupported_format``."""
    raise FileFormatError(
        "mesh_file.unsupported_format", message, "Export uncompressed triangles (plain GLB)."
    )


def objects(document: dict[str, Any], key: str) -> list[dict[str, Any]]:
    """Return ``document[key]`` if it is a list of objects, by default an empty one."""
    items = document.get(key, [])
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        bad(f"'{key}' is not a list of objects")
    return items


def integer(item: dict[str, Any], key: str, stop: int, default: int | None = None) -> int:
    """Return ``item[key]`` if it is an integer in [0, stop)."""
    value = item.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < stop:
        bad(f"'{key}' is not an integer below {stop}")
    return value


class Accessors:
    """What is kept of a file's numbers."""

    def __init__(self, document: dict[str, Any], payload: bytes) -> None:
        self.views = objects(document, "bufferViews")
        self.accessors = objects(document, "accessors")
        self.payload = bytearray(payload)
        self.n_given = len(payload)
        self.kept_views: list[dict[str, Any]] = []
        self.kept: list[dict[str, Any]] = []

    def count(
        self, item: dict[str, Any], key: str, shapes: tuple[str, ...], types: tuple[int, ...]
    ) -> int:
        """Check an accessor against its view and the payload; return how many elements it has."""
        return self._checked(item, key, shapes, types)[0]["count"]

    def is_float(self, item: dict[str, Any], key: str) -> bool:
        """Return whether the accessor ``item[key]`` holds floats."""
        accessor = self.accessors[integer(item, key, len(self.accessors))]
        return accessor.get("componentType") == FLOAT

    def keep(
        self, item: dict[str, Any], key: str, shapes: tuple[str, ...], types: tuple[int, ...]
    ) -> tuple[int, int]:
        """Check an accessor against its view and the payload; return its new index and count."""
        accessor, start, length, offset, stride = self._checked(item, key, shapes, types)
        view = {"buffer": 0, "byteOffset": start, "byteLength": length}
        if stride != _row_bytes(accessor):
            view["byteStride"] = stride
        self.kept_views.append(view)
        copied = {key: accessor[key] for key in ("componentType", "type", "count")}
        normalized = bool(accessor.get("normalized", False))
        self.kept.append(
            {
                **copied,
                "bufferView": len(self.kept_views) - 1,
                "byteOffset": offset,
                "normalized": normalized,
            }
        )
        return len(self.kept) - 1, accessor["count"]

    def values(
        self, item: dict[str, Any], key: str, shapes: tuple[str, ...], types: tuple[int, ...]
    ) -> np.ndarray:
        """Return the numbers (n, c) of an accessor; normalised integers become -1 to 1."""
        accessor, start, _, offset, stride = self._checked(item, key, shapes, types)
        dtype = np.dtype("<" + COMPONENT_TYPES[accessor["componentType"]])
        shape = (accessor["count"], COMPONENTS[accessor["type"]])
        strides = (stride, dtype.itemsize)
        found = np.ndarray(shape, dtype, self.payload, start + offset, strides).copy()
        if not accessor.get("normalized", False) or dtype.kind == "f":
            return found
        return np.maximum(found / np.iinfo(dtype).max, -1.0)

    def add(self, numbers: np.ndarray) -> int:
        """Append positions (n, 3) as floats, indices (n,), or colours (n, 4), which are bytes."""
        kind, shape = {1: (UNSIGNED_INT, "SCALAR"), 3: (FLOAT, "VEC3"), 4: (BYTE, "VEC4")}[
            1 if numbers.ndim == 1 else numbers.shape[1]
        ]
        data = numbers.astype("<" + COMPONENT_TYPES[kind]).tobytes()
        self.payload += b"\0" * (-len(self.payload) % 4)
        view = {"buffer": 0, "byteOffset": len(self.payload), "byteLength": len(data)}
        self.payload += data
        self.kept_views.append(view)
        self.kept.append(
            {
                "componentType": kind,
                "type": shape,
                "count": len(numbers),
                "bufferView": len(self.kept_views) - 1,
                "byteOffset": 0,
                "normalized": kind == BYTE,
            }
        )
        return len(self.kept) - 1

    def _checked(
        self, item: dict[str, Any], key: str, shapes: tuple[str, ...], types: tuple[int, ...]
    ) -> tuple[dict[str, Any], int, int, int, int]:
        """Return an accessor, start and length of its view, its offset there, and its stride."""
        accessor = self.accessors[integer(item, key, len(self.accessors))]
        shape, component = accessor.get("type"), accessor.get("componentType")
        if shape not in shapes or component not in types:
            bad(f"the accessor of {key} has an unsuitable type")
        if "bufferView" not in accessor or "sparse" in accessor:
            unsupported("Sparse accessors are not read.")
        view = self.views[integer(accessor, "bufferView", len(self.views))]
        integer(view, "buffer", 1)
        row = _row_bytes(accessor)
        start = integer(view, "byteOffset", 2**53, 0)
        length = integer(view, "byteLength", 2**53)
        stride = integer(view, "byteStride", 253, row) or row
        offset = integer(accessor, "byteOffset", 2**53, 0)
        count = integer(accessor, "count", 2**53)
        if count == 0 or stride < row:
            bad(f"the accessor of {key} is empty or overlaps itself")
        needed = offset + (count - 1) * stride + row
        require_bytes(start + length, self.n_given, f"a view of {length:,} bytes")
        require_bytes(needed, length, f"{count:,} x {key}")
        return accessor, start, length, offset, stride


def _row_bytes(accessor: dict[str, Any]) -> int:
    size = int(COMPONENT_TYPES[accessor["componentType"]][1])
    return size * COMPONENTS[accessor["type"]]


def linear_to_srgb(linear: Float[np.ndarray, "v 3"]) -> UInt8[np.ndarray, "v 3"]:
    """Return colours in linear light, 0 to 1, as bytes of sRGB (IEC 61966-2-1)."""
    share = np.clip(linear.astype(np.float64), 0.0, 1.0)
    srgb = np.where(share <= 0.0031308, share * 12.92, 1.055 * share ** (1 / 2.4) - 0.055)
    return np.rint(255.0 * srgb).astype(np.uint8)
