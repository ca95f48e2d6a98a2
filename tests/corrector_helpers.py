"""A pair of small shapes with its true map, and examples and settings for short trainings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from helpers import bumpy_sphere, moved, permuted, rotation
from torch import Tensor

from geo3d.mesh.mesh import Mesh
from geo3d.spectral.fmap import p2p_to_fmap
from geo3d.work.examples import example_path
from shape_matching.corrector.corrector import CorrectorConfig, view
from shape_matching.corrector.data import CorrectorDataConfig
from shape_matching.corrector.training import CorrectorTrainingConfig
from shape_matching.search.prepare import Prepared, prepare

SMALL = CorrectorConfig(
    map_size=12, points=120, eigenpairs=24, signatures=4, width=8, blocks=1, features=24
)


def ready(mesh: Mesh) -> Prepared:
    """Return a mesh as the search wants it."""
    return prepare(mesh, 40, 150, "auto", torch.device("cpu"))


def turned_pair() -> tuple[Prepared, Prepared, Tensor]:
    """Return a shape, the same turned and renumbered, and the map between them."""
    source = bumpy_sphere(3)
    target, order = permuted(moved(source, rotation(4)))
    one, two = ready(source), ready(target)
    truth = p2p_to_fmap(torch.from_numpy(order), one.basis, two.basis)
    return one, two, truth


def write_examples(folder: Path, pair: tuple[Prepared, Prepared, Tensor]) -> None:
    """Write eight pairs whose found maps are the truth with noise of rising strength."""
    one, two, truth = pair
    views = view(one, SMALL), view(two, SMALL)
    both = torch.stack([truth[:12, :12], truth.T[:12, :12]])
    slopes = [torch.stack(v.surface.gradients or ()) for v in views]
    folder.mkdir(exist_ok=True)
    for n in range(8):
        noise = torch.randn(3, 2, 12, 12, generator=torch.Generator().manual_seed(n))
        np.savez(
            example_path(folder, n),
            evals=torch.stack([v.surface.evals for v in views]).numpy(),
            rows=torch.stack([v.surface.evecs for v in views]).half().numpy(),
            slopes=torch.stack(slopes).half().numpy(),
            descriptors=torch.stack([v.descriptors for v in views]).half().numpy(),
            positions=torch.stack([v.positions[:12] for v in views]).numpy(),
            truth=both.numpy(),
            found=(both + 0.1 * noise).half().numpy(),
            errors=np.array([1.0, 5.0, 40.0]),
        )


def training(folder: Path, **changes: Any) -> CorrectorTrainingConfig:
    """Return settings of a training of a second."""
    config = CorrectorTrainingConfig(
        examples=str(folder), data=CorrectorDataConfig(8, network=SMALL), network=SMALL,
        steps=12, batch=2, warmup=2, log_every=4, validate_every=6, checkpoint_seconds=1e9,
    )  # fmt: skip
    return replace(config, **changes)
