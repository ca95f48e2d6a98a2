"""Settings of training a segmenter; the defaults are the published protocol.

Presets: "paper" is that protocol (12,000 iterations on whole images; needs a GPU), "cpu" fits two
cores and a few minutes, "smoke" shows in seconds that everything works, "shipped" made the model
that comes with the package.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from geo3d.config import require, require_at_least
from geo3d.segmentation.network import NetworkConfig
from geo3d.work.schedules import power

Framework = Literal["supervised", "selfdistillation", "randhue"]


@dataclass(frozen=True)
class DataConfig:
    """What `geo3d.segmentation.data.open_dataset` opens."""

    root: str = ""
    """Folder of images and masks in any known layout; empty means generated walls only."""
    groups: str = ""
    """Table of the images' groups (ID,group), if it does not lie in the folder."""
    labels: Literal["accurate", "noisy", "pseudo"] = "accurate"
    size: Literal["large", "small"] = "large"
    walls: int = 0
    """Generated walls added to the training images, of all groups in turn."""
    wall_side: int = 256
    """Side of a generated wall in pixels."""
    wall_seed: int = 0

    def __post_init__(self) -> None:
        require_at_least(self, 0, "walls")
        require_at_least(self, 16, "wall_side")


@dataclass(frozen=True)
class SegmentationConfig:
    """Settings of `train_segmenter`."""

    data: DataConfig = field(default_factory=DataConfig)
    loss: str = "ce_dice"
    """Key of `geo3d.topology.losses.catalogue.LOSSES`, or "package.module:function"."""
    scnp: bool = False
    """Judge each pixel by its worst neighbour of the same class, around any loss."""
    framework: Framework = "supervised"
    """Plain training, three generations of self-distillation, or random hues."""
    compat: bool = False
    """Losses and frameworks with the published code's defects."""
    network: NetworkConfig = field(default_factory=NetworkConfig)
    iterations: int = 12_000
    """Optimiser steps, over all generations."""
    generations: int = 3
    """Networks trained one after the other in self-distillation."""
    batch: int = 10
    """Images per step."""
    crop: int | None = None
    """Side of the random square cut from each image; None takes whole images of one size."""
    augmentation: Literal["published", "wide", "flips", "none"] = "published"
    """The ten published changes, strange views of walls (`geo3d.synth.wide_walls`), or less."""
    hue_probability: float = 0.5
    """How often the framework randhue changes an image."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """SGD with Nesterov momentum, as published, or AdamW."""
    learning_rate: float = 0.01
    encoder_rate: float = 1.0
    """Learning rate of the encoder of a network of the kind lite0, relative to the others."""
    momentum: float = 0.99
    weight_decay: float = 3e-5
    power: float = 0.9
    """The learning rate falls as (1 - done)^power."""
    clip: float = 12.0
    """Largest norm of the gradient."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the network in training, on devices that know bfloat16."""
    validate_every: int = 1200
    """Steps between measurements on validation images; 0 never measures."""
    validation_pictures: int = 20
    """Images measured, at most."""
    log_every: int = 20
    """Steps per line of metrics."""
    checkpoint_seconds: float = 300.0
    """Seconds between checkpoints."""
    weights: Literal["float32", "float16"] = "float32"
    """Precision of the segmenter on disk."""
    seed: int = 0

    def __post_init__(self) -> None:
        require_at_least(self, 1, "iterations generations batch log_every")
        require_at_least(self, 0, "validate_every validation_pictures weight_decay power")
        require(self.learning_rate > 0 and self.clip > 0, "learning_rate and clip", "above 0")
        require(0 <= self.momentum < 1, "momentum", "in [0, 1)")
        require_at_least(self, 0, "encoder_rate")
        if self.augmentation == "wide":
            is_fit = self.crop is not None and self.framework != "selfdistillation"
            require(is_fit, "augmentation", "wide only with a crop, and not in self-distillation")
        require(0 <= self.hue_probability <= 1, "hue_probability", "in [0, 1]")
        if self.framework == "selfdistillation":
            whole = self.iterations % self.generations == 0
            require(whole, "iterations", "a multiple of generations")
        if self.crop is not None:
            stride, smallest = self.network.stride, self.network.smallest
            fits = self.crop % stride == 0 and self.crop >= smallest
            require(fits, "crop", f"a multiple of {stride} and at least {smallest}")

    @property
    def iterations_per_generation(self) -> int:
        """Optimiser steps of one network."""
        is_distilled = self.framework == "selfdistillation"
        return self.iterations // self.generations if is_distilled else self.iterations


_CPU: Mapping[str, Any] = {
    "network": {"filters": (16, 32, 64, 128, 128)},
    "iterations": 450,
    "batch": 2,
    "crop": 128,
    "validate_every": 225,
    "validation_pictures": 4,
    "checkpoint_seconds": 60.0,
}

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "paper": {},
    "cpu": _CPU,
    "smoke": {
        "data": {"walls": 8, "wall_side": 128},
        "network": {"filters": (8, 16, 32)},
        "iterations": 30,
        "batch": 2,
        "crop": 64,
        "momentum": 0.9,
        "validate_every": 15,
        "validation_pictures": 1,
        "log_every": 5,
    },
    "quick": {
        **_CPU,
        "network": {"filters": (12, 24, 48, 64)},
        "iterations": 120,
        "crop": 64,
        "momentum": 0.9,
        "learning_rate": 0.03,
        "augmentation": "flips",
        "validate_every": 0,
    },
    "shipped": {
        **_CPU,
        "data": {"walls": 28, "wall_side": 384},
        "framework": "randhue",
        "hue_probability": 0.3,
        "loss": "cl_dice",
        "scnp": True,
        "network": {"kind": "lite0", "enlarge": 1.5, "begins_at": 2.0},
        "augmentation": "wide",
        "crop": 192,
        "iterations": 2400,
        "optimizer": "adamw",
        "learning_rate": 1e-3,
        "encoder_rate": 0.1,
        "weight_decay": 1e-4,
        "clip": 1.0,
        "validate_every": 1200,
        "weights": "float16",
    },
}
"""Named settings."""


def learning_rate(config: SegmentationConfig, step: int) -> float:
    """Return the learning rate of the step that comes after ``step`` steps.

    Each generation of self-distillation falls to zero over its own steps.  The published code lets
    the first one fall as if it were a third of one long training and keeps the later ones at the
    first value (``compat``).
    """
    span = config.iterations_per_generation
    done = step % span
    if config.compat and config.framework == "selfdistillation":
        if step >= span:
            return config.learning_rate
        span = config.iterations
    return config.learning_rate * power(done, span, config.power)
