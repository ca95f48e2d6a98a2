"""What a GLB file must satisfy before a library may look at it.

The container, the JSON and every accessor that is used are checked against the bytes that are
there; node graphs must be trees; instances count towards the limits.  The file is then written
anew with positions, colours, indices and nodes only: no images, extensions or references remain.
"""

from __future__ import annotations

import json
import struct
from typing import Any, NoReturn

from geo3d.errors import FileFormatError
from geo3d.mesh.mesh import Limits, require_bytes, require_counts

MAX_NODES = 10_000
MAX_DEPTH = 64
JSON_CHUNK, BIN_CHUNK = 0x4E4F534A, 0x004E4942
POINTS, TRIANGLES, STRIP = 0, 4, 5
COMPONENT_BYTES = {5120: 1, 5121: 1, 5122: 2, 5123: 2, 5125: 4, 5126: 4}
COMPONENTS = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}
COMPRESSED = ("KHR_draco_mesh_compression", "EXT_meshopt_compression", "KHR_mesh_quantization")
TRANSFORM_LENGTHS = {"matrix": 16, "translation": 3, "rotation": 4, "scale": 3}


def guarded_glb(data: bytes, limits: Limits) -> tuple[bytes, list[str]]:
    """Check a GLB file and return it reduced to geometry, with notes.

    Raises:
        FileFormatError: ``mesh_file.bad_structure``, ``.truncated``, ``.lying_header``,
            ``.external_reference``, ``.unsupported_format``.
        LimitError: ``mesh_file.too_many_vertices``, ``mesh_file.too_many_faces``.
    """
    document, payload, notes = _container(data)
    required = document.get("extensionsRequired", [])
    if isinstance(required, list) and any(name in COMPRESSED for name in required):
        _unsupported("Compressed or quantised glTF is not read.")
    _refuse_references(document)
    reduced = _Reducer(document, len(payload)).reduce(limits, notes)
    text = json.dumps(reduced).encode("ascii")
    text += b" " * (-len(text) % 4)
    payload += b"\0" * (-len(payload) % 4)
    chunks = struct.pack("<II", len(text), JSON_CHUNK) + text
    chunks += struct.pack("<II", len(payload), BIN_CHUNK) + payload
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks, notes


def _bad(message: str) -> NoReturn:
    raise FileFormatError(
        "mesh_file.bad_structure",
        f"The glTF content is damaged: {message}.",
        "Check it with a glTF validator, or export it again.",
    )


def _unsupported(message: str) -> NoReturn:
    raise FileFormatError(
        "mesh_file.unsupported_format", message, "Export uncompressed triangles (plain GLB)."
    )


def _container(data: bytes) -> tuple[dict[str, Any], bytes, list[str]]:
    if len(data) < 20:
        require_bytes(20, len(data), "a GLB header")
    _, version, length = struct.unpack_from("<4sII", data)
    if version != 2:
        _unsupported(f"This is glTF version {version}; version 2 is read.")
    require_bytes(length, len(data), f"{length:,} bytes in all")
    chunks: dict[int, bytes] = {}
    at = 12
    while at + 8 <= min(length, len(data)):
        size, kind = struct.unpack_from("<II", data, at)
        require_bytes(size, len(data) - at - 8, "a chunk")
        chunks.setdefault(kind, data[at + 8 : at + 8 + size])
        at += 8 + size
    try:
        document = json.loads(chunks.get(JSON_CHUNK, b""))
    except (ValueError, RecursionError):
        _bad("the JSON part cannot be parsed")
    if not isinstance(document, dict):
        _bad("the JSON part is not an object")
    trailing = len(data) > length
    notes = ["mesh_file.trailing_data: more data follows than the header announces."]
    return document, chunks.get(BIN_CHUNK, b""), notes if trailing else []


def _refuse_references(document: dict[str, Any]) -> None:
    buffers = _objects(document, "buffers")
    if any("uri" in buffer for buffer in buffers):
        raise FileFormatError(
            "mesh_file.external_reference",
            "The GLB keeps its geometry in another file, which is never opened.",
            "Export a self-contained GLB.",
        )
    if len(buffers) > 1:
        _bad("there are several buffers")


def _objects(document: dict[str, Any], key: str) -> list[dict[str, Any]]:
    items = document.get(key, [])
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        _bad(f"'{key}' is not a list of objects")
    return items


