"""Prediction: an image of any size becomes a mask of mortar.

    segmenter = load_segmenter()                  # the shipped one
    prediction = segmenter.predict(pixels)        # uint8 (h, w, 3)

An image is normalised as a whole (each channel to mean 0 and deviation 1).  Up to one tile it goes
through the network at once, as in the published evaluation; a larger one in tiles that overlap,
blended with weights that fade to the tiles' edges, so that no seam shows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from geo3d import checkpoints
from geo3d.config import config_from_dict, config_to_dict
from geo3d.device import pick_device
from geo3d.errors import CheckpointError, InputError
from geo3d.files import asset
from geo3d.progress import ProgressCallback, ignore_progress, report
from geo3d.segmentation.config import SegmentationConfig
from geo3d.segmentation.network import load_weights, make_network, weights

SHIPPED = "segmentation/mortar.safetensors"
TILE = 512
"""Side of a tile in pixels: the size of the training images."""
OVERLAP = 128
"""Pixels that neighbouring tiles share, at least."""
_ROWS = 256

Statistics = tuple[Float[np.ndarray, " 3"], Float[np.ndarray, " 3"]]
"""Mean and deviation of each channel."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a segmenter says about an image."""

    probabilities: Float[np.ndarray, "c h w"]
    """Of each class, float32; class 0 is brick, class 1 mortar."""
    notes: tuple[str, ...] = ()

    @property
    def mask(self) -> Bool[np.ndarray, "h w"]:
        """True where mortar is the likelier."""
        return self.probabilities[1] > self.probabilities[0]


@dataclass(frozen=True, eq=False)
class Segmenter:
    """A trained network and what is known about it."""

    network: nn.Module
    config: SegmentationConfig
    """Settings of its training."""
    out_channels: int = 2
    info: Mapping[str, Any] = field(default_factory=dict)
    """Data, steps and numbers of its training."""

    def predict(
        self,
        image: UInt8[np.ndarray, "h w 3"],
        *,
        tile: int = TILE,
        overlap: int = OVERLAP,
        progress: ProgressCallback = ignore_progress,
    ) -> Prediction:
        """Segment one image.

        Args:
            image: RGB.
            tile: side of what goes through the network at once, in pixels; rounded down to a
                multiple of the network's stride.
            overlap: pixels shared by neighbouring tiles, at least; less than half a tile.
            progress: receives an event per tile.

        Raises:
            InputError: ``segmenter.bad_image`` (no pixels), ``segmenter.bad_tile``.
        """
        if image.size == 0:
            raise InputError("segmenter.bad_image", "The image has no pixels.", "")
        stride, smallest = self.config.network.stride, self.config.network.smallest
        tile = tile // stride * stride
        if tile < smallest or not 0 <= overlap <= tile // 2:
            raise InputError(
                "segmenter.bad_tile",
                f"Tiles of {tile} pixels that share {overlap} do not work.",
                f"Tiles need at least {smallest} pixels and share at most half of them.",
            )
        height, width, _ = image.shape
        notes = ("the image has one colour",) if (image == image[0, 0]).all() else ()
        padded = _padded(image, tile, stride, smallest)
        scale = channel_statistics(image)
        blended = self._blend(padded, scale, (tile, overlap), progress)
        return Prediction(np.ascontiguousarray(blended[:, :height, :width]), notes)

    def _blend(
        self,
        image: UInt8[np.ndarray, "h w 3"],
        scale: Statistics,
        tiling: tuple[int, int],
        progress: ProgressCallback,
    ) -> Float[np.ndarray, "c h w"]:
        height, width, _ = image.shape
        tile, overlap = tiling
        rows, columns = min(tile, height), min(tile, width)
        corners = list(_corners(height, width, tile, overlap))
        if len(corners) == 1:
            return self._probabilities(normalise(image, scale))
        total = np.zeros((2, height, width), dtype=np.float32)
        weight = np.zeros((height, width), dtype=np.float32)
        fade = np.outer(_fade(rows, overlap), _fade(columns, overlap))
        for done, (y, x) in enumerate(corners):
            report(progress, "segmenting", done, len(corners))
            box = (slice(y, y + rows), slice(x, x + columns))
            found = self._probabilities(normalise(image[box], scale))
            total[(slice(None), *box)] += fade * found
            weight[box] += fade
        report(progress, "segmenting", len(corners), len(corners))
        # In place: a large image's arrays are large.
        total /= weight
        return total

    @torch.no_grad()
    def _probabilities(self, image: Float[np.ndarray, "3 h w"]) -> Float[np.ndarray, "2 h w"]:
        was_training = self.network.training
        device = next(self.network.parameters()).device
        self.network.eval()
        try:
            values = torch.from_numpy(np.ascontiguousarray(image))[None].to(device)
            return class_probabilities(self.network(values).float())[0].cpu().numpy()
        finally:
            self.network.train(was_training)


