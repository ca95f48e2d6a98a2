"""Segmenters: images of any size, tiles, files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from geo3d import checkpoints
from geo3d.errors import CheckpointError, InputError
from geo3d.files import asset_roots
from geo3d.segmentation.config import DataConfig, SegmentationConfig
from geo3d.segmentation.network import NetworkConfig, make_network
from geo3d.segmentation.predict import (
    SHIPPED,
    Segmenter,
    enlarged,
    load_segmenter,
    normalise,
    save_segmenter,
)
from geo3d.synth.walls import brick_wall
from geo3d.topology.metrics import dice

CONFIG = SegmentationConfig(network=NetworkConfig((4, 6, 8)))


class Pointwise(nn.Module):
    """A network that looks at single pixels, so that tiling must change nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(2.0))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        score = self.gain * image.sum(dim=1, keepdim=True)
        return torch.cat([-score, score], dim=1)


def pointwise() -> Segmenter:
    return Segmenter(Pointwise(), CONFIG)


def untrained(out_channels: int = 2, seed: int = 0) -> Segmenter:
    generator = torch.Generator().manual_seed(seed)
    network = make_network(CONFIG.network, out_channels, generator)
    return Segmenter(network, CONFIG, out_channels)


def random_image(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_normalisation_gives_mean_0_and_deviation_1() -> None:
    values = normalise(random_image(20, 30))
    np.testing.assert_allclose(values.mean(axis=(1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(values.std(axis=(1, 2)), 1, atol=1e-5)
    assert (normalise(np.full((3, 4, 3), 9, np.uint8)) == 0).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (7, 9), (40, 40), (41, 97), (100, 33)])
def test_any_size_gives_probabilities_of_that_size(size: tuple[int, int]) -> None:
    prediction = untrained().predict(random_image(*size), tile=40, overlap=8)
    assert prediction.probabilities.shape == (2, *size)
    assert prediction.probabilities.dtype == np.float32
    np.testing.assert_allclose(prediction.probabilities.sum(axis=0), 1, atol=1e-5)
    assert prediction.mask.shape == size and prediction.mask.dtype == bool


@pytest.mark.parametrize("overlap", [0, 1, 8, 20])
def test_tiles_are_blended_without_a_trace(overlap: int) -> None:
    image = random_image(95, 131)
    whole = pointwise().predict(image, tile=512)
    tiled = pointwise().predict(image, tile=40, overlap=overlap)
    np.testing.assert_allclose(tiled.probabilities, whole.probabilities, atol=1e-6)


def test_tiles_of_a_real_network_agree_away_from_their_edges() -> None:
    segmenter = untrained()
    image = brick_wall(1, 160, 160).image
    whole = segmenter.predict(image, tile=160, overlap=0).probabilities[1]
    tiled = segmenter.predict(image, tile=128, overlap=64).probabilities[1]
    assert np.abs(whole - tiled).mean() < 0.1
    # No seam: the largest step between neighbours does not grow.
    for axis in (0, 1):
        steps = [np.abs(np.diff(p, axis=axis)).max() for p in (whole, tiled)]
        assert steps[1] < 1.3 * steps[0]


def test_progress_names_the_tiles() -> None:
    events: list[Any] = []
    pointwise().predict(random_image(60, 60), tile=40, overlap=8, progress=events.append)
    assert [e["step"] for e in events] == [0, 1, 2, 3, 4] and events[-1]["total"] == 4


def test_an_image_of_one_colour_is_noted() -> None:
    prediction = untrained().predict(np.full((20, 20, 3), 80, np.uint8))
    assert prediction.notes == ("the image has one colour",)
    assert np.isfinite(prediction.probabilities).all()


def test_a_distance_means_mortar_where_positive() -> None:
    segmenter = untrained(out_channels=1)
    image = random_image(32, 32)
    with torch.no_grad():
        scores = segmenter.network.eval()(torch.from_numpy(normalise(image))[None])
    np.testing.assert_array_equal(segmenter.predict(image).mask, scores[0, 0].numpy() > 0)


def test_prediction_leaves_the_network_in_its_mode() -> None:
    segmenter = untrained()
    for mode in (True, False):
        segmenter.network.train(mode)
        segmenter.predict(random_image(16, 16))
        assert segmenter.network.training is mode


def test_errors() -> None:
    segmenter = pointwise()
    with pytest.raises(InputError, match=r"segmenter\.bad_image"):
        segmenter.predict(np.zeros((0, 5, 3), np.uint8))
    for given in ({"tile": 4}, {"tile": 40, "overlap": 21}, {"overlap": -1}):
        with pytest.raises(InputError, match=r"segmenter\.bad_tile"):
            segmenter.predict(random_image(9, 9), **given)


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_segmenter_goes_to_a_file_and_back(tmp_path: Path, precision: Any) -> None:
    made = untrained()
    config = SegmentationConfig(network=CONFIG.network, weights=precision, seed=3)
    path = tmp_path / "segmenter.safetensors"
    digest = save_segmenter(path, Segmenter(made.network, config, 2, {"steps": 7}))
    read = load_segmenter(path, "cpu")
    assert read.config == config and read.info == {"steps": 7, "sha256": digest}
    image = random_image(32, 32)
    atol = 1e-7 if precision == "float32" else 5e-3
    found, wanted = read.predict(image).probabilities, made.predict(image).probabilities
    np.testing.assert_allclose(found, wanted, atol=atol)


def test_files_of_something_else_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    checkpoints.save(path, {"a": torch.zeros(2)}, {"some": "thing"})
    with pytest.raises(CheckpointError, match=r"segmenter\.no_settings"):
        load_segmenter(path, "cpu")
    save_segmenter(path, untrained())
    settings = dict(checkpoints.load(path).config)
    checkpoints.save(path, {"a": torch.zeros(2)}, settings)
    with pytest.raises(CheckpointError, match=r"checkpoint\.wrong_weights"):
        load_segmenter(path, "cpu")


def test_an_image_is_enlarged_for_the_network_and_back() -> None:
    seen = []

    def network(image: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(image.shape))
        return image[:, :2]

    image = torch.linspace(0, 1, 64)[:, None].expand(1, 3, 64, 64)
    found = enlarged(network, image, 1.5, 32)
    assert seen == [(1, 3, 96, 96)] and found.shape == (1, 2, 64, 64)
    torch.testing.assert_close(found, image[:, :2], atol=0.01, rtol=0)


def test_mortar_begins_where_the_settings_say() -> None:
    plain = untrained()
    moved = replace(plain, config=replace(CONFIG, network=replace(CONFIG.network, begins_at=2.0)))
    p, q = (s.predict(random_image(64, 64)).probabilities[1] for s in (plain, moved))
    np.testing.assert_allclose(np.log(q / (1 - q)), np.log(p / (1 - p)) - 2, atol=1e-3)


def test_the_shipped_segmenter_finds_mortar() -> None:
    if not any((root / SHIPPED).is_file() for root in asset_roots()):
        pytest.skip("this checkout ships no segmenter")
    segmenter = load_segmenter(device="cpu")
    scores = []
    for seed in range(4):
        wall = brick_wall(10_000 + seed, 192, 192, style="running")
        scores.append(dice(segmenter.predict(wall.image).mask, wall.mask))
    assert np.mean(scores) > 0.7


def test_a_file_does_not_tell_where_the_data_lay(tmp_path: Path) -> None:
    config = SegmentationConfig(DataConfig("/home/somebody/topomortar"), network=CONFIG.network)
    path = tmp_path / "segmenter.safetensors"
    save_segmenter(path, Segmenter(untrained().network, config))
    assert b"somebody" not in path.read_bytes()
    read = load_segmenter(path, "cpu")
    assert read.config.data.root == "topomortar"
    again = tmp_path / "again.safetensors"
    save_segmenter(again, read)
    assert checkpoints.load(again).config == checkpoints.load(path).config
