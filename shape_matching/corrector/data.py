"""What a corrector learns from: the search's own maps between generated creatures, and the truth.

make_examples(CorrectorDataConfig(pairs=400), "data/corrector", workers=2)
example = read_pair(Path("data/corrector/pair-00000.npz"), CorrectorConfig())

Each file is one pair of the family of one generated creature (`shape_matching.prior.families`):
both shapes as the corrector sees them, the finalists of the search
(`shape_matching.search.initial_maps`) with their errors, and the true maps.  A broken-off run is
continued by the same call.

Notation: n finalists, k size of the maps, both directions stacked, 12 before 21.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from geo3d.config import require_at_least
from geo3d.progress import ProgressCallback, ignore_progress
from geo3d.spectral.fmap import fmap_to_p2p, p2p_to_fmap
from geo3d.work.examples import fill_examples, read_example
from geo3d.work.pool import Limits
from shape_matching.config import MatchConfig
from shape_matching.corrector.corrector import CorrectorConfig, View, reverse, view
from shape_matching.networks import float_tensors, stored_surface
from shape_matching.prior.families import PriorDataConfig, family
from shape_matching.prior.feature_network import Surface
from shape_matching.search.initial_maps import finalists, initial_maps
from shape_matching.search.prepare import Prepared, prepare

K_FINALIST = 80
"""Size to which the finalists are grown; larger ones differ too little to be worth the time."""
PAIR_SECONDS = 120.0
EXAMPLE_BYTES = 1 << 27
_ARRAYS = (
    "evals", "rows", "slopes", "descriptors", "positions", "truth", "found", "errors",
)  # fmt: skip


@dataclass(frozen=True)
class CorrectorDataConfig:
    """Settings of a folder of examples."""

    pairs: int = 400
    """How many; each of a creature of its own."""
    shapes: PriorDataConfig = field(default_factory=PriorDataConfig)
    """Where the creatures and their families come from."""
    network: CorrectorConfig = field(default_factory=CorrectorConfig)
    """For whom the shapes are described; its sizes matter here."""

    def __post_init__(self) -> None:
        require_at_least(self, 1, "pairs")


@dataclass(frozen=True, eq=False)
class Example:
    """One pair."""

    views: tuple[View, View]
    truth: Float[Tensor, "2 k k"]
    found: Float[Tensor, "n 2 k k"]
    """Maps that the search found, right or wrong."""
    errors: Float[Tensor, " n"]
    """Their mean Euclidean error x100 on the source of unit area."""


def make_examples(
    config: CorrectorDataConfig,
    out: str | Path,
    *,
    workers: int = 1,
    progress: ProgressCallback = ignore_progress,
) -> dict[str, str]:
    """Make the examples that are not there yet; return the pairs that gave none, with the reason.

    Raises:
        InputError: ``work.other_folder`` when ``out`` is for other settings.
        Cancelled: from ``progress``.
    """
    limits = Limits(workers, timeout=PAIR_SECONDS, threads=1)
    make = partial(_example, config)
    return fill_examples(
        Path(out), _plain(config), config.pairs, make, limits, "examples", progress
    )


def read_pair(path: Path, config: CorrectorConfig) -> Example:
    """Return an example for a network of ``config``, whose sizes must be those it was made for.

    Raises:
        InputError: ``work.bad_example``.
    """
    return read_example(path, _ARRAYS, EXAMPLE_BYTES, partial(_built, config))


def _built(config: CorrectorConfig, stored: dict[str, np.ndarray]) -> Example:
    arrays = float_tensors(stored, (2, config.points, config.eigenpairs))
    one, two = (
        View(stored_surface(arrays, i), arrays["descriptors"][i], arrays["positions"][i])
        for i in range(2)
    )
    return Example((one, two), arrays["truth"], arrays["found"], arrays["errors"])


def searched(
    one: Prepared, two: Prepared, config: MatchConfig
) -> tuple[Float[Tensor, "n m m"], Float[Tensor, "n m m"]]:
    """Return the finalists of the search in both directions."""
    found = finalists(initial_maps(one, two, config.starts), one, two, config, k_last=K_FINALIST)
    return found, torch.stack([reverse(fmap, one, two) for fmap in found])


def _example(config: CorrectorDataConfig, number: int) -> dict[str, np.ndarray]:
    _, members = family(config.shapes, number)
    order = np.random.default_rng(number)
    first, second = (members[i] for i in order.permutation(len(members))[:2])
    settings = MatchConfig(cache=False)
    k = min(settings.k_final, (min(first.mesh.n_vertices, second.mesh.n_vertices) - 2) // 2)
    one, two = (
        prepare(m.mesh, k, settings.n_samples, settings.laplacian, torch.device("cpu"), False)
        for m in (first, second)
    )
    views = view(one, config.network), view(two, config.network)
    found = torch.stack(searched(one, two, settings), dim=1)
    truths = first.vertex_ids[second.template_ids], second.vertex_ids[first.template_ids]
    truth = (
        p2p_to_fmap(torch.from_numpy(truths[0]), one.basis, two.basis),
        p2p_to_fmap(torch.from_numpy(truths[1]), two.basis, one.basis),
    )
    size = config.network.map_size
    images = torch.stack(
        [fmap_to_p2p(fmap, one.basis.evecs, two.basis.evecs) for fmap in found[:, 0]]
    ).numpy()
    apart = one.mesh.vertices[images] - one.mesh.vertices[truths[0]]
    arrays = {
        "evals": torch.stack([v.surface.evals for v in views]),
        "rows": torch.stack([v.surface.evecs for v in views]).half(),
        "slopes": torch.stack([torch.stack(_slopes(v.surface)) for v in views]).half(),
        "descriptors": torch.stack([v.descriptors for v in views]).half(),
        "positions": torch.stack([v.positions for v in views]),
        "truth": torch.stack([t[:size, :size] for t in truth]),
        "found": found[:, :, :size, :size].half(),
    }
    errors = 100 * np.linalg.norm(apart, axis=-1).mean(axis=1)
    return {"errors": errors, **{name: tensor.numpy() for name, tensor in arrays.items()}}


def _slopes(surface: Surface) -> tuple[Tensor, Tensor]:
    assert surface.gradients is not None
    return surface.gradients


def _plain(config: CorrectorDataConfig) -> dict[str, Any]:
    """Return what an example depends on."""
    values = asdict(config)
    del values["pairs"], values["shapes"]["creatures"]
    network = values["network"]
    values["network"] = {n: network[n] for n in ("map_size", "points", "eigenpairs", "signatures")}
    return values
