"""Sizes of the small pipeline's networks, and how long each is trained.

Same classes as the published pipeline.  Cells: 16^3 (published 64^3), structure latents 4^3 (16^3),
mesh 64^3 (256^3).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from geo3d.config import require, require_at_least
from scenes.objects.decoders import SLatDecoderConfig
from scenes.objects.lifting import LiftingConfig
from scenes.objects.linear_code import LinearCodeConfig
from scenes.objects.slat_flow import SLatFlowConfig
from scenes.objects.small.cells import CHANNELS, COARSE, PIXELS
from scenes.objects.ss_flow import SSFlowConfig
from scenes.objects.ss_vae import SSDecoderConfig

Stage = Literal["structure", "latent", "mesh", "gaussian", "picture"]
_CELLS: Mapping[str, Any] = {"resolution": COARSE, "window_size": 8}
IMAGE_WIDTH = 128
STRUCTURE_EDGE = 8
LATENT_CHANNELS = 13
"""Ten of the distances, three of the colour."""

STRUCTURE_DECODER = SSDecoderConfig(channels=(16, 8), num_res_blocks=1, num_res_blocks_middle=1)
LATENT_ENCODER = LinearCodeConfig(CHANNELS, LATENT_CHANNELS)
MESH_DECODER = SLatDecoderConfig(
    latent_channels=LATENT_CHANNELS,
    model_channels=256,
    num_blocks=1,
    num_heads=8,
    representation_config={"use_color": True, "close": True},
    **_CELLS,
)
GAUSSIAN_DECODER = SLatDecoderConfig(
    latent_channels=LATENT_CHANNELS,
    model_channels=128,
    num_blocks=2,
    num_heads=4,
    representation_config={"num_gaussians": 16, "scaling_bias": 0.016},
    **_CELLS,
)
IMAGE_ENCODER = LiftingConfig(
    size=PIXELS,
    channels=IMAGE_WIDTH,
    resolution=COARSE,
    latent_channels=LATENT_CHANNELS,
    joins=1,
)
_GUESS: Mapping[str, Any] = {
    "guess_channels": IMAGE_ENCODER.guess_channels,
    "guess_resolution": COARSE,
}
STRUCTURE_FLOW = SSFlowConfig(
    resolution=STRUCTURE_EDGE,
    patch_size=2,
    model_channels=128,
    cond_channels=IMAGE_WIDTH,
    num_blocks=8,
    num_heads=4,
    share_mod=True,
    guess_error=0.5,
    **_GUESS,
)
LATENT_FLOW = SLatFlowConfig(
    resolution=COARSE,
    in_channels=LATENT_CHANNELS,
    out_channels=LATENT_CHANNELS,
    model_channels=128,
    cond_channels=IMAGE_WIDTH,
    num_blocks=6,
    num_heads=4,
    io_block_channels=(64,),
    share_mod=True,
    guess_first=1,
    guess_error=0.8,
    **_GUESS,
)


@dataclass(frozen=True)
class StageConfig:
    """How one network of the pipeline is trained."""

    stage: Stage = "structure"
    cells: str = ""
    """Folder of cells."""
    latent: str = ""
    """Model file of the latent encoder, without suffix ("mesh", "gaussian", "picture")."""
    guess: str = ""
    """Model file of an image encoder whose guesses the decoder is to read too; it must not have
    learned the objects ("structure")."""
    start: str = ""
    """Model file that a decoder or the image encoder starts from, where shapes fit."""
    steps: int = 2000
    batch: int = 16
    learning_rate: float = 1e-3
    warmup_steps: int = 100
    weight_decay: float = 0.01
    average_rate: float = 0.998
    """Of the running average of the weights, which is what is written."""
    objects: int | None = None
    """Use the first ones only."""
    log_every: int = 20
    checkpoint_seconds: float = 120.0
    seed: int = 0

    def __post_init__(self) -> None:
        require_at_least(self, 1, "steps batch log_every")
        require(0 <= self.average_rate < 1, "average_rate", "in [0, 1)")
        require(self.learning_rate > 0, "learning_rate", "above 0")


@dataclass(frozen=True)
class LatentsConfig:
    """What the flows are trained on."""

    skip: int = 0
    """Leave out the first objects, which the image encoder has learned: its guess of those is
    better than it will be of others."""
    objects: int | None = None
    """Use so many of the rest."""
    views: int = 2
    """How many of each object's; the tokens and the guess of a view take 131 kB."""
    seed: int = 0
    """Kept for the command line; nothing is drawn."""

    def __post_init__(self) -> None:
        require_at_least(self, 0, "skip")
        require_at_least(self, 1, "views")


PRESETS: Mapping[str, Mapping[str, Any]] = {
    "structure": {"stage": "structure", "steps": 300, "batch": 16, "learning_rate": 2e-3},
    "latent": {"stage": "latent"},
    "mesh": {"stage": "mesh", "steps": 1200, "batch": 2, "average_rate": 0.99},
    "gaussian": {"stage": "gaussian", "steps": 500, "batch": 4, "average_rate": 0.98},
    "picture": {
        "stage": "picture",
        "steps": 3200,
        "batch": 16,
        "learning_rate": 1.5e-3,
        "average_rate": 0.995,
    },
}
"""The recipes of `assets/objects/README.md`."""
