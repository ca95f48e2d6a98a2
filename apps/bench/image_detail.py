"""How far images are from others in what a network that has seen ImageNet makes of them.

Detail that is blurred costs little in PSNR; here it costs much.  Features f_l of EfficientNet-Lite0
at five strides are scaled to unit length at every place, as LPIPS does, and compared there:

    d(a, b) = sum_l mean_xy |f_l(a) - f_l(b)|^2      0: the same; about 4: nothing in common

LPIPS's weights per channel, fitted to people's judgements on other networks, are left out.
`kernel_distance` compares sets of images and not pairs, as KID does, in features at stride 32
averaged over the image; KID's own network is another one, so its numbers are another scale.

Source: Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric"
(2018); Binkowski et al., "Demystifying MMD GANs" (2018) for KID.
"""

from __future__ import annotations

import functools

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize, pad

from geo3d.segmentation.lite0 import STRIDE, Lite0Encoder, imagenet_weights

_MEAN, _DEVIATION = 127 / 255, 128 / 255
"""What the encoder wants (v - 127) / 128 of bytes."""
_TINY = 1e-6


@functools.cache
def imagenet_encoder() -> Lite0Encoder:
    """Return the encoder with the weights that ImageNet has given it.

    Raises:
        BackendUnavailable: ``backend.lite0_missing`` without the package that carries them.
    """
    encoder = Lite0Encoder()
    encoder.load_state_dict(imagenet_weights())
    return encoder.eval().requires_grad_(False)


@torch.no_grad()
def image_features(
    images: Float[Tensor, "n 3 h w"], encoder: Lite0Encoder
) -> list[Float[Tensor, "n _ _ _"]]:
    """Return the features of images in [0, 1], of any size, at five strides."""
    height, width = images.shape[-2:]
    images = pad(images, (0, -width % STRIDE, 0, -height % STRIDE), mode="replicate")
    # the encoder halves what it is given
    return encoder(2 * (images - _MEAN) / _DEVIATION)


@torch.no_grad()
def feature_distances(
    ours: Float[Tensor, "n 3 h w"], theirs: Float[Tensor, "n 3 h w"], encoder: Lite0Encoder
) -> Float[Tensor, " n"]:
    """Return the distance d of each image from its partner."""
    total = torch.zeros(len(ours))
    pairs = zip(image_features(ours, encoder), image_features(theirs, encoder), strict=True)
    for a, b in pairs:
        apart = normalize(a, dim=1, eps=_TINY) - normalize(b, dim=1, eps=_TINY)
        total += apart.square().sum(dim=1).mean(dim=(1, 2))
    return total


@torch.no_grad()
def kernel_distance(
    ours: Float[Tensor, "n 3 h w"], theirs: Float[Tensor, "m 3 h w"], encoder: Lite0Encoder
) -> float:
    """Return 1000 times the squared distance of two sets of images (unbiased: may be negative)."""
    x, y = (image_features(part, encoder)[-1].mean(dim=(2, 3)).double() for part in (ours, theirs))

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / a.shape[1] + 1) ** 3

    def among(a: Tensor) -> Tensor:
        own = kernel(a, a)
        return (own.sum() - own.trace()) / (len(a) * (len(a) - 1))

    return float(1000 * (among(x) + among(y) - 2 * kernel(x, y).mean()))
