"""The choice among the finalists of the search, without truth, and what comes second.

The rank of a map weighs how well it keeps the side of the surface that faces outwards, how far its
embedding misses, how rough it is and how well curvatures agree (docs/RESULTS.md).  Maps that differ
from the chosen one in a part of the surface (a head mirrored, fore and hind legs exchanged, the
body turned by half) are its alternatives, in the order of their ranks: `MatchConfig.choose` takes
one of them.

Notation as in `geo3d.spectral.fmap`; n maps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from geo3d.errors import InputError
from geo3d.progress import ProgressCallback, ignore_progress, report
from geo3d.spectral.fmap import fmap_to_p2p
from shape_matching.config import MatchConfig
from shape_matching.search.initial_maps import (
    appraise,
    curvature_agreement,
    finalists,
    roughness,
)
from shape_matching.search.prepare import Prepared

AMBIGUITY_MARGIN = 0.15
"""Score lead below which the runner-up counts as a second explanation."""
ORIENTATION_CAP, RESIDUAL_WEIGHT, ROUGHNESS_WEIGHT, CURVATURE_WEIGHT = 0.45, 2.0, 0.25, 4.0
"""Weights of the final choice, set on 50 FAUST and 47 TOSCA pairs (docs/RESULTS.md)."""
ELSEWHERE, PART = 0.2, 0.05
"""A map is an alternative if it sends this share of the target further away than this distance, on
shapes of unit area."""


@dataclass(frozen=True, eq=False)
class Choice:
    """One finalist."""

    fmap_12: Float[Tensor, "k k"]
    p2p_21: Int64[Tensor, " v2"]
    rank: float
    """Higher is better."""
    scores: dict[str, float]
    """What the rank is made of."""
    p2p_12: Int64[Tensor, " v1"] | None = None
    """The other way, of a map that is final: one by places (`shape_matching.anatomy.across`)."""


def ranked(
    fmaps: Float[Tensor, "n k k"],
    one: Prepared,
    two: Prepared,
    config: MatchConfig,
    progress: ProgressCallback = ignore_progress,
    *,
    anew: bool = True,
) -> list[Choice]:
    """Refine hypotheses to the `finalists` and return these, best first."""
    fmaps = finalists(fmaps, one, two, config, progress, anew=anew)
    judged = appraise(fmaps, one, two, config.n_samples)
    p2p_21 = torch.stack([fmap_to_p2p(f, one.basis.evecs, two.basis.evecs) for f in fmaps])
    energy, curvature = roughness(p2p_21, one, two), curvature_agreement(p2p_21, one, two)
    ranks = judged.score(RESIDUAL_WEIGHT, ORIENTATION_CAP)
    ranks = ranks - ROUGHNESS_WEIGHT * energy.log() + CURVATURE_WEIGHT * curvature
    columns = {
        "orientation": judged.orientation,
        "residual": judged.residual,
        "coverage": judged.coverage,
        "roughness": energy,
        "curvature": curvature,
    }
    report(progress, "hypotheses", 3, 3)
    return [
        Choice(
            fmaps[i], p2p_21[i], float(ranks[i]), {name: float(c[i]) for name, c in columns.items()}
        )
        for i in torch.argsort(ranks, descending=True, stable=True).tolist()
    ]


def lead(choices: Sequence[Choice]) -> float:
    """Return how far the rank of the first is above that of the second; inf where there is one."""
    return choices[0].rank - choices[1].rank if len(choices) > 1 else float("inf")


def different(choices: Sequence[Choice], one: Prepared, two: Prepared) -> list[Choice]:
    """Return the first choice and those after it that differ from all before in a part."""
    points = torch.from_numpy(one.mesh.vertices.copy()).to(two.basis.mass)
    kept: list[Choice] = []
    for new in choices:
        images = points[new.p2p_21]
        gaps = [(points[old.p2p_21] - images).norm(dim=1) for old in kept]
        if all(float(two.basis.mass[gap > ELSEWHERE].sum()) > PART for gap in gaps):
            kept.append(new)
    return kept


def taken(choices: Sequence[Choice], number: int) -> tuple[Choice, Choice | None]:
    """Return the wanted of the different choices, counted from 1, and the best of the others.

    Raises:
        InputError: ``match.no_such_choice``.
    """
    if number > len(choices):
        raise InputError(
            "match.no_such_choice",
            f"Choice {number} was asked for, and the search found {len(choices)} map(s) that "
            "differ in a part.",
            f"Choose 1 to {len(choices)}, or give three landmarks.",
        )
    others = [choice for i, choice in enumerate(choices, 1) if i != number]
    return choices[number - 1], others[0] if others else None
