"""Prediction: an image or volume of any size becomes probabilities and masks.

    segmenter = load_segmenter()                  # the shipped one
    prediction = segmenter.predict(pixels)        # uint8 (h, w, 3)

An image is normalised as a whole (each channel to mean 0 and deviation 1).  Up to one tile it goes
through the network at once, as in the published evaluation; a larger one in tiles that overlap,
blended with weights that fade to the tiles' edges, so that no seam shows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import reduce
from itertools import product
from os import PathLike
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Shaped
from torch import Tensor, nn
from torch.nn.functional import interpolate

from geo3d import checkpoints
from geo3d.config import config_from_dict, config_to_dict
from geo3d.device import pick_device
from geo3d.errors import CheckpointError, InputError
from geo3d.files import asset
from geo3d.progress import ProgressCallback, ignore_progress, report
from geo3d.segmentation.config import SegmentationConfig
from geo3d.segmentation.kinds import WALLS, DataKind
from geo3d.segmentation.lite0 import Lite0UNet
from geo3d.segmentation.network import check_outputs, load_weights, make_network, weights
from geo3d.segmentation.wall_score import SEEN_SIDE, WallScore, wall_features

SHIPPED = "segmentation/mortar.safetensors"
TILE = 512
"""Side of a tile in pixels: the size of the training images."""
OVERLAP = 128
"""Pixels that neighbouring tiles share, at least."""
BLOCK, BLOCK_OVERLAP = 96, 32
"""The same of volumes, in voxels."""
_ROWS = 256
_SCORE = "wall_score."
"""Begins the names of the wall score's tensors in a file."""
NO_WALL = "this does not look like a wall ({:.0f} % sure that it is one): the mask may mean nothing"

Statistics = tuple[Float[np.ndarray, " c"], Float[np.ndarray, " c"]]
"""Mean and deviation of each channel."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a segmenter says about an image."""

    probabilities: Float[np.ndarray, " c *space"]
    """Of each class (or region), float32; of walls, class 0 is brick, class 1 mortar."""
    notes: tuple[str, ...] = ()
    kind: DataKind = WALLS
    """Names of the classes, or regions."""
    wall: float | None = None
    """How probable it is that the image shows a wall; None where the segmenter cannot tell."""

    @property
    def mask(self) -> Bool[np.ndarray, "*space"]:
        """True where the first class but the background, or the first region, is the likelier."""
        return next(iter(self.masks.values()))

    @property
    def masks(self) -> dict[str, Bool[np.ndarray, "*space"]]:
        """The mask of every class but the background, or of every region, by name."""
        return self.kind.predicted(self.probabilities)


