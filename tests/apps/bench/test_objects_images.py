"""Images of held-out objects to objects, by every way there is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from object_pipelines import tiny_pipeline_folder
from small_stages import small_objects
from torch import nn

from apps.bench.objects_images import ImagesConfig, bench_images, guessed
from geo3d.errors import ConfigError
from scenes.objects.condition import SmallEncoderConfig, SmallImageEncoder
from scenes.objects.decoders import SLatDecoderConfig, SLatMeshDecoder
from scenes.objects.embeddings import unpatchify
from scenes.objects.lifting import Guess, LiftingConfig, LiftingEncoder
from scenes.objects.pipeline import Pipeline
from scenes.objects.samplers import SamplerConfig
from scenes.objects.small.cells import write_cells


def test_every_maker_is_measured(tmp_path: Path) -> None:
    model = tiny_pipeline_folder(tmp_path / "model")
    write_cells(tmp_path / "cells-0000.npz", small_objects()[:1])
    how = ImagesConfig(
        str(model), str(tmp_path), makers=("teacher 2", "few 1", "student 1"), points=500
    )
    rows = bench_images(how)
    assert [row["made by"] for row in rows] == ["teacher 2", "few 1", "student 1"]
    for row in rows:
        assert row["objects"] == 1 and 0 <= row["F-score"] <= 1 and 0 <= row["IoU 16^3"] <= 1
        assert 0 < row["error of colours"] <= 1
    with pytest.raises(ConfigError) as caught:
        bench_images(ImagesConfig(str(model), str(tmp_path), makers=("guess",)))
    assert caught.value.code == "images.no_guess"


class Reader(nn.Module):
    """Structures as they are told."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return self.scale * unpatchify(z, 2)


def pipeline_of(**networks: nn.Module) -> Pipeline:
    sampler = SamplerConfig(steps=1, guidance_scale=None)
    return Pipeline(
        {"sparse_structure_decoder": Reader(), **networks},
        SmallImageEncoder(SmallEncoderConfig(size=16, channels=8, depth=1, heads=2)),
        (sampler, sampler),
        ([0.0] * 4, [1.0] * 4),
    )


def test_a_guess_is_decoded_where_it_is_sure() -> None:
    torch.manual_seed(0)
    small = LiftingConfig(
        size=64, widths=(8, 8, 8, 8), code=8, channels=16, latent_channels=4, grid_widths=(8, 8, 8)
    )
    encoder = LiftingEncoder(small)
    wide = SLatDecoderConfig(
        resolution=16, latent_channels=4, model_channels=256, num_blocks=1, num_heads=2
    )
    decoder = SLatMeshDecoder(wide)
    decoder.out_layer.bias.data[:8] = torch.tensor([-1.0, 1.0] * 4)
    pipeline = pipeline_of(slat_decoder_mesh=decoder)
    encoder.head.get_parameter("bias").data[0] = 100.0
    mesh, cells = guessed(pipeline, encoder, small_objects()[0])
    assert mesh is not None and len(cells) == 16**3
    encoder.head.get_parameter("bias").data[0] = -100.0
    mesh, cells = guessed(pipeline, encoder, small_objects()[0])
    assert mesh is None and len(cells) == 0
    mesh, cells = guessed(pipeline, encoder, small_objects()[0], true_cells=True)
    assert mesh is not None and len(cells) == len(small_objects()[0].coords)


def test_the_guess_sees_by_the_true_camera_where_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Watched(LiftingEncoder):
        def guess(self, pixels: Any, cameras: Any = None, told: Any = None) -> Guess:
            asked.append((cameras, told))
            return super().guess(pixels, cameras, told)

    torch.manual_seed(0)
    small = LiftingConfig(
        size=64, widths=(8, 8, 8, 8), code=8, channels=16, latent_channels=4, grid_widths=(8, 8, 8)
    )
    item = small_objects()[0]
    encoder = Watched(small)
    encoder.head.get_parameter("bias").data[0] = -100.0
    for true_camera in (False, True):
        guessed(pipeline_of(), encoder, item, true_camera)
    assert [float(told) for _, told in asked] == [0, 1]
    assert all(torch.equal(camera[0], torch.from_numpy(item.cameras[0])) for camera, _ in asked)


def test_an_unknown_kind_of_guess_is_refused() -> None:
    with pytest.raises(ConfigError, match="guess true camera, guess true cells"):
        ImagesConfig(makers=("guess true colour",))
