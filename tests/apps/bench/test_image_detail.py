"""Distances of images in features: nothing to itself, more where detail is blurred away."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import avg_pool2d, interpolate

from apps.bench import image_detail
from apps.bench.image_detail import feature_distances, image_features, kernel_distance
from geo3d.segmentation.lite0 import Lite0Encoder

torch.manual_seed(0)
ENCODER = Lite0Encoder().eval().requires_grad_(False)


def pictures(count: int = 3) -> torch.Tensor:
    coarse = torch.rand(count, 3, 20, 20, generator=torch.Generator().manual_seed(1))
    return interpolate(coarse, (80, 80), mode="nearest")


def blurred(images: torch.Tensor, side: int) -> torch.Tensor:
    return interpolate(avg_pool2d(images, side), images.shape[-2:], mode="bilinear")


def test_an_image_is_no_distance_from_itself_and_blur_costs() -> None:
    images = pictures()
    assert torch.equal(feature_distances(images, images, ENCODER), torch.zeros(3))
    some = feature_distances(blurred(images, 4), images, ENCODER)
    more = feature_distances(blurred(images, 20), images, ENCODER)
    assert (some > 0).all() and (more > some).all()


def test_a_distance_is_that_of_unit_features_summed_over_strides() -> None:
    ours, theirs = pictures(1), blurred(pictures(1), 8)
    total = 0.0
    for a, b in zip(image_features(ours, ENCODER), image_features(theirs, ENCODER), strict=True):
        cosine = torch.cosine_similarity(a, b, dim=1, eps=1e-12)
        total += float((2 - 2 * cosine).mean())
    assert abs(total - float(feature_distances(ours, theirs, ENCODER))) < 1e-4


def test_sizes_that_are_no_multiple_of_the_stride_are_taken() -> None:
    features = image_features(pictures(1)[..., :70], ENCODER)
    assert features[-1].shape[-2:] == (3, 3)


def test_kernel_distance_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one feature, the mean, the kernel is (a b + 1)^3."""
    monkeypatch.setattr(image_detail, "image_features", lambda images, _: [images[:, :1]])
    sets = {
        name: torch.tensor(values)[:, None, None, None].expand(2, 3, 4, 4)
        for name, values in (("spread", (0.0, 2.0)), ("one", (1.0, 1.0)), ("two", (2.0, 2.0)))
    }
    # among (0, 2) 1, among (1, 1) 8, between them (1 + 27) / 2: unbiased, so below 0
    assert kernel_distance(sets["spread"], sets["one"], ENCODER) == -19_000
    # 8 + 125 - 2 x 27
    assert kernel_distance(sets["one"], sets["two"], ENCODER) == 79_000
    assert kernel_distance(sets["two"], sets["two"], ENCODER) == 0
