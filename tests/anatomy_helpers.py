"""Small bodies and settings for short trainings of the network of places."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from helpers import bumpy_sphere

from geo3d.work.examples import example_path
from shape_matching.anatomy.data import BodiesConfig
from shape_matching.anatomy.network import AnatomyConfig, view
from shape_matching.anatomy.training import AnatomyTrainingConfig
from shape_matching.search.prepare import Prepared, prepare

SMALL = AnatomyConfig(points=120, eigenpairs=24, signatures=4, width=8, blocks=1)


def ready(seed: int) -> Prepared:
    """Return a small shape as the search wants it."""
    return prepare(bumpy_sphere(3, seed), 40, 150, "auto", torch.device("cpu"))


def write_bodies(folder: Path, count: int = 8) -> None:
    """Write bumpy spheres whose places are their positions."""
    folder.mkdir(exist_ok=True)
    for n in range(count):
        shape = ready(n % 2)
        seen = view(shape, SMALL, SMALL.points)
        points = shape.mesh.vertices[shape.samples[: SMALL.points].numpy()]
        np.savez(
            example_path(folder, n),
            evals=seen.surface.evals.numpy(),
            rows=seen.surface.evecs.half().numpy(),
            slopes=torch.stack(seen.surface.gradients or ()).half().numpy(),
            descriptors=seen.descriptors.half().numpy(),
            places=points.astype(np.float32),
            known=np.arange(SMALL.points) % 5 > 0,
        )


def training(folder: Path, **changes: Any) -> AnatomyTrainingConfig:
    """Return settings of a training of a second."""
    config = AnatomyTrainingConfig(
        bodies=str(folder), data=BodiesConfig(8, network=SMALL), network=SMALL,
        steps=12, batch=2, warmup=2, log_every=4, validate_every=6, checkpoint_seconds=1e9,
    )  # fmt: skip
    return replace(config, **changes)
