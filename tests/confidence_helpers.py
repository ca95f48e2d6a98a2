"""Outcomes drawn from nothing, for tests of the model of confidence."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from geo3d.work.examples import example_path
from shape_matching.confidence.signals import LOCAL, WHOLE


def write_outcomes(folder: Path, pairs: int, samples: int = 20) -> None:
    """Write pairs whose first signals tell how wrong a map is, and the others nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    for n in range(pairs):
        rng = np.random.default_rng(n)
        wrong = rng.uniform(size=2)
        local = rng.standard_normal((2, samples, len(LOCAL)))
        whole = rng.standard_normal((2, len(WHOLE)))
        errors = rng.uniform(0, 0.1, (2, samples)) * (0.2 + 1.6 * wrong[:, None])
        local[..., 0] = errors * 40
        whole[:, 0] = errors.mean(axis=1) * 60
        with open(example_path(folder, n), "wb") as file:
            np.savez(
                file,
                local=local.reshape(-1, len(LOCAL)).astype(np.float32),
                whole=whole.astype(np.float32),
                errors=errors.reshape(-1).astype(np.float32),
                error=errors.mean(axis=1).astype(np.float32),
                chosen=np.array([True, n % 2 == 0]),
                counts=np.array([samples, samples]),
            )
