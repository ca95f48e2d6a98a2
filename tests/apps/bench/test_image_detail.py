"""Distances of images in features: nothing to itself, more where detail is blurred away."""

from __future__ import annotations

import torch
from torch.nn.functional import avg_pool2d, interpolate

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


def test_kernel_distance_is_unbiased_and_tells_sets_apart() -> None:
    images = pictures(8)
    near = kernel_distance(images[:4], images[4:], ENCODER)
    far = kernel_distance(images[:4], blurred(images[4:], 20), ENCODER)
    assert far > near
