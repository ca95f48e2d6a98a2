"""Textures: every face has its own texels, the colours are those of the fine mesh, files open."""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import icosphere
from PIL import Image

from geo3d.errors import ConfigError, InputError
from geo3d.mesh.io import load_mesh
from geo3d.mesh.mesh import Mesh
from scenes.objects.export import ExportConfig, export
from scenes.objects.pipeline import Generated
from scenes.objects.slat_mesh import ExtractedMesh
from scenes.objects.sparse import SparseTensor
from scenes.objects.texture import Textured, _texels, bake, save_textured_glb


def colored(mesh: Mesh) -> Mesh:
    """Return the mesh with its positions as colours."""
    return Mesh(mesh.vertices, mesh.faces, _color_of(mesh.vertices).astype(np.uint8), "fine")


def _color_of(points: np.ndarray) -> np.ndarray:
    return np.rint(127.5 + 100 * points)


def look_up(textured: Textured, face: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return what a viewer sees at points of faces: the texture, interpolated."""
    size = len(textured.image)
    u, v = np.einsum("mi,mix->mx", weights, textured.uv[face]).T
    x, y = u * size - 0.5, (1 - v) * size - 0.5
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    a, b = (x - left)[:, None], (y - top)[:, None]
    image = textured.image.astype(float)
    upper = (1 - a) * image[top, left] + a * image[top, left + 1]
    lower = (1 - a) * image[top + 1, left] + a * image[top + 1, left + 1]
    return (1 - b) * upper + b * lower


def test_the_texture_has_the_colours_of_the_fine_mesh() -> None:
    fine, coarse = colored(icosphere(5)), icosphere(2)
    textured = bake(coarse, fine, 512)
    rng = np.random.default_rng(0)
    face = rng.integers(len(coarse.faces), size=2000)
    # up to the very edges and corners
    weights = rng.dirichlet([0.2, 0.2, 0.2], size=2000)
    seen = look_up(textured, face, weights)
    points = np.einsum("mi,mix->mx", weights, coarse.vertices[coarse.faces][face])
    wanted = _color_of(points / np.linalg.norm(points, axis=1, keepdims=True))
    assert np.abs(seen - wanted).max() < 8 and np.abs(seen - wanted).mean() < 2


def test_a_thin_wall_keeps_its_two_colours() -> None:
    side = np.array([[x, y, 0.0] for y in np.linspace(0, 1, 9) for x in np.linspace(0, 1, 9)])
    quads = [(i * 9 + j, i * 9 + j + 1, i * 9 + j + 10, i * 9 + j + 9)
             for i in range(8) for j in range(8)]  # fmt: skip
    up = np.array([f for a, b, c, d in quads for f in ((a, b, c), (a, c, d))])
    vertices = np.concatenate([side, side - [0, 0, 1e-3]])
    wall = Mesh(vertices, np.concatenate([up, up[:, ::-1] + 81]), name="wall")
    colors = np.repeat(np.array([[250, 0, 0], [0, 0, 250]], np.uint8), 81, axis=0)
    textured = bake(wall, Mesh(vertices, wall.faces, colors, "fine"), 256)
    centre = np.full((len(wall.faces), 3), 1 / 3)
    seen = look_up(textured, np.arange(len(wall.faces)), centre)
    assert (seen[:128, 0] > 230).all() and (seen[128:, 2] > 230).all()


@pytest.mark.parametrize("faces", [1, 2, 7, 320])
def test_no_two_faces_share_a_texel(faces: int) -> None:
    squares = int(np.ceil(np.sqrt(faces / 2)))
    columns, rows, face, weights = _texels(faces, squares, 8)
    assert len(set(zip(columns.tolist(), rows.tolist(), strict=True))) == len(columns)
    assert set(face.tolist()) == set(range(faces)) and np.allclose(weights.sum(axis=1), 1)
    assert max(columns.max(), rows.max()) < 8 * squares


def test_the_file_holds_texture_and_mesh(tmp_path: Path) -> None:
    coarse = icosphere(1)
    textured = bake(coarse, colored(icosphere(3)), 128)
    path = save_textured_glb(textured, tmp_path / "ball.glb")
    data = path.read_bytes()
    length = struct.unpack_from("<I", data, 12)[0]
    document = json.loads(data[20 : 20 + length])
    material = document["materials"][0]["pbrMetallicRoughness"]
    assert material["baseColorTexture"]["index"] == 0 and material["metallicFactor"] == 0
    attributes = document["meshes"][0]["primitives"][0]["attributes"]
    assert {"POSITION", "NORMAL", "TEXCOORD_0"} <= set(attributes)
    view = document["bufferViews"][document["images"][0]["bufferView"]]
    start = 20 + length + 8 + view.get("byteOffset", 0)
    stored = Image.open(io.BytesIO(data[start : start + view["byteLength"]])).convert("RGB")
    assert np.array_equal(np.asarray(stored), textured.image)
    # glTF measures v downwards
    access = document["accessors"][attributes["TEXCOORD_0"]]
    place = document["bufferViews"][access["bufferView"]]
    offset = 20 + length + 8 + place.get("byteOffset", 0) + access.get("byteOffset", 0)
    uv = np.frombuffer(data, "<f4", 2 * access["count"], offset).reshape(-1, 3, 2)
    np.testing.assert_allclose(uv[..., 0], textured.uv[..., 0], atol=1e-6)
    np.testing.assert_allclose(uv[..., 1], 1 - textured.uv[..., 1], atol=1e-6)
    back = load_mesh(path)
    assert len(back.faces) == len(coarse.faces)
    np.testing.assert_allclose(back.vertices[back.faces], coarse.vertices[coarse.faces], atol=1e-6)


def test_what_cannot_be_baked_is_named() -> None:
    ball = icosphere(2)
    with pytest.raises(InputError, match=r"texture\.no_colors"):
        bake(ball, ball)
    with pytest.raises(ConfigError, match="78 texels"):
        bake(ball, colored(ball), 64)


def test_exports_bake_within_the_budget_or_say_why_not(tmp_path: Path) -> None:
    ball = icosphere(4)
    made = Generated(0, torch.zeros(1, 2, 2, 2))
    made.latent = SparseTensor(torch.zeros(1, 8), torch.zeros(1, 4, dtype=torch.int32), 1)
    vertices = torch.tensor(0.4 * ball.vertices)
    colors = (vertices + 0.5).repeat(1, 2).float()
    made.mesh = ExtractedMesh(vertices, torch.tensor(ball.faces), colors)
    config = ExportConfig(formats=("glb", "ply"), faces=500, texture=128, views=0)
    row = export(made, "ball", (tmp_path, tmp_path), config)
    assert row["faces"] <= 525 and row["notes"] == []
    assert b"baseColorTexture" in (tmp_path / "ball.glb").read_bytes()
    assert load_mesh(tmp_path / "ball.ply").vertex_colors is not None
    whole = ExportConfig(texture=128, views=0)
    row = export(made, "whole", (tmp_path, tmp_path), whole)
    assert "do not fit a texture" in row["notes"][0]
    assert load_mesh(tmp_path / "whole.glb").vertex_colors is not None
