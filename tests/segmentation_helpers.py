"""Small segmenters and images for tests of the doors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from geo3d.segmentation.config import SegmentationConfig
from geo3d.segmentation.network import NetworkConfig, make_network
from geo3d.segmentation.predict import Segmenter, save_segmenter
from geo3d.synth.walls import brick_wall


def tiny_segmenter(path: Path, seed: int = 0, loss: str = "ce_dice") -> Path:
    """Write an untrained network: what it finds is nonsense, but always the same."""
    config = SegmentationConfig(loss=loss, network=NetworkConfig((4, 4, 4)))
    network = make_network(config.network, 2, torch.Generator().manual_seed(seed))
    save_segmenter(path, Segmenter(network, config, 2, {"data": "none"}))
    return path


def wall_image(path: Path, seed: int = 0, size: int = 96) -> Path:
    """Write an image of a generated wall."""
    Image.fromarray(brick_wall(seed, size, size).image).save(path)
    return path


def wall_label(path: Path, seed: int = 0, size: int = 96) -> Path:
    """Write the label of `wall_image`."""
    mask = brick_wall(seed, size, size).mask
    Image.fromarray(mask.astype(np.uint8) * 255).save(path)
    return path
