"""A small segmenter of street images: RGB to class map, trained on the teacher's data.

It judges how well images keep to their layout: the mean intersection over union (mIoU) of what it
sees with what the layout says, beside its own mIoU on held-out images of the generator, which is
the most that can be reached.

Notation: n images, h w image, c classes; class 0 is "nothing" (sky), class i + 1 is id i of
`geo3d.layout.classes`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional

from geo3d import checkpoints
from geo3d.config import config_to_dict
from geo3d.device import item_generator
from geo3d.files import asset
from geo3d.layout.classes import PALETTE
from geo3d.progress import MetricsCallback, ProgressCallback, ignore_progress
from geo3d.work.schedules import one_cycle
from geo3d.work.state import TrainingState
from geo3d.work.training import Backward, Method, Plan, run_training
from scenes.urban.street_data import StreetImages, load_street_data

CLASS_COUNT = len(PALETTE) + 1
IGNORED_BELOW = 0.0005
"""Classes that cover less of the truth than this share are left out of the mean."""


class StreetSegmenter(nn.Module):
    """A U-Net of three levels; any image size that is a multiple of 4."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        a, b, c = width, 2 * width, 3 * width
        self.enter = _convolutions(3, a)
        self.down1, self.down2 = _convolutions(a, b), _convolutions(b, c)
        self.up1, self.up2 = _convolutions(c + b, b), _convolutions(b + a, a)
        self.leave = nn.Conv2d(a, CLASS_COUNT, 1)
        self.width = width

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c h w"]:
        """Return class scores of images in [-1, 1]."""
        x = self.enter(images)
        y = self.down1(functional.max_pool2d(x, 2))
        z = self.down2(functional.max_pool2d(y, 2))
        y = self.up1(torch.cat([functional.interpolate(z, scale_factor=2.0), y], dim=1))
        x = self.up2(torch.cat([functional.interpolate(y, scale_factor=2.0), x], dim=1))
        return self.leave(x)

    @torch.no_grad()
    def labels(self, images: UInt8[np.ndarray, "n h w 3"]) -> Int[np.ndarray, "n h w"]:
        """Return the class ids of images, int8; -1 where nothing is."""
        parts = [
            self(_normalised(images[i : i + 32])).argmax(dim=1).numpy()
            for i in range(0, len(images), 32)
        ]
        return (np.concatenate(parts) - 1).astype(np.int8)


@dataclass(frozen=True)
class SegmenterTrainingConfig:
    """Settings of `train_segmenter`."""

    data: str = ""
    """Folder of `scenes.urban.street_data`."""
    steps: int = 3000
    batch: int = 8
    learning_rate: float = 2e-3
    width: int = 24
    held_out: int = 400
    """Images at the end of the data that are measured, not learned."""
    checkpoint_seconds: float = 300.0
    """Seconds between checkpoints."""
    seed: int = 0


def train_segmenter(
    config: SegmenterTrainingConfig,
    path: str | os.PathLike[str],
    *,
    log_metrics: MetricsCallback = ignore_progress,
    progress: ProgressCallback = ignore_progress,
) -> dict[str, Any]:
    """Train a segmenter, write it to ``path`` and return its numbers on held-out images.

    Beside it lies ``checkpoint.safetensors``, which is resumed from.

    Raises:
        NumericalError: ``training.diverged``.
        CheckpointError: ``checkpoint.other_training``.
        InputError, FileFormatError: errors of reading the data.
    """
    data = load_street_data(config.data)
    training = _SegmenterTraining(config, data)
    # 1/25 and 1/250000 of the rate: where a cycle begins and ends in torch.optim.OneCycleLR
    low = config.learning_rate / 25
    rate = partial(
        one_cycle, steps=config.steps + 1, middle=config.learning_rate, start=low, end=low / 1e4
    )
    plan = Plan.of(config, "training the segmenter", config.steps, rate)
    settings = {**config_to_dict(config), "data": len(data)}
    run_training(
        training, plan, Path(path).parent, settings, log_metrics=log_metrics, progress=progress
    )
    network = training.network.eval()
    numbers = measure(network, data.part(slice(training.count, None)))
    about = {"width": config.width, "steps": config.steps, "seed": config.seed, **numbers}
    checkpoints.save(path, network.state_dict(), about)
    return numbers


