"""Gaussians as glTF and SPZ, read back here from the bytes by their descriptions."""

from __future__ import annotations

import gzip
import io
import json
import struct

import numpy as np
import pytest
import trimesh
from scipy.spatial.transform import Rotation

from geo3d.errors import InputError
from scenes.objects.splat_formats import splat_glb_bytes, spz_bytes

SHADE = 0.28209479177387814


def some(count: int = 50, reach: float = 40.0) -> np.ndarray:
    rng = np.random.default_rng(0)
    table = np.zeros((count, 17), np.float32)
    table[:, :3] = rng.uniform(-reach, reach, (count, 3))
    table[:, 6:9] = rng.uniform(-1.5, 1.5, (count, 3))
    table[:, 9] = rng.uniform(-3, 3, count)
    table[:, 10:13] = rng.uniform(-6, -1, (count, 3))
    table[:, 13:] = Rotation.random(count, random_state=0).as_quat(scalar_first=True)
    return table


def covariances(quaternions: np.ndarray, scales: np.ndarray) -> np.ndarray:
    axes = Rotation.from_quat(quaternions, scalar_first=True).as_matrix() * scales[:, None]
    return axes @ axes.transpose(0, 2, 1)


def half_turned(covariance: np.ndarray) -> np.ndarray:
    turn = np.diag([1.0, -1.0, -1.0])
    return turn @ covariance @ turn


def of_glb(content: bytes) -> tuple[dict, dict[str, np.ndarray]]:
    magic, version, length = struct.unpack_from("<4sII", content)
    assert (magic, version, length) == (b"glTF", 2, len(content))
    size, kind = struct.unpack_from("<I4s", content, 12)
    assert kind == b"JSON" and size % 4 == 0
    document = json.loads(content[20 : 20 + size])
    binary = content[28 + size :]
    (primitive,) = document["meshes"][0]["primitives"]
    columns = {}
    for name, number in primitive["attributes"].items():
        accessor = document["accessors"][number]
        view = document["bufferViews"][accessor["bufferView"]]
        assert accessor["componentType"] == 5126 and view["byteOffset"] % 4 == 0
        part = binary[view["byteOffset"] : view["byteOffset"] + view["byteLength"]]
        columns[name] = np.frombuffer(part, "<f4").reshape(accessor["count"], -1)
    return document, columns


def test_gltf_has_the_attributes_of_the_extension() -> None:
    table = some()
    document, columns = of_glb(splat_glb_bytes(table))
    assert document["extensionsUsed"] == ["KHR_gaussian_splatting"]
    (primitive,) = document["meshes"][0]["primitives"]
    extension = primitive["extensions"]["KHR_gaussian_splatting"]
    assert primitive["mode"] == 0
    assert extension == {"kernel": "ellipse", "colorSpace": "srgb_rec709_display"}
    prefix = "KHR_gaussian_splatting:"
    assert np.allclose(columns["POSITION"], table[:, :3] * (1, -1, -1))
    turns = columns[f"{prefix}ROTATION"][:, [3, 0, 1, 2]]
    assert np.allclose(np.linalg.norm(turns, axis=1), 1, atol=1e-6)
    found = covariances(turns, columns[f"{prefix}SCALE"])
    wanted = half_turned(covariances(table[:, 13:], np.exp(table[:, 10:13])))
    assert np.allclose(found, wanted, atol=1e-6)
    opacity = 1 / (1 + np.exp(-table[:, 9]))
    assert np.allclose(columns[f"{prefix}OPACITY"][:, 0], opacity, atol=1e-6)
    assert np.array_equal(columns[f"{prefix}SH_DEGREE_0_COEF_0"], table[:, 6:9])
    assert np.allclose(columns["COLOR_0"][:, 3], opacity, atol=1e-6)


def test_a_reader_without_the_extension_sees_coloured_points() -> None:
    table = some()
    scene = trimesh.load_scene(io.BytesIO(splat_glb_bytes(table)), file_type="glb")
    (cloud,) = scene.geometry.values()
    assert np.allclose(cloud.vertices, table[:, :3] * (1, -1, -1), atol=1e-5)
    assert len(cloud.colors) == len(table)


def test_spz_is_as_described() -> None:
    table = some()
    content = gzip.decompress(spz_bytes(table))
    magic, version, count, degree, bits, flags, spare = struct.unpack_from("<IIIBBBB", content)
    assert (magic, version, count) == (0x5053474E, 2, len(table))
    assert (degree, bits, flags, spare) == (0, 12, 0, 0)
    body = np.frombuffer(content, np.uint8, offset=16)
    assert len(body) == 19 * count
    places, opacity, colours, scales, turns = np.split(body, np.cumsum([9, 1, 3, 3]) * count)
    wide = np.zeros((count * 3, 4), np.uint8)
    wide[:, 1:] = places.reshape(-1, 3)
    xyz = (wide.view("<i4")[:, 0] >> 8).reshape(count, 3) / 2**bits
    assert np.allclose(xyz, table[:, :3] * (1, -1, -1), atol=2**-bits)
    assert np.allclose(opacity / 255, 1 / (1 + np.exp(-table[:, 9])), atol=1 / 255)
    assert np.allclose((colours.reshape(count, 3) / 255 - 0.5) / 0.15, table[:, 6:9], atol=0.02)
    logs = scales.reshape(count, 3) / 16 - 10
    assert np.allclose(logs, table[:, 10:13], atol=1 / 32 + 1e-6)
    imaginary = turns.reshape(count, 3) / 127.5 - 1
    real = np.sqrt(np.clip(1 - (imaginary**2).sum(axis=1), 0, None))
    read = Rotation.from_quat(np.column_stack([real, imaginary]), scalar_first=True)
    own = Rotation.from_quat(table[:, 13:] * (1, 1, -1, -1), scalar_first=True)
    # w comes from the other three: where it is small, it is coarse
    assert np.degrees((read * own.inv()).magnitude()).max() < 12


def test_the_same_gaussians_are_the_same_bytes() -> None:
    assert spz_bytes(some()) == spz_bytes(some())


def test_a_wide_scene_has_coarser_places_and_an_endless_one_is_refused() -> None:
    content = gzip.decompress(spz_bytes(some(reach=5_000.0)))
    assert content[13] == 10
    with pytest.raises(InputError, match=r"gaussians\.too_wide"):
        spz_bytes(some(reach=1e9))
