"""GLB as other programs write it: mirrored nodes, quantised positions, strips, instances."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import pytest

from geo3d.errors import FileFormatError
from geo3d.mesh.formats import glb_guard
from geo3d.mesh.io import parse_bytes
from geo3d.mesh.mesh import RawMesh

CUBE = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], np.float64)
SIDES = np.array(
    [[0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1],
     [2, 3, 7], [2, 7, 6], [0, 2, 6], [0, 6, 4], [1, 5, 7], [1, 7, 3]]
)  # fmt: skip
TYPES = {"f4": 5126, "i1": 5120, "u1": 5121, "i2": 5122, "u2": 5123, "u4": 5125}
SHAPES = {1: "SCALAR", 3: "VEC3", 4: "VEC4"}


def glb(nodes: list[dict[str, Any]], *arrays: np.ndarray, mode: int = 4, **document: Any) -> bytes:
    """Return a GLB of one mesh; arrays are positions, indices (or nothing), and further ones."""
    payload, views, accessors = b"", [], []
    for array in arrays:
        array = array.reshape(len(array), -1 if array.size else 1)
        data = array.tobytes()
        views.append({"buffer": 0, "byteOffset": len(payload), "byteLength": len(data)})
        payload += data + b"\0" * (-len(data) % 4)
        kind = {"componentType": TYPES[array.dtype.str[1:]], "type": SHAPES[array.shape[1]]}
        normalized = {"normalized": True} if array.dtype.kind == "i" and array.shape[1] > 1 else {}
        accessors.append({"bufferView": len(views) - 1, "count": len(array), **kind, **normalized})
    primitive = {"attributes": {"POSITION": 0}, "mode": mode}
    if len(arrays) > 1 and arrays[1].size:
        primitive["indices"] = 1
    text = json.dumps(
        {
            "asset": {"version": "2.0"},
            "scenes": [{"nodes": [0]}],
            "nodes": nodes,
            "meshes": [{"primitives": [primitive]}],
            "accessors": accessors,
            "bufferViews": views,
            "buffers": [{"byteLength": len(payload)}],
            **document,
        }
    ).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<II", len(text), 0x4E4F534A) + text
    chunks += struct.pack("<II", len(payload), 0x004E4942) + payload
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


def cube(nodes: list[dict[str, Any]], *more: np.ndarray, **document: Any) -> RawMesh:
    data = glb(nodes, CUBE.astype("<f4"), SIDES.ravel().astype("<u2"), *more, **document)
    return parse_bytes(data)


def volume(mesh: RawMesh) -> float:
    a, b, c = np.moveaxis(mesh.vertices[mesh.faces], 1, 0)
    return float(np.einsum("ij,ij->", a, np.cross(b, c))) / 6


MIRROR = [-1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 5, 6, 7, 1]


@pytest.mark.parametrize(
    "nodes",
    [
        [{"mesh": 0}],
        [{"mesh": 0, "scale": [-1, 1, 1]}],
        [{"mesh": 0, "matrix": MIRROR}],
        [{"scale": [1, -1, 1], "children": [1]}, {"mesh": 0, "translation": [3, 0, 0]}],
        [{"scale": [1, -1, 1], "children": [1]}, {"mesh": 0, "scale": [1, 1, -1]}],
        [{"scale": [-1, -1, -1], "children": [1]}, {"mesh": 0, "rotation": [0, 0.6, 0, 0.8]}],
    ],
)
def test_surfaces_look_outward_under_any_node(nodes: list[dict[str, Any]]) -> None:
    """A node that mirrors turns the winding round (case `mirrored_node_glb`)."""
    assert volume(cube(nodes)) == pytest.approx(1.0)


@pytest.mark.parametrize("kind", ["i1", "u1", "i2", "u2"])
def test_quantised_positions(kind: str) -> None:
    """Quantised is not compressed (case `reject_files`)."""
    top = np.iinfo(kind).max
    # normalised signed numbers run to 1 already, plain unsigned ones to their largest
    scale = 1.0 if kind[0] == "i" else 1 / top
    data = glb(
        [{"mesh": 0, "scale": [scale] * 3}],
        (CUBE * top).astype("<" + kind),
        SIDES.ravel().astype("<u2"),
        extensionsRequired=["KHR_mesh_quantization"],
    )
    mesh = parse_bytes(data)
    np.testing.assert_allclose(mesh.vertices, CUBE, atol=1e-6)
    assert volume(mesh) == pytest.approx(1.0) and mesh.notes == ()


@pytest.mark.parametrize("name", glb_guard.COMPRESSED)
def test_compressed_files_are_still_refused(name: str) -> None:
    with pytest.raises(FileFormatError, match="Compressed"):
        cube([{"mesh": 0}], extensionsRequired=[name])


@pytest.mark.parametrize("kind", ["f4", "u1", "u2"])
@pytest.mark.parametrize("mode", [0, 4])
def test_colours_of_any_kind_come_as_srgb(kind: str, mode: int) -> None:
    """Blender writes 16 bits, others floats; half of the light is sRGB 188."""
    top = 1.0 if kind == "f4" else float(np.iinfo(kind).max)
    light = (np.stack([np.zeros(8), np.full(8, 0.5), np.ones(8)], axis=1) * top).astype("<" + kind)
    corners = SIDES.ravel().astype("<u2")
    primitive = {"attributes": {"POSITION": 0, "COLOR_0": 2}, "mode": mode}
    meshes = [{"primitives": [primitive | ({"indices": 1} if mode else {})]}]
    mesh = parse_bytes(glb([{"mesh": 0}], CUBE.astype("<f4"), corners, light, meshes=meshes))
    assert mesh.vertex_colors is not None and mesh.notes == ()
    assert np.abs(mesh.vertex_colors - np.array([0, 188, 255.0])).max() <= (kind == "u1")
    if kind == "f4":
        light[3, 1] = np.nan
        mesh = parse_bytes(glb([{"mesh": 0}], CUBE.astype("<f4"), corners, light, meshes=meshes))
        assert mesh.vertex_colors is None and "not finite" in mesh.notes[0]


@pytest.mark.parametrize("indexed", [False, True])
def test_strips_and_fans(indexed: bool) -> None:
    ring = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [-1, 1, 0]], "<f4")
    indices = np.arange(5 if indexed else 0).astype("<u2")
    strip = parse_bytes(glb([{"mesh": 0}], ring, indices, mode=5))
    assert strip.faces.tolist() == [[0, 1, 2], [2, 1, 3], [2, 3, 4]]
    fans = parse_bytes(glb([{"mesh": 0}], ring, indices, mode=6))
    assert fans.faces.tolist() == [[0, 1, 2], [0, 2, 3], [0, 3, 4]]
    assert strip.notes == fans.notes == ()


def instanced(**attributes: int) -> list[dict[str, Any]]:
    return [
        {
            "mesh": 0,
            "translation": [0, 0, 1],
            "extensions": {"EXT_mesh_gpu_instancing": {"attributes": attributes}},
        }
    ]


def test_instances_are_copies() -> None:
    """A mesh drawn many times is read as often (case `reject_files`)."""
    places = np.array([[0, 0, 0], [5, 0, 0], [0, 9, 0]], "<f4")
    sizes = np.array([[1, 1, 1], [2, 2, 2], [-1, 1, 1]], "<f4")
    turns = np.array([[0, 0, 0, 127]] * 3, "i1")
    nodes = instanced(TRANSLATION=2, SCALE=3, ROTATION=4)
    mesh = cube(nodes, places, sizes, turns)
    wanted = [CUBE * size + place + [0, 0, 1] for size, place in zip(sizes, places, strict=True)]
    np.testing.assert_allclose(mesh.vertices, np.concatenate(wanted), atol=1e-6)
    assert volume(mesh) == pytest.approx(1 + 8 + 1) and mesh.notes == ()


@pytest.mark.parametrize("damage", ["missing", "uneven", "many"])
def test_damaged_instances_leave_one_mesh_and_a_note(
    damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Case `reject_files`, whose instances name an accessor that is not there."""
    places = np.zeros((3, 3), "<f4")
    nodes = instanced(TRANSLATION=7 if damage == "missing" else 2, SCALE=3)
    if damage == "many":
        monkeypatch.setattr(glb_guard, "MAX_NODES", 3)
    mesh = cube(nodes, places, np.ones((2 if damage == "uneven" else 3, 3), "<f4"))
    np.testing.assert_allclose(mesh.vertices, CUBE + np.array([0, 0, 1]))
    assert mesh.notes[0].startswith("mesh_file.skipped_instances: ")