class _SegmenterTraining(Method):
    """A segmenter of streets and the images it learns from."""

    def __init__(self, config: SegmenterTrainingConfig, data: StreetImages) -> None:
        self.config, self.data = config, data
        self.count = max(1, len(data) - config.held_out)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(item_generator(config.seed, "segmenter").initial_seed())
            network = StreetSegmenter(config.width)
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.weights = _class_weights(data.labels[: self.count])
        optimizer = torch.optim.AdamW(self.network.parameters(), lr=config.learning_rate)
        super().__init__(TrainingState(self.network, optimizer))

    def prepare(self) -> None:
        # the momentum goes the other way than the rate, as in torch.optim.OneCycleLR
        momentum = one_cycle(self.state.step, self.config.steps + 1, 0.85, 0.95, 0.95)
        for group in self.state.optimizer.param_groups:
            group["betas"] = (momentum, group["betas"][1])

    def gradients(self, backward: Backward) -> Mapping[str, Tensor | float]:
        generator = item_generator(self.config.seed, f"segmenter step {self.state.step}")
        chosen = torch.randint(self.count, (self.config.batch,), generator=generator).tolist()
        images = _jittered(_normalised(self.data.images[chosen]), generator)
        truth = torch.from_numpy(self.data.labels[chosen].astype(np.int64) + 1)
        loss = functional.cross_entropy(self.network(images), truth, self.weights)
        backward(loss)
        return {"loss": loss.detach()}


def load_segmenter(path: str | os.PathLike[str]) -> StreetSegmenter:
    """Read a segmenter.

    Raises:
        CheckpointError: those of `geo3d.checkpoints`.
    """
    width = int(checkpoints.load(path).config.get("width", 24))
    network = StreetSegmenter(width)
    checkpoints.load_into(network, path)
    return network.eval().requires_grad_(False)


@cache
def shipped_segmenter() -> StreetSegmenter:
    """Return the segmenter in ``assets/urban``.

    Raises:
        InputError: ``asset.missing``.
    """
    return load_segmenter(Path(asset("urban/segmenter.safetensors")))


def measure(network: StreetSegmenter, data: StreetImages) -> dict[str, Any]:
    """Return mIoU, accuracy and IoU by class id of the segmenter on images of the generator."""
    return agreement(network.labels(data.images), data.labels)


def agreement(seen: Int[np.ndarray, "n h w"], truth: Int[np.ndarray, "n h w"]) -> dict[str, Any]:
    """Return ``miou``, ``accuracy`` and ``iou`` by class id (-1 nothing) of two class maps.

    Classes that cover less than `IGNORED_BELOW` of the truth are left out.
    """
    pairs = (truth.astype(int) + 1) * CLASS_COUNT + seen.astype(int) + 1
    table = np.bincount(pairs.ravel(), minlength=CLASS_COUNT**2).reshape(CLASS_COUNT, CLASS_COUNT)
    hits = np.diag(table)
    union = table.sum(axis=0) + table.sum(axis=1) - hits
    present = table.sum(axis=1) > IGNORED_BELOW * table.sum()
    iou: Mapping[str, float] = {
        str(i - 1): float(hits[i] / union[i]) for i in np.flatnonzero(present).tolist()
    }
    return {
        "miou": float(np.mean(list(iou.values()))) if iou else 0.0,
        "accuracy": float(hits.sum() / max(1, table.sum())),
        "iou": dict(iou),
    }


def _convolutions(inputs: int, outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in (inputs, outputs):
        layers += [nn.Conv2d(width, outputs, 3, padding=1), nn.GroupNorm(4, outputs), nn.SiLU()]
    return nn.Sequential(*layers)


def _class_weights(labels: Int[np.ndarray, "n h w"]) -> Float[Tensor, " c"]:
    """Return weights that grow slowly with rarity, so that persons and bins are not given up."""
    share = np.bincount(labels.ravel().astype(int) + 1, minlength=CLASS_COUNT) / labels.size
    return torch.from_numpy((share + 1e-3) ** -0.3).float()


def _normalised(images: UInt8[np.ndarray, "n h w 3"]) -> Float[Tensor, "n 3 h w"]:
    scaled = torch.from_numpy(images.astype(np.float32) / 127.5 - 1).permute(0, 3, 1, 2)
    return scaled.contiguous(memory_format=torch.channels_last)


def _jittered(
    images: Float[Tensor, "n 3 h w"], generator: torch.Generator
) -> Float[Tensor, "n 3 h w"]:
    """Blur, brighten and noise a little: rendered and sampled images are not as crisp."""
    count = len(images)
    gain = 1 + 0.1 * torch.randn(count, 3, 1, 1, generator=generator)
    shift = 0.1 * torch.randn(count, 1, 1, 1, generator=generator)
    noise = 0.04 * torch.randn(images.shape, generator=generator)
    blurred = functional.avg_pool2d(images, 3, 1, 1, count_include_pad=False)
    soft = torch.rand(count, 1, 1, 1, generator=generator)
    return (images.lerp(blurred, soft) * gain + shift + noise).clamp(-1, 1)
