"""Images of held-out objects to objects, by every way there is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from object_pipelines import tiny_pipeline_folder
from small_stages import small_objects

from apps.bench.objects_images import ImagesConfig, bench_images, guessed
from geo3d.errors import ConfigError
from scenes.objects.condition import SmallEncoderConfig, SmallImageEncoder
from scenes.objects.decoders import SLatDecoderConfig, SLatMeshDecoder
from scenes.objects.lifting import LiftingConfig, LiftingEncoder
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
    sampler = SamplerConfig(steps=1, guidance_scale=None)
    pipeline = Pipeline(
        {"slat_decoder_mesh": decoder},
        SmallImageEncoder(SmallEncoderConfig(size=16, channels=8, depth=1, heads=2)),
        (sampler, sampler),
        ([0.0] * 4, [1.0] * 4),
    )
    encoder.head.get_parameter("bias").data[0] = 100.0
    mesh, cells = guessed(pipeline, encoder, small_objects()[0])
    # everything is full: the shell is what can be seen of it
    assert mesh is not None and len(cells) == 16**3 - 14**3
    encoder.head.get_parameter("bias").data[0] = -100.0
    mesh, cells = guessed(pipeline, encoder, small_objects()[0])
    assert mesh is None and len(cells) == 0