def class_probabilities(logits: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 2 h w"]:
    """Return class probabilities; of a distance (one channel) the positive side is mortar."""
    if logits.shape[1] == 1:
        mortar = torch.sigmoid(logits)
        return torch.cat([1 - mortar, mortar], dim=1)
    return torch.softmax(logits, dim=1)


def normalise(
    image: UInt8[np.ndarray, "h w 3"], scale: Statistics | None = None
) -> Float[np.ndarray, "3 h w"]:
    """Return each channel minus its mean, over its deviation.

    Args:
        image: an image, or part of one.
        scale: mean and deviation of the whole image; None: those of ``image``.
    """
    mean, deviation = scale or channel_statistics(image)
    return np.ascontiguousarray(((image - mean) / deviation).transpose(2, 0, 1), dtype=np.float32)


def channel_statistics(image: UInt8[np.ndarray, "h w 3"]) -> Statistics:
    """Return mean and population deviation of each channel, float32; a deviation of 0 becomes 1.

    Both come from counts of the 256 values, exactly, and in little memory.
    """
    counts = np.zeros((3, 256), dtype=np.int64)
    for rows in range(0, image.shape[0], _ROWS):
        for channel in range(3):
            values = image[rows : rows + _ROWS, :, channel].ravel()
            counts[channel] += np.bincount(values, minlength=256)
    levels, total = np.arange(256.0), counts[0].sum()
    mean = counts @ levels / total
    deviation = np.sqrt((counts * (levels - mean[:, None]) ** 2).sum(axis=1) / total)
    deviation[deviation == 0] = 1
    return mean.astype(np.float32), deviation.astype(np.float32)


def save_segmenter(path: str | PathLike[str], segmenter: Segmenter) -> str:
    """Write weights, in the precision its settings name, with settings; return the digest."""
    dtype = torch.float16 if segmenter.config.weights == "float16" else torch.float32
    tensors = {name: w.detach().to(dtype) for name, w in weights(segmenter.network).items()}
    settings = config_to_dict(segmenter.config)
    # The folder's name says enough; where it lay is nobody else's business.
    settings["data"]["root"] = Path(segmenter.config.data.root).name
    about = {
        "segmenter": settings,
        "out_channels": segmenter.out_channels,
        "info": {key: value for key, value in segmenter.info.items() if key != "sha256"},
    }
    return checkpoints.save(path, tensors, about)


def load_segmenter(
    path: str | PathLike[str] | None = None, device: str | torch.device = "auto"
) -> Segmenter:
    """Read a segmenter; without a path the shipped one.

    Raises:
        CheckpointError: ``segmenter.no_settings``, ``checkpoint.wrong_weights``, and those of
            `geo3d.checkpoints.load`.
        InputError: ``asset.missing``.
    """
    file = asset(SHIPPED) if path is None else path
    place = pick_device(device) if isinstance(device, str) else device
    checkpoint = checkpoints.load(file)
    about = checkpoint.config
    if "segmenter" not in about:
        raise CheckpointError(
            "segmenter.no_settings",
            f"{file} is no segmenter: it holds no settings of one.",
            "Give a file made by `geo3d train segmenter`.",
        )
    config = config_from_dict(SegmentationConfig, about["segmenter"])
    out_channels = int(about.get("out_channels", 2))
    network = make_network(config.network, out_channels)
    load_weights(network, checkpoint.tensors)
    info = {**about.get("info", {}), "sha256": checkpoint.sha256}
    return Segmenter(network.to(place).eval(), config, out_channels, info)


def _padded(
    image: UInt8[np.ndarray, "h w 3"], tile: int, stride: int, smallest: int
) -> UInt8[np.ndarray, "H W 3"]:
    """Mirror the image at its far edges up to a size the network takes."""
    extra = []
    for side in image.shape[:2]:
        # Longer sides are covered by whole tiles.
        wanted = max(math.ceil(side / stride) * stride, smallest) if side <= tile else side
        extra.append((0, wanted - side))
    return np.pad(image, [*extra, (0, 0)], mode="symmetric")


def _corners(height: int, width: int, tile: int, overlap: int) -> Iterator[tuple[int, int]]:
    for y in _starts(height, tile, overlap):
        for x in _starts(width, tile, overlap):
            yield y, x


def _starts(side: int, tile: int, overlap: int) -> list[int]:
    """Return where tiles begin: evenly spaced, the first and the last at the ends."""
    if side <= tile:
        return [0]
    count = math.ceil((side - overlap) / (tile - overlap))
    return [round(i * (side - tile) / (count - 1)) for i in range(count)]


def _fade(side: int, overlap: int) -> Float[np.ndarray, " side"]:
    """Return weights that rise from almost 0 at both ends to 1 over the overlap."""
    place = np.minimum(np.arange(side), np.arange(side)[::-1]) + 0.5
    rise = np.clip(place / max(overlap, 1), 0, 1)
    return np.sin(0.5 * np.pi * rise).astype(np.float32) ** 2
