"""What the network of places learns from: generated creatures and where each of their points is.

make_bodies(BodiesConfig(creatures=448), "data/anatomy", workers=2)

Each file is one creature in one pose as the network sees it, and the places of its points: those of
the counterparts (`geo3d.synth.creatures.kinship`) on one fixed quadruped, which has every part.  A
broken-off run is continued by the same call.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from geo3d.config import require, require_at_least
from geo3d.mesh.ops import normalized
from geo3d.progress import ProgressCallback, ignore_progress
from geo3d.synth.creatures import Creature, generate_creature, pose, vary_proportions
from geo3d.synth.creatures.kinship import BUILT_ALIKE, counterparts
from geo3d.work.examples import fill_examples, read_example
from geo3d.work.pool import Limits
from shape_matching.anatomy.network import AnatomyConfig, View, view
from shape_matching.networks import float_tensors, stored_surface
from shape_matching.search.prepare import prepare

FIXED_KIND, FIXED_SEED = "quadruped", 3
"""The creature whose surface names the places."""
BODY_SECONDS = 120.0
BODY_BYTES = 1 << 26
_ARRAYS = ("evals", "rows", "slopes", "descriptors", "places", "known")


@dataclass(frozen=True)
class BodiesConfig:
    """Settings of a folder of bodies."""

    creatures: int = 448
    """How many creatures, each in one pose."""
    seed: int = 0
    vertices: int = 1500
    """Of each creature."""
    amplitude: tuple[float, float] = (0.0, 0.7)
    """Range of the poses' amplitudes."""
    amount: float = 0.12
    """How far proportions vary beyond those of the plans."""
    network: AnatomyConfig = field(default_factory=AnatomyConfig)
    """For whom the shapes are described; its sizes matter here."""

    def __post_init__(self) -> None:
        require_at_least(self, 1, "creatures")
        require(self.vertices >= 1500, "vertices", "at least 1500")
        require(0 <= self.amplitude[0] <= self.amplitude[1] <= 2, "amplitude", "a range in 0..2")
        require(0 <= self.amount <= 0.5, "amount", "in 0..0.5")


@dataclass(frozen=True, eq=False)
class Body:
    """One creature."""

    view: View
    places: Float[Tensor, "p 3"]
    known: Bool[Tensor, " p"]
    """Whether the place of each point is clear."""


def make_bodies(
    config: BodiesConfig,
    out: str | Path,
    *,
    workers: int = 1,
    progress: ProgressCallback = ignore_progress,
) -> dict[str, str]:
    """Make the bodies that are not there yet; return those that failed, with the reason.

    Raises:
        InputError: ``work.other_folder`` when ``out`` is for other settings.
        Cancelled: from ``progress``.
    """
    limits = Limits(workers, timeout=BODY_SECONDS, threads=1)
    make = partial(_body, config)
    return fill_examples(
        Path(out), _plain(config), config.creatures, make, limits, "bodies", progress
    )


def read_body(path: Path, config: AnatomyConfig) -> Body:
    """Return a body for a network of ``config``, whose sizes must be those it was made for.

    Raises:
        InputError: ``work.bad_example``.
    """
    return read_example(path, _ARRAYS, BODY_BYTES, partial(_built, config))


def _built(config: AnatomyConfig, stored: dict[str, np.ndarray]) -> Body:
    arrays = float_tensors(stored, (config.points, config.eigenpairs))
    seen = View(stored_surface(arrays), arrays["descriptors"])
    return Body(seen, arrays["places"], arrays["known"] > 0)


@lru_cache(maxsize=1)
def fixed_creature() -> Creature:
    """Return the creature whose surface names the places."""
    return generate_creature(FIXED_KIND, FIXED_SEED, 3000)


def _body(config: BodiesConfig, number: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng([*b"bodies", config.seed, number])
    kind = BUILT_ALIKE[number % len(BUILT_ALIKE)]
    creature = generate_creature(kind, int(rng.integers(2**31)), config.vertices)
    fixed = fixed_creature()
    at = counterparts(fixed, creature)
    relative = vary_proportions(creature, int(rng.integers(2**31)), config.amount)
    mesh = pose(relative, int(rng.integers(2**31)), rng.uniform(*config.amplitude))
    sizes = config.network
    shape = prepare(mesh, sizes.eigenpairs, sizes.points, "auto", torch.device("cpu"), False)
    seen = view(shape, sizes, sizes.points)
    assert seen.surface.gradients is not None
    truth = at[shape.samples.numpy()]
    return {
        "evals": seen.surface.evals.numpy(),
        "rows": seen.surface.evecs.half().numpy(),
        "slopes": torch.stack(seen.surface.gradients).half().numpy(),
        "descriptors": seen.descriptors.half().numpy(),
        "places": normalized(fixed.rest).vertices[truth].astype(np.float32),
        "known": truth >= 0,
    }


def _plain(config: BodiesConfig) -> dict[str, Any]:
    """Return what a body depends on."""
    values = asdict(config)
    del values["creatures"]
    network = values["network"]
    values["network"] = {n: network[n] for n in ("points", "eigenpairs", "signatures")}
    return values
