"""What a GLB file must satisfy before a library may look at it.

The container, the JSON and every accessor that is used are checked against the bytes that are
there; node graphs must be trees; instances count towards the limits.  The file is then written
anew with positions, colours, indices and nodes only: no images, extensions or references remain.
Quantised positions (KHR_mesh_quantization) become floats, strips and fans become triangles, and
instances (EXT_mesh_gpu_instancing) become nodes; colours (linear light, in glTF) become sRGB.
"""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np

from geo3d.errors import FileFormatError
from geo3d.mesh.formats.glb_data import (
    FLOAT,
    Accessors,
    bad,
    integer,
    linear_to_srgb,
    objects,
    unsupported,
)
from geo3d.mesh.formats.polygons import fan, unrolled_strips
from geo3d.mesh.mesh import Limits, require_bytes, require_counts

MAX_NODES = 10_000
MAX_DEPTH = 64
JSON_CHUNK, BIN_CHUNK = 0x4E4F534A, 0x004E4942
POINTS, TRIANGLES, STRIP, FAN = 0, 4, 5, 6
COMPRESSED = (
    "KHR_draco_mesh_compression",
    "EXT_meshopt_compression",
    "KHR_meshopt_compression",
)
INSTANCING = "EXT_mesh_gpu_instancing"
INTEGERS = (5120, 5121, 5122, 5123)
INDEX_TYPES = (5121, 5123, 5125)
COLOR_TYPES = (5121, 5123)
INSTANCE_KEYS = {"translation": "VEC3", "rotation": "VEC4", "scale": "VEC3"}
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
        unsupported("Compressed glTF is not read.")
    _refuse_references(document)
    reducer = _Reducer(document, payload, limits)
    reduced, payload = reducer.reduce(notes), bytes(reducer.data.payload)
    text = json.dumps(reduced).encode("ascii")
    text += b" " * (-len(text) % 4)
    payload += b"\0" * (-len(payload) % 4)
    chunks = struct.pack("<II", len(text), JSON_CHUNK) + text
    chunks += struct.pack("<II", len(payload), BIN_CHUNK) + payload
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks, notes


def _container(data: bytes) -> tuple[dict[str, Any], bytes, list[str]]:
    if len(data) < 20:
        require_bytes(20, len(data), "a GLB header")
    _, version, length = struct.unpack_from("<4sII", data)
    if version != 2:
        unsupported(f"This is glTF version {version}; version 2 is read.")
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
        bad("the JSON part cannot be parsed")
    if not isinstance(document, dict):
        bad("the JSON part is not an object")
    trailing = len(data) > length
    notes = ["mesh_file.trailing_data: more data follows than the header announces."]
    return document, chunks.get(BIN_CHUNK, b""), notes if trailing else []


def _refuse_references(document: dict[str, Any]) -> None:
    buffers = objects(document, "buffers")
    if any("uri" in buffer for buffer in buffers):
        raise FileFormatError(
            "mesh_file.external_reference",
            "The GLB keeps its geometry in another file, which is never opened.",
            "Export a self-contained GLB.",
        )
    if len(buffers) > 1:
        bad("there are several buffers")


