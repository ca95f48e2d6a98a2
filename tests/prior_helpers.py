"""Small folders of functional maps and small priors for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from geo3d.distill.preconditioning import EDM, Preconditioning
from geo3d.work.shards import write_index, write_shard
from shape_matching.prior.denoiser import Denoiser, DenoiserConfig
from shape_matching.prior.map_shards import MapBatch, map_shards
from shape_matching.prior.prior import Prior

NETWORK = DenoiserConfig(size=8, patch=4, width=16, depth=1, heads=2)


def banded_maps(n: int, k: int, seed: int = 0) -> np.ndarray:
    """Return random signed maps (n, k, k) whose energy lies about the diagonal."""
    rng = np.random.default_rng(seed)
    rows = np.arange(k)
    band = np.exp(-((rows[:, None] - rows) ** 2) / (1 + 0.3 * rows[:, None]))
    signs = rng.choice([-1, 1], (n, k, 1))
    return band * signs * (1 + 0.1 * rng.standard_normal((n, k, k)))


def write_maps(folder: Path, n: int = 60, k: int = 8, creatures: int = 10) -> Path:
    """Write a finished folder of maps, ``n / creatures`` of each creature."""
    folder.mkdir(parents=True, exist_ok=True)
    fmaps = banded_maps(n, k).astype(np.float16)
    evals = np.zeros((n, k), np.float32)
    owner = np.repeat(np.arange(creatures), n // creatures)
    kind, batch = map_shards(["creature"]), MapBatch(fmaps, evals, evals, {"creature": owner})
    write_shard(kind, folder, 0, batch, {}, "key")
    write_index(kind, folder, {}, 1, about={"columns": ["creature"]})
    return folder


def random_prior(
    config: DenoiserConfig = NETWORK, preconditioning: Preconditioning | None = None
) -> Prior:
    """Return a prior with random weights, output layer included."""
    generator = torch.Generator().manual_seed(0)
    network = Denoiser(config, generator).requires_grad_(False)
    for name, parameter in network.named_parameters():
        if name != "pos_embed":
            parameter.normal_(0, 0.1, generator=generator)
    return Prior(network, preconditioning or EDM(0.2), {"note": "random"})