@dataclass(frozen=True, eq=False)
class Segmenter:
    """A trained network and what is known about it."""

    network: nn.Module
    config: SegmentationConfig
    """Settings of its training."""
    out_channels: int = 2
    info: Mapping[str, Any] = field(default_factory=dict)
    """Data, steps and numbers of its training."""
    kind: DataKind = WALLS
    """What images it takes, and what it finds in them."""
    wall_score: WallScore | None = None
    """What tells walls from other images, if it has learned to (`train_wall_score`)."""

    def predict(
        self,
        image: Shaped[np.ndarray, "*space c"],
        *,
        tile: int | None = None,
        overlap: int | None = None,
        progress: ProgressCallback = ignore_progress,
    ) -> Prediction:
        """Segment one image.

        Args:
            image: what the network was trained on: colour or grey, image or volume.
            tile: side of what goes through the network at once, in pixels; rounded down to a
                multiple of the network's stride.
            overlap: pixels shared by neighbouring tiles, at least; less than half a tile.
            progress: receives an event per tile.

        Raises:
            InputError: ``segmenter.bad_image`` (no pixels, other channels or dimensions than
                trained on), ``segmenter.bad_tile``.
        """
        _check_image(image, self.kind)
        usual = (TILE, OVERLAP) if self.kind.dimensions == 2 else (BLOCK, BLOCK_OVERLAP)
        tile, overlap = (
            given if given is not None else size
            for given, size in zip((tile, overlap), usual, strict=True)
        )
        stride, smallest = self.config.network.stride, self.config.network.smallest
        tile = tile // stride * stride
        if tile < smallest or not 0 <= overlap <= tile // 2:
            raise InputError(
                "segmenter.bad_tile",
                f"Tiles of {tile} pixels that share {overlap} do not work.",
                f"Tiles need at least {smallest} pixels and share at most half of them.",
            )
        space = image.shape[:-1]
        first = image[(0,) * len(space)]
        notes = ("the image has one colour",) if (image == first).all() else ()
        padded = _padded(image, tile, stride, smallest)
        scale = channel_statistics(image)
        blended = self._blend(padded, scale, (tile, overlap), progress)
        found = np.ascontiguousarray(blended[(slice(None), *map(slice, space))])
        wall = self.wall_probability(image, found)
        if wall is not None and wall < 0.5:
            notes += (NO_WALL.format(100 * wall),)
        return Prediction(found, notes, self.kind, wall)

    def wall_features(
        self, image: Shaped[np.ndarray, "h w 3"], probabilities: Float[np.ndarray, "k h w"]
    ) -> Float64[np.ndarray, " n"]:
        """Return what tells whether an image shows a wall; only of the network lite0."""
        step = max(1, max(image.shape[:2]) // (2 * SEEN_SIDE))
        near = normalise(image[::step, ::step], channel_statistics(image))
        encoder = cast(Lite0UNet, self.network).encoder
        return wall_features(encoder, near, probabilities[1, ::step, ::step])

    def wall_probability(
        self, image: Shaped[np.ndarray, "*space c"], probabilities: Float[np.ndarray, " k *space"]
    ) -> float | None:
        """Return how probable it is that an image, segmented, shows a wall; None: cannot tell."""
        if self.wall_score is None:
            return None
        return self.wall_score.probability(self.wall_features(image, probabilities))

    def _blend(
        self,
        image: Shaped[np.ndarray, "*space c"],
        scale: Statistics,
        tiling: tuple[int, int],
        progress: ProgressCallback,
    ) -> Float[np.ndarray, " k *space"]:
        space = image.shape[:-1]
        tile, overlap = tiling
        sides = [min(tile, side) for side in space]
        corners = list(product(*(_starts(side, tile, overlap) for side in space)))
        if len(corners) == 1:
            return self._probabilities(normalise(image, scale))
        total = np.zeros((max(self.out_channels, 2 - bool(self.kind.regions)), *space), np.float32)
        weight = np.zeros(space, dtype=np.float32)
        fade = reduce(np.multiply.outer, [_fade(side, overlap) for side in sides])
        for done, corner in enumerate(corners):
            report(progress, "segmenting", done, len(corners))
            box = tuple(slice(at, at + side) for at, side in zip(corner, sides, strict=True))
            found = self._probabilities(normalise(image[box], scale))
            total[(slice(None), *box)] += fade * found
            weight[box] += fade
        report(progress, "segmenting", len(corners), len(corners))
        # In place: a large image's arrays are large.
        total /= weight
        return total

    def _scores(self, values: Tensor) -> Tensor:
        settings = self.config.network
        if settings.enlarge == 1:
            return self.network(values)
        return enlarged(self.network, values, settings.enlarge, settings.stride)

    @torch.no_grad()
    def _probabilities(
        self, image: Float[np.ndarray, " k *space"]
    ) -> Float[np.ndarray, " c *space"]:
        was_training = self.network.training
        device = next(self.network.parameters()).device
        self.network.eval()
        try:
            values = torch.from_numpy(np.ascontiguousarray(image))[None].to(device)
            scores = self._scores(values)
            if self.config.network.own:
                scores = check_outputs(scores, values, self.out_channels)
                has_heads = scores.ndim > values.ndim
                scores = scores[:, 0] if has_heads else scores
            scores = scores.float()
            if self.kind.is_binary and scores.shape[1] == 2:
                scores[:, 1] -= self.config.network.begins_at
            if self.kind.regions:
                return torch.sigmoid(scores)[0].cpu().numpy()
            return class_probabilities(scores)[0].cpu().numpy()
        finally:
            self.network.train(was_training)


def enlarged(
    network: Callable[[Tensor], Tensor], image: Float[Tensor, "b c h w"], by: float, stride: int
) -> Float[Tensor, "b k h w"]:
    """Return the scores of an image that the network sees ``by`` times larger."""
    sides = [max(round(side * by / stride), 1) * stride for side in image.shape[2:]]
    scores = network(interpolate(image, sides, mode="bilinear"))
    return interpolate(scores, image.shape[2:], mode="bilinear", antialias=True)


def _check_image(image: Shaped[np.ndarray, "*space c"], kind: DataKind) -> None:
    if image.size == 0:
        raise InputError("segmenter.bad_image", "The image has no pixels.", "")
    if (image.ndim - 1, image.shape[-1]) != (kind.dimensions, kind.channels):
        raise InputError(
            "segmenter.bad_image",
            f"An array of shape {image.shape} is not what this segmenter was trained on.",
            f"It takes {kind.dimensions} spatial axes and then {kind.channels} channels.",
        )


def class_probabilities(logits: Float[Tensor, "b c *space"]) -> Float[Tensor, "b k *space"]:
    """Return class probabilities; of a distance (one channel) the positive side is mortar."""
    if logits.shape[1] == 1:
        mortar = torch.sigmoid(logits)
        return torch.cat([1 - mortar, mortar], dim=1)
    return torch.softmax(logits, dim=1)


def normalise(
    image: Shaped[np.ndarray, "*space c"], scale: Statistics | None = None
) -> Float[np.ndarray, " c *space"]:
    """Return each channel minus its mean, over its deviation.

    Args:
        image: an image, or part of one.
        scale: mean and deviation of the whole image; None: those of ``image``.
    """
    mean, deviation = scale or channel_statistics(image)
    moved = np.moveaxis((image - mean) / deviation, -1, 0)
    return np.ascontiguousarray(moved, dtype=np.float32)


def channel_statistics(image: Shaped[np.ndarray, "*space c"]) -> Statistics:
    """Return mean and population deviation of each channel, float32; a deviation of 0 becomes 1.

    For 8 bits both come from counts of the 256 values, exactly, and in little memory.
    """
    channels = image.shape[-1]
    if image.dtype == np.uint8:
        counts = np.zeros((channels, 256), dtype=np.int64)
        for rows in range(0, image.shape[0], _ROWS):
            for channel in range(channels):
                values = image[rows : rows + _ROWS, ..., channel].ravel()
                counts[channel] += np.bincount(values, minlength=256)
        levels, total = np.arange(256.0), counts[0].sum()
        mean = counts @ levels / total
        deviation = np.sqrt((counts * (levels - mean[:, None]) ** 2).sum(axis=1) / total)
    else:
        parts = [image[..., channel].astype(np.float64) for channel in range(channels)]
        mean = np.array([part.mean() for part in parts])
        deviation = np.array([part.std() for part in parts])
    deviation[deviation == 0] = 1
    return mean.astype(np.float32), deviation.astype(np.float32)


def save_segmenter(path: str | PathLike[str], segmenter: Segmenter) -> str:
    """Write weights, in the precision its settings name, with settings; return the digest."""
    if segmenter.wall_score is not None:
        scored = {_SCORE + name: t for name, t in segmenter.wall_score.tensors().items()}
    else:
        scored = {}
    dtype = torch.float16 if segmenter.config.weights == "float16" else torch.float32
    tensors = {name: w.detach().to(dtype) for name, w in weights(segmenter.network).items()}
    settings = config_to_dict(segmenter.config)
    # The folder's name says enough; where it lay is nobody else's business.
    settings["data"]["root"] = Path(segmenter.config.data.root).name
    settings["data"]["groups"] = Path(segmenter.config.data.groups).name
    kind = segmenter.kind
    about = {
        **({} if kind == WALLS else {"kind": kind.to_dict()}),
        "segmenter": settings,
        "out_channels": segmenter.out_channels,
        "info": {key: value for key, value in segmenter.info.items() if key != "sha256"},
    }
    return checkpoints.save(path, {**tensors, **scored}, about)


def load_segmenter(
    path: str | PathLike[str] | None = None,
    device: str | torch.device = "auto",
    network: str = "",
) -> Segmenter:
    """Read a segmenter; without a path the shipped one.

    Args:
        path: file of `geo3d train segmenter`.
        device: see `geo3d.device.pick_device`.
        network: "package.module:function" of a network of one's own.  The file names it too, but
            code is never imported because a file says so.

    Raises:
        CheckpointError: ``segmenter.no_settings``, ``segmenter.other_network``,
            ``checkpoint.wrong_weights``, and those of `geo3d.checkpoints.load`.
        InputError: ``asset.missing``.
        ConfigError: see `geo3d.segmentation.network.make_network`.
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
    if config.network.own != network:
        made = f"with the network {config.network.own}" if config.network.own else "with ours"
        raise CheckpointError(
            "segmenter.other_network",
            f"{file} was trained {made}, and {network or 'no network'} was named.",
            "Name it (--network, or network=...): code is not imported because a file says so.",
        )
    out_channels = int(about.get("out_channels", 2))
    kind = DataKind.from_dict(about["kind"]) if "kind" in about else WALLS
    model = make_network(
        config.network, out_channels, in_channels=kind.channels, dimensions=kind.dimensions
    )
    tensors = dict(checkpoint.tensors)
    score = {n.removeprefix(_SCORE): tensors.pop(n) for n in [*tensors] if n.startswith(_SCORE)}
    load_weights(model, tensors)
    info = {**about.get("info", {}), "sha256": checkpoint.sha256}
    wall_score = WallScore.from_tensors(score) if score else None
    return Segmenter(model.to(place).eval(), config, out_channels, info, kind, wall_score)


def _padded(
    image: Shaped[np.ndarray, "*space c"], tile: int, stride: int, smallest: int
) -> Shaped[np.ndarray, "*larger c"]:
    """Mirror the image at its far edges up to a size the network takes."""
    extra = []
    for side in image.shape[:-1]:
        # Longer sides are covered by whole tiles.
        wanted = max(math.ceil(side / stride) * stride, smallest) if side <= tile else side
        extra.append((0, wanted - side))
    return np.pad(image, [*extra, (0, 0)], mode="symmetric")


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