class _Reducer:
    """Builds the reduced document."""

    def __init__(self, document: dict[str, Any], payload: bytes, limits: Limits) -> None:
        self.data = Accessors(document, payload)
        self.limits = limits
        self.meshes = objects(document, "meshes")
        self.nodes = objects(document, "nodes")
        self.scenes = objects(document, "scenes")
        self.scene = document.get("scene", 0)
        self.n_vertices = self.n_faces = 0

    def reduce(self, notes: list[str]) -> dict[str, Any]:
        self._require_nodes(len(self.nodes))
        roots = self._roots()
        self._spread_instances(self._tree(roots), notes)
        order = self._tree(roots)
        uses = [
            integer(self.nodes[n], "mesh", len(self.meshes))
            for n in order
            if "mesh" in self.nodes[n]
        ]
        meshes: dict[int, dict[str, Any]] = {}
        sizes: dict[int, tuple[int, int]] = {}
        for index in dict.fromkeys(uses or range(len(self.meshes))):
            meshes[index], sizes[index] = self._mesh(self.meshes[index], notes)
        uses = uses or list(meshes)
        require_counts(
            sum(sizes[index][0] for index in uses),
            sum(sizes[index][1] for index in uses),
            self.limits,
        )
        return self._document(order, meshes)

    def _require_nodes(self, count: int) -> None:
        if count > MAX_NODES:
            bad(f"there are over {MAX_NODES} nodes")

    def _spread_instances(self, order: list[int], notes: list[str]) -> None:
        """Give nodes whose mesh is drawn many times a child for each time.

        Viewers that do not know instances draw the mesh once; so it is read where they are damaged.
        """
        for number in order:
            node = self.nodes[number]
            extensions = node.get("extensions")
            found = extensions.get(INSTANCING) if isinstance(extensions, dict) else None
            if not isinstance(found, dict) or "mesh" not in node:
                continue
            try:
                children = self._instances(found.get("attributes"), node["mesh"])
            except FileFormatError as error:
                message = f"instances cannot be read, one was kept ({error.message.rstrip('.')})"
                notes.append(f"mesh_file.skipped_instances: {message}.")
                continue
            places = range(len(self.nodes), len(self.nodes) + len(children))
            kept = {key: value for key, value in node.items() if key != "mesh"}
            self.nodes = [*self.nodes, *children]
            self.nodes[number] = {**kept, "children": [*node.get("children", []), *places]}

    def _instances(self, attributes: Any, mesh: Any) -> list[dict[str, Any]]:
        if not isinstance(attributes, dict):
            bad("instances have no attributes")
        given = {key: key.upper() for key in INSTANCE_KEYS if key.upper() in attributes}
        counts = {
            self.data.count(attributes, name, (INSTANCE_KEYS[key],), (FLOAT, *INTEGERS))
            for key, name in given.items()
        }
        if len(counts) != 1:
            bad("instances have more or fewer positions than rotations or scales")
        self._require_nodes(len(self.nodes) + max(counts))
        rows = {
            key: self.data.values(attributes, name, (INSTANCE_KEYS[key],), (FLOAT, *INTEGERS))
            for key, name in given.items()
        }
        return [
            {"mesh": mesh, **{key: row[i].astype(float).tolist() for key, row in rows.items()}}
            for i in range(max(counts))
        ]

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
        # names in order, as what reads them keeps no order of its own
        for i, node in enumerate(nodes):
            node["name"] = f"{i:06d}"
        if not any("mesh" in node for node in nodes):
            nodes = [{"mesh": i, "name": f"{i:06d}"} for i in number.values()]
        children = {child for node in nodes for child in node.get("children", ())}
        return {
            "asset": {"version": "2.0"},
            "scene": 0,
            "scenes": [{"nodes": [i for i in range(len(nodes)) if i not in children]}],
            "nodes": nodes,
            "meshes": [meshes[mesh] for mesh in number],
            "accessors": self.data.kept,
            "bufferViews": self.data.kept_views,
            "buffers": [{"byteLength": len(self.data.payload)}],
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
            bad("a node has two parents")
        if self.scenes:
            scene = self.scenes[integer({"scene": self.scene}, "scene", len(self.scenes))]
            roots = self._children(scene, "nodes")
            if set(roots) & set(children) or len(set(roots)) < len(roots):
                bad("a root node has a parent")
            return roots
        return [node for node in range(len(self.nodes)) if node not in set(children)]

    def _children(self, item: dict[str, Any], key: str) -> list[int]:
        ids = item.get(key, [])
        if not isinstance(ids, list):
            bad(f"'{key}' is not a list")
        return [integer({key: i}, key, len(self.nodes)) for i in ids]

    def _tree(self, roots: list[int]) -> list[int]:
        """Return the nodes reachable from the roots, parents first; one parent each, so a tree."""
        order, level = list(roots), list(roots)
        for _ in range(MAX_DEPTH):
            level = [child for node in level for child in self.nodes[node].get("children", [])]
            if not level:
                return order
            order += level
        bad(f"nodes are nested deeper than {MAX_DEPTH}")

    def _mesh(
        self, mesh: dict[str, Any], notes: list[str]
    ) -> tuple[dict[str, Any], tuple[int, int]]:
        kept, before = [], (self.n_vertices, self.n_faces)
        for primitive in objects(mesh, "primitives"):
            mode = integer(primitive, "mode", 7, TRIANGLES)
            if mode not in (POINTS, TRIANGLES, STRIP, FAN):
                notes.append("mesh_file.skipped_lines: lines were left out.")
                continue
            attributes = primitive.get("attributes")
            if not isinstance(attributes, dict):
                bad("a primitive has no attributes")
            kept.append(self._primitive(primitive, attributes, mode, notes))
        return {"primitives": kept}, (self.n_vertices - before[0], self.n_faces - before[1])

    def _primitive(
        self, primitive: dict[str, Any], attributes: dict[str, Any], mode: int, notes: list[str]
    ) -> dict[str, Any]:
        count = self.data.count(attributes, "POSITION", ("VEC3",), (FLOAT, *INTEGERS))
        indexed = "indices" in primitive and mode != POINTS
        corners = count
        if indexed:
            corners = self.data.count(primitive, "indices", ("SCALAR",), INDEX_TYPES)
        self.n_vertices += count
        self.n_faces += {POINTS: 0, TRIANGLES: corners // 3}.get(mode, corners)
        # before anything is converted
        require_counts(self.n_vertices, self.n_faces, self.limits)
        result = {"mode": POINTS if mode == POINTS else TRIANGLES, "attributes": {}}
        result["attributes"]["POSITION"] = self._position(attributes)
        if "COLOR_0" in attributes:
            result["attributes"] |= self._colors(attributes, count, notes)
        if mode in (STRIP, FAN):
            result["indices"] = self._unrolled(primitive, mode, count)
        elif indexed:
            result["indices"], _ = self.data.keep(primitive, "indices", ("SCALAR",), INDEX_TYPES)
        if mode == TRIANGLES and corners % 3:
            bad("the number of indices is no multiple of 3")
        return result

    def _position(self, attributes: dict[str, Any]) -> int:
        """Return the new accessor of the positions; quantised ones become floats."""
        if self.data.is_float(attributes, "POSITION"):
            return self.data.keep(attributes, "POSITION", ("VEC3",), (FLOAT,))[0]
        return self.data.add(self.data.values(attributes, "POSITION", ("VEC3",), INTEGERS))

    def _unrolled(self, primitive: dict[str, Any], mode: int, count: int) -> int:
        """Return the new accessor of the triangles of a strip or a fan."""
        corners = np.arange(count)
        if "indices" in primitive:
            corners = self.data.values(primitive, "indices", ("SCALAR",), INDEX_TYPES)
        corners, size = corners.ravel().astype(np.int64), np.array([corners.size])
        triangles = (unrolled_strips if mode == STRIP else fan)(corners, size)
        if not len(triangles):
            bad("a strip or fan has no triangle")
        return self.data.add(triangles.ravel())

    def _colors(self, attributes: dict[str, Any], count: int, notes: list[str]) -> dict[str, int]:
        """Return the new accessor of the colours: sRGB in bytes, whatever kind they are."""
        kinds = ("VEC3", "VEC4"), (*COLOR_TYPES, FLOAT)
        linear = self.data.values(attributes, "COLOR_0", *kinds)[:, :3]
        if len(linear) != count:
            bad("there are more or fewer colours than positions")
        if linear.dtype.kind == "u":  # said to be normalised, but not marked so
            linear = linear / np.iinfo(linear.dtype).max
        if not np.isfinite(linear).all():
            notes.append("mesh_file.bad_colors: vertex colours are not finite and were left out.")
            return {}
        return {"COLOR_0": self.data.add(np.insert(linear_to_srgb(linear), 3, 255, axis=1))}


def _numbers(value: Any, length: int, key: str) -> list[float]:
    if not isinstance(value, list) or len(value) != length:
        bad(f"'{key}' does not have {length} numbers")
    if not all(isinstance(x, int | float) and abs(x) < 1e30 for x in value):
        bad(f"'{key}' does not hold finite numbers")
    return [float(x) for x in value]
