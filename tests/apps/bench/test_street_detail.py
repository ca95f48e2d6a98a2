"""What a street shows of the painter's detail: a perfect show has none to miss."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from apps.bench import street_detail
from geo3d.layout.layout import Layout, box, slab
from geo3d.render.cameras import Camera
from geo3d.segmentation.lite0 import Lite0Encoder
from scenes.urban.config import SceneConfig, ViewConfig
from scenes.urban.teachers.painter import Painter


def street() -> Layout:
    rails = [np.array([[x, 0.0, z] for z in (-4.0, 40.0)]) for x in (-4.0, 4.0)]
    drive = np.tile(np.eye(4), (9, 1, 1))
    drive[:, 1, 3], drive[:, 2, 3] = -1.5, np.arange(9)
    house = box("house", "building", (8.0, -3.0, 20.0), (5.0, 6.0, 8.0))
    return Layout("short", (slab("road", "road", rails[0], rails[1]), house), drive, "")


def test_what_the_painter_shows_is_perfect_and_grey_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(street_detail, "SIZE", 32)
    monkeypatch.setattr(street_detail, "SHIFTS", (0.0, 2.0))
    monkeypatch.setattr(street_detail, "_CAMERAS", 2)
    torch.manual_seed(0)
    encoder = Lite0Encoder().eval()
    monkeypatch.setattr(street_detail, "imagenet_encoder", lambda: encoder)
    layout, config = street(), SceneConfig(prompt="sunny", views=ViewConfig(spacing=4.0))

    def painted(camera: Camera) -> torch.Tensor:
        far = config.fields.far
        return Painter(config.seed).paint(layout, [camera], "sunny", far).images[0]

    def grey(camera: Camera) -> torch.Tensor:
        return torch.full((3, camera.height, camera.width), 0.5)

    best = street_detail.detail_rows(layout, config, painted)
    worst = street_detail.detail_rows(layout, config, grey)
    assert [row["shift_m"] for row in best] == [0.0, 2.0]
    for good, bad in zip(best, worst, strict=True):
        # highlights are cut before the mean on one side, and after tone on the other
        assert good["psnr"] > 30 > bad["psnr"] + 10
        assert good["distance"] < bad["distance"] / 5


def test_cameras_move_to_their_left() -> None:
    pose = np.eye(4)[None]
    assert street_detail.beside(pose, 2.0)[0, :3, 3].tolist() == [-2, 0, 0]