def _integer(item: dict[str, Any], key: str, stop: int, default: int | None = None) -> int:
    """Return ``item[key]`` if it is an integer in [0, stop)."""
    value = item.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < stop:
        _bad(f"'{key}' is not an integer below {stop}")
    return value


class _Reducer:
    """Builds the reduced document; accessors are renumbered in order of use."""

    def __init__(self, document: dict[str, Any], payload_bytes: int) -> None:
        self.payload_bytes = payload_bytes
        self.views = _objects(document, "bufferViews")
        self.accessors = _objects(document, "accessors")
        self.meshes = _objects(document, "meshes")
        self.nodes = _objects(document, "nodes")
        self.scenes = _objects(document, "scenes")
        self.scene = document.get("scene", 0)
        self.kept_views: list[dict[str, Any]] = []
        self.kept_accessors: list[dict[str, Any]] = []

    def reduce(self, limits: Limits, notes: list[str]) -> dict[str, Any]:
        if len(self.nodes) > MAX_NODES:
            _bad(f"there are over {MAX_NODES} nodes")
        roots = self._roots()
        order = self._tree(roots)
        uses = [
            _integer(self.nodes[n], "mesh", len(self.meshes))
            for n in order
            if "mesh" in self.nodes[n]
        ]
        meshes: dict[int, dict[str, Any]] = {}
        sizes: dict[int, tuple[int, int]] = {}
        for index in dict.fromkeys(uses or range(len(self.meshes))):
            meshes[index], sizes[index] = self._mesh(self.meshes[index], notes)
            require_counts(*sizes[index], limits)
        uses = uses or list(meshes)
        require_counts(
            sum(sizes[index][0] for index in uses), sum(sizes[index][1] for index in uses), limits
        )
        return self._document(order, meshes)

    def _document(self, order: list[int], meshes: dict[int, dict[str, Any]]) -> dict[str, Any]:
        number = {mesh: i for i, mesh in enumerate(m for m in meshes if meshes[m]["primitives"])}
        if not number:
            raise FileFormatError(
                "mesh_file.not_a_mesh", "The GLB holds no triangles or points.", "Is it a mesh?"
            )
        place = {node: i for i, node in enumerate(order)}
        nodes: list[dict[str, Any]] = [
            self._node(self.nodes[node], place, number) for node in order
        ]
        if not any("mesh" in node for node in nodes):
            nodes = [{"mesh": i} for i in number.values()]
        children = {child for node in nodes for child in node.get("children", ())}
        return {
            "asset": {"version": "2.0"},
            "scene": 0,
            "scenes": [{"nodes": [i for i in range(len(nodes)) if i not in children]}],
            "nodes": nodes,
            "meshes": [meshes[mesh] for mesh in number],
            "accessors": self.kept_accessors,
            "bufferViews": self.kept_views,
            "buffers": [{"byteLength": self.payload_bytes}],
        }

    def _node(
        self, node: dict[str, Any], place: dict[int, int], number: dict[int, int]
    ) -> dict[str, Any]:
        kept: dict[str, Any] = {}
        for key, length in TRANSFORM_LENGTHS.items():
            if key in node:
                kept[key] = _numbers(node[key], length, key)
        if node.get("children"):
            kept["children"] = [place[child] for child in node["children"]]
        if node.get("mesh") in number:
            kept["mesh"] = number[node["mesh"]]
        return kept

    def _roots(self) -> list[int]:
        children = [child for node in self.nodes for child in self._children(node, "children")]
        if len(set(children)) < len(children):
            _bad("a node has two parents")
        if self.scenes:
            scene = self.scenes[_integer({"scene": self.scene}, "scene", len(self.scenes))]
            roots = self._children(scene, "nodes")
            if set(roots) & set(children) or len(set(roots)) < len(roots):
                _bad("a root node has a parent")
            return roots
        return [node for node in range(len(self.nodes)) if node not in set(children)]

    def _children(self, item: dict[str, Any], key: str) -> list[int]:
        ids = item.get(key, [])
        if not isinstance(ids, list):
            _bad(f"'{key}' is not a list")
        return [_integer({key: i}, key, len(self.nodes)) for i in ids]

    def _tree(self, roots: list[int]) -> list[int]:
        """Return the nodes reachable from the roots, parents first; one parent each, so a tree."""
        order, level = list(roots), list(roots)
        for _ in range(MAX_DEPTH):
            level = [child for node in level for child in self.nodes[node].get("children", [])]
            if not level:
                return order
            order += level
        _bad(f"nodes are nested deeper than {MAX_DEPTH}")

    def _mesh(
        self, mesh: dict[str, Any], notes: list[str]
    ) -> tuple[dict[str, Any], tuple[int, int]]:
        kept, n_vertices, n_faces = [], 0, 0
        for primitive in _objects(mesh, "primitives"):
            mode = _integer(primitive, "mode", 7, TRIANGLES)
            if mode not in (POINTS, TRIANGLES, STRIP):
                notes.append("mesh_file.skipped_lines: lines or triangle fans were left out.")
                continue
            attributes = primitive.get("attributes")
            if not isinstance(attributes, dict):
                _bad("a primitive has no attributes")
            position, count = self._accessor(attributes, "POSITION", ("VEC3",), (5126,))
            result: dict[str, Any] = {"mode": mode, "attributes": {"POSITION": position}}
            if "COLOR_0" in attributes:
                result["attributes"] |= self._colors(attributes, count, notes)
            corners = count
            if "indices" in primitive and mode != POINTS:
                result["indices"], corners = self._accessor(
                    primitive, "indices", ("SCALAR",), (5121, 5123, 5125)
                )
            if mode == TRIANGLES and corners % 3:
                _bad("the number of indices is no multiple of 3")
            n_vertices += count
            n_faces += {POINTS: 0, TRIANGLES: corners // 3, STRIP: corners}[mode]
            kept.append(result)
        return {"primitives": kept}, (n_vertices, n_faces)

    def _colors(self, attributes: dict[str, Any], count: int, notes: list[str]) -> dict[str, int]:
        index, n_colors = self._accessor(
            attributes, "COLOR_0", ("VEC3", "VEC4"), (5121, 5123, 5126)
        )
        if n_colors != count:
            _bad("there are more or fewer colours than positions")
        if self.kept_accessors[index]["componentType"] == 5123:
            notes.append("mesh_file.bad_colors: 16-bit vertex colours are not read.")
            return {}
        return {"COLOR_0": index}

    def _accessor(
        self, item: dict[str, Any], key: str, shapes: tuple[str, ...], types: tuple[int, ...]
    ) -> tuple[int, int]:
        """Check an accessor against its view and the payload; return its new index and count."""
        accessor = self.accessors[_integer(item, key, len(self.accessors))]
        shape, component = accessor.get("type"), accessor.get("componentType")
        if shape not in shapes or component not in types:
            _bad(f"the accessor of {key} has an unsuitable type")
        if "bufferView" not in accessor or "sparse" in accessor:
            _unsupported("Sparse accessors are not read.")
        view = self.views[_integer(accessor, "bufferView", len(self.views))]
        _integer(view, "buffer", 1)
        row = COMPONENT_BYTES[component] * COMPONENTS[shape]
        start = _integer(view, "byteOffset", 2**53, 0)
        length = _integer(view, "byteLength", 2**53)
        stride = _integer(view, "byteStride", 253, row) or row
        offset = _integer(accessor, "byteOffset", 2**53, 0)
        count = _integer(accessor, "count", 2**53)
        if count == 0 or stride < row:
            _bad(f"the accessor of {key} is empty or overlaps itself")
        needed = offset + (count - 1) * stride + row
        require_bytes(start + length, self.payload_bytes, f"a view of {length:,} bytes")
        require_bytes(needed, length, f"{count:,} x {key}")
        kept = {"buffer": 0, "byteOffset": start, "byteLength": length}
        if stride != row:
            kept["byteStride"] = stride
        self.kept_views.append(kept)
        copied = {key: accessor[key] for key in ("componentType", "type", "count")}
        normalized = bool(accessor.get("normalized", False))
        self.kept_accessors.append(
            {
                **copied,
                "bufferView": len(self.kept_views) - 1,
                "byteOffset": offset,
                "normalized": normalized,
            }
        )
        return len(self.kept_accessors) - 1, count


def _numbers(value: Any, length: int, key: str) -> list[float]:
    if not isinstance(value, list) or len(value) != length:
        _bad(f"'{key}' does not have {length} numbers")
    if not all(isinstance(x, int | float) and abs(x) < 1e30 for x in value):
        _bad(f"'{key}' does not hold finite numbers")
    return [float(x) for x in value]
