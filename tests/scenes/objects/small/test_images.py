"""What the image encoder learns from: objects, cameras and images in a mirror."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from geo3d.synth.objects.generate import generate_object
from scenes.objects.data.voxels import visible_shell, voxelize
from scenes.objects.lifting import Guess, LiftingEncoder, project
from scenes.objects.linear_code import LinearSLatEncoder
from scenes.objects.models import load_model, save_model
from scenes.objects.small import images
from scenes.objects.small.cells import CHILDREN, COARSE, CellObject, cell_object
from scenes.objects.small.images import ImageTask, mirrored, mirrored_camera
from scenes.objects.small.settings import LATENT_ENCODER, StageConfig
from scenes.objects.small.train import train_stage


@pytest.fixture(scope="module")
def guitar() -> CellObject:
    views = np.zeros((1, 64, 64, 4), np.uint8)
    views[0, 10:50, 5:40] = (200, 100, 50, 255)
    camera = np.array([[0.7, 0.3, 0.5, 0.8, 0.45, 0.52]], np.float32)
    fine = visible_shell(voxelize(generate_object("guitar", 3).mesh))
    return cell_object("guitar", 3, fine, views, camera)


def corner_values(item: CellObject) -> dict[tuple[int, ...], int]:
    """Return the distance at each fine corner by its place."""
    corners = item.distances.reshape(-1, *(CHILDREN + 1,) * 3)
    return {
        tuple(CHILDREN * cell + place): int(own[tuple(place)])
        for cell, own in zip(item.coords.astype(int), corners, strict=True)
        for place in np.argwhere(np.ones(own.shape))
    }


def test_distances_of_the_mirrored_object_are_found_on_the_other_side(guitar: CellObject) -> None:
    values, other = corner_values(guitar), corner_values(mirrored(guitar))
    top = CHILDREN * COARSE
    assert {(x, top - y, z): value for (x, y, z), value in values.items()} == other
    assert any(values.get((x, top - y, z), value) != value for (x, y, z), value in values.items())
    again = mirrored(mirrored(guitar))
    assert np.array_equal(again.coords, guitar.coords)
    assert np.array_equal(again.distances, guitar.distances)


def test_the_mirrored_camera_sees_the_mirrored_object_in_the_mirrored_image() -> None:
    points = torch.rand(20, 3, generator=torch.Generator().manual_seed(0)) - 0.5
    camera = torch.tensor([0.7, 0.3, 0.5, 0.8, 0.45, 0.52])
    seen, depth = project(points, camera[None])
    other, same = project(points * torch.tensor([1, -1, 1]), mirrored_camera(camera)[None])
    torch.testing.assert_close(other, seen * torch.tensor([-1, 1]))
    torch.testing.assert_close(same, depth)


def test_all_of_an_example_is_mirrored_at_once(
    guitar: CellObject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "_SWAPPED", 0.0)
    told: list[tuple[Tensor, ...]] = []

    def judge(
        guess: Guess, cameras: Tensor, occupancy: Tensor, cells: Tensor, latents: Tensor, _: object
    ) -> dict[str, Tensor]:
        told.append((cameras[0], occupancy[0], cells[:, 1:], latents))
        return {"loss": latents.sum() * 0}

    monkeypatch.setattr(images, "losses", judge)
    encoder = LinearSLatEncoder(LATENT_ENCODER)
    encoder.fit([guitar.features()])
    task = ImageTask([guitar], encoder)
    for share in (0.0, 1.0):
        monkeypatch.setattr(images, "_MIRRORED", share)
        task.loss([0], torch.Generator().manual_seed(1))
    (camera, grid, cells, latents), mirror = told
    torch.testing.assert_close(mirror[0], mirrored_camera(camera))
    assert torch.equal(mirror[1], grid.flip(1)) and not torch.equal(mirror[1], grid)
    for occupied, own in ((grid, cells), (mirror[1], mirror[2])):
        assert bool((occupied[tuple(own.T)] == 1).all())
    assert torch.equal(mirror[2][:, 1], COARSE - 1 - cells[:, 1])
    torch.testing.assert_close(mirror[3][:, -3:], latents[:, -3:])
    assert not torch.equal(mirror[3], latents)


def test_an_earlier_encoder_is_the_start(
    guitar: CellObject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = LinearSLatEncoder(LATENT_ENCODER)
    encoder.fit([guitar.features()])
    save_model(encoder, tmp_path / "latent")
    earlier = ImageTask([guitar], encoder).encoder
    with torch.no_grad():
        earlier.head.get_parameter("bias").fill_(3.0)
    save_model(earlier, tmp_path / "earlier")
    monkeypatch.setattr("scenes.objects.small.train.read_cells", lambda folder: [guitar])
    config = StageConfig(
        stage="picture",
        latent=str(tmp_path / "latent"),
        start=str(tmp_path / "earlier"),
        steps=1,
        batch=1,
        learning_rate=1e-9,
    )
    train_stage(config, tmp_path)
    started = _bias(tmp_path / "image_encoder")
    torch.testing.assert_close(started, torch.full_like(started, 3.0), rtol=0, atol=1e-4)
    train_stage(replace(config, start=""), tmp_path / "anew")
    assert float(_bias(tmp_path / "anew" / "image_encoder").abs().max()) < 1


def _bias(path: Path) -> Tensor:
    encoder = load_model(path)
    assert isinstance(encoder, LiftingEncoder) and encoder.head.bias is not None
    return encoder.head.bias.detach()
