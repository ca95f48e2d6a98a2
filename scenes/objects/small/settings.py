"""Sizes of the small pipeline's networks, and how long each is trained.

Same classes as the published pipeline.  Cells: 16^3 (published 64^3), structure latents 4^3 (16^3),
mesh 64^3 (256^3).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from geo3d.config import require, require_at_least
from scenes.objects.condition import SmallEncoderConfig
from scenes.objects.decoders import SLatDecoderConfig, SLatEncoderConfig
from scenes.objects.slat_flow import SLatFlowConfig
from scenes.objects.small.cells import CHANNELS, COARSE
from scenes.objects.ss_flow import SSFlowConfig
from scenes.objects.ss_vae import SSDecoderConfig, SSEncoderConfig

Stage = Literal["structure", "latent", "mesh", "gaussian", "picture"]
_CELLS: Mapping[str, Any] = {"resolution": COARSE, "window_size": 8}
IMAGE_WIDTH = 128
STRUCTURE_EDGE = 4

STRUCTURE_ENCODER = SSEncoderConfig(channels=(8, 32, 64), num_res_blocks=1, num_res_blocks_middle=1)
STRUCTURE_DECODER = SSDecoderConfig(channels=(64, 32, 8), num_res_blocks=1, num_res_blocks_middle=1)
LATENT_ENCODER = SLatEncoderConfig(
    in_channels=CHANNELS, model_channels=128, num_blocks=1, num_heads=4, **_CELLS
)
PROBE = SLatDecoderConfig(model_channels=128, num_blocks=1, num_heads=4, **_CELLS)
"""What reads latents back while the encoder is trained."""
MESH_DECODER = SLatDecoderConfig(
    model_channels=256,
    num_blocks=1,
    num_heads=8,
    representation_config={"use_color": True, "close": True},
    **_CELLS,
)
GAUSSIAN_DECODER = SLatDecoderConfig(
    model_channels=128,
    num_blocks=2,
    num_heads=4,
    representation_config={"num_gaussians": 16, "scaling_bias": 0.016},
    **_CELLS,
)
IMAGE_ENCODER = SmallEncoderConfig(size=64, patch=8, channels=IMAGE_WIDTH, depth=4, heads=4)
STRUCTURE_FLOW = SSFlowConfig(
    resolution=STRUCTURE_EDGE,
    model_channels=128,
    cond_channels=IMAGE_WIDTH,
    num_blocks=8,
    num_heads=4,
    share_mod=True,
)
LATENT_FLOW = SLatFlowConfig(
    resolution=COARSE,
    model_channels=128,
    cond_channels=IMAGE_WIDTH,
    num_blocks=6,
    num_heads=4,
    patch_size=1,
    io_block_channels=None,
    share_mod=True,
)


@dataclass(frozen=True)
class StageConfig:
    """How one network of the pipeline is trained."""

    stage: Stage = "structure"
    cells: str = ""
    """Folder of cells."""
    structure: str = ""
    """Model file of the trained structure encoder, without suffix ("picture")."""
    latent: str = ""
    """Model file of the trained latent encoder ("mesh", "gaussian", "picture")."""
    steps: int = 2000
    batch: int = 16
    learning_rate: float = 1e-3
    warmup_steps: int = 100
    weight_decay: float = 0.01
    divergence_weight: float = 1e-3
    """Of the divergence of latents from unit normals."""
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


PRESETS: Mapping[str, Mapping[str, Any]] = {
    "structure": {"stage": "structure", "steps": 1200, "batch": 16},
    "latent": {"stage": "latent", "steps": 2000, "batch": 4, "learning_rate": 1.5e-3},
    "mesh": {"stage": "mesh", "steps": 1200, "batch": 2, "average_rate": 0.99},
    "gaussian": {"stage": "gaussian", "steps": 500, "batch": 4, "average_rate": 0.98},
    "picture": {"stage": "picture", "steps": 1500, "batch": 32, "average_rate": 0.99},
}
"""The recipes of the shipped networks."""
