"""Textures baked from a scene show what is painted near the mesh, not what is on it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trimesh

from geo3d.mesh.mesh import Mesh
from scenes.objects.texture import save_textured_glb
from scenes.urban.export import LARGEST_TEXTURE, texture_size, textured
from scenes.urban.fields import Matter


class Wall:
    """A scene of one wall, 10 m ahead: red on the left, blue on the right; green haze before it."""

    def __init__(self) -> None:
        self.blocks = self

    def trim(self) -> None: ...

    def query(self, points: torch.Tensor) -> Matter:
        inside = points[:, 2] >= 10
        colours = torch.zeros(len(points), 3)
        colours[:, 1] = (~inside).float()
        colours[:, 0] = (inside & (points[:, 0] < 0)).float()
        colours[:, 2] = (inside & (points[:, 0] >= 0)).float()
        return Matter(1e4 * inside, colours, points[:, :0])


def before_the_wall() -> Mesh:
    # y up, towards the viewer: 0.2 m before the wall, which lies at z = -10
    corners = np.array([[-2.0, 0, -9.8], [2, 0, -9.8], [2, 3, -9.8], [-2, 3, -9.8]])
    return Mesh(corners, np.array([[0, 1, 2], [0, 2, 3]]))


def test_a_texel_takes_the_first_matter_behind_the_mesh(tmp_path: Path) -> None:
    wall: Any = Wall()
    made = textured(wall, before_the_wall(), 64)
    used = made.image.reshape(-1, 3)[made.image.reshape(-1, 3).any(axis=1)]
    assert len(used) > 1500 and not used[:, 1].any()
    shares = (used[:, 0] > 0).mean(), (used[:, 2] > 0).mean()
    assert min(shares) > 0.4 and abs(sum(shares) - 1) < 0.02
    path = save_textured_glb(made, tmp_path / "a.glb")
    read = trimesh.load_scene(io.BytesIO(path.read_bytes()), file_type="glb")
    (mesh,) = read.geometry.values()
    colours = mesh.visual.to_color().vertex_colors
    left = mesh.vertices[:, 0] < 0
    assert (colours[left, 0] > 200).all() and (colours[~left, 2] > 200).all()


def test_where_there_is_no_matter_a_texel_takes_the_colour_deepest_inside() -> None:
    far: Any = Wall()
    corners = before_the_wall().vertices + np.array([0, 0, 5])
    made = textured(far, Mesh(corners, before_the_wall().faces), 32)
    assert (made.image.reshape(-1, 3).max(axis=0) == [0, 255, 0]).all()


def test_textures_grow_with_their_faces_up_to_a_limit() -> None:
    assert texture_size(20_000, 1024) == 1024
    assert texture_size(200_000, 1024) == 317 * 6
    assert texture_size(20_000, 0) == 0
    assert texture_size(2 * (LARGEST_TEXTURE // 6 + 1) ** 2, 1024) == 0
