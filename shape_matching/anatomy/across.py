"""Maps between shapes of different kinds: where the search by distances finds none, by places.

The search assumes that the right map keeps distances.  Where its best map is far from that, the
network of places (`shape_matching.anatomy.network`) says for both shapes where on a body each
vertex lies.  Nearest places give two maps: with left and right as the network sees them, and with
them exchanged.  Both are refined a little and put before what the search found if the places
agree better under them.  Landmarks shift the places around them so that they meet.

Notation as in `geo3d.spectral.fmap`; v vertices.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from geo3d.spectral.fmap import nearest, p2p_to_fmap
from shape_matching.anatomy.network import Anatomy, can_see, places
from shape_matching.search.choice import Choice
from shape_matching.search.coupled import K_FIRST, refine_coupled
from shape_matching.search.initial_maps import appraise, curvature_agreement, roughness
from shape_matching.search.prepare import Prepared

FAR_FROM_ISOMETRIC = 0.175
"""Residual of the best map, over its size, from which a pair is far from isometric: people and
animals of one kind have less (at most 0.171 on the hardest pairs of TOSCA)."""
K_ACROSS = 100
"""Size of the final map between shapes of different kinds: finer functions have little to do with
each other."""
SMALL = 8_000
"""Shapes with more vertices are refined on samples until the last passes."""
SURE, OUTWARDS, AGREES = 0.08, 0.45, 0.5
"""A map by places is taken if its places lie so near to each other, its orientation is at least so
good, and its places agree so much better than those of the search's map.  Set on generated pairs of
different kinds (docs/RESULTS.md)."""
TRUSTED = 0.8
"""A map of the search whose orientation is better than this is kept: on the tuning pairs all such
maps were right, and places of people are not sure."""
PREFERRED = 0.8
"""Of the search's maps another is preferred if its places agree so much better."""
REACH = 0.3
"""Distance in space, on shapes of unit area, over which a landmark shifts places."""
EXCHANGED = (-1.0, 1.0, 1.0)
"""Places are symmetric in x: left and right."""


BY_PLACES = (
    "The shapes are far from isometric: matched by where on a body each vertex lies, as learned "
    "from generated animals."
)


def far_from_isometric(choice: Choice) -> bool:
    """Return whether even the best map of the search is far from keeping distances, and does not
    keep the side that faces outwards well either."""
    far = choice.scores["residual"] > FAR_FROM_ISOMETRIC * len(choice.fmap_12)
    return far and choice.scores["orientation"] < TRUSTED


def with_places(
    choices: Sequence[Choice],
    one: Prepared,
    two: Prepared,
    landmarks: Int64[Tensor, "p 2"] | None,
    anatomy: Anatomy,
) -> list[Choice]:
    """Return the choices, maps by places before them where these agree better.

    Shapes of which the network `can_see` nothing keep their choices.
    """
    if not all(can_see(shape, anatomy.config) for shape in (one, two)):
        return list(choices)
    at_1, at_2 = places(one, anatomy), places(two, anatomy)
    sides = [
        _shifted(side, at_1, two, landmarks) for side in (at_2, at_2 * at_2.new_tensor(EXCHANGED))
    ]
    choices, gap = _by_agreement(choices, at_1, sides, two)
    found = [_by_places(one, two, at_1, side) for side in sides]
    found.sort(key=lambda choice: choice.rank, reverse=True)
    best = found[0].scores
    is_sure = best["places"] < SURE and best["orientation"] > OUTWARDS
    if not is_sure or best["places"] > AGREES * gap:
        return list(choices)
    return [*found, *choices]


def _by_agreement(
    choices: Sequence[Choice], at_1: Tensor, sides: Sequence[Tensor], two: Prepared
) -> tuple[list[Choice], float]:
    """Return the choices, first the one whose places agree clearly better than those of the first,
    and how far its places are apart."""
    gaps = [min(_gap(choice.p2p_21, at_1, side, two) for side in sides) for choice in choices]
    least = min(range(len(gaps)), key=gaps.__getitem__)
    first = least if gaps[least] < min(SURE, PREFERRED * gaps[0]) else 0
    others = [choice for i, choice in enumerate(choices) if i != first]
    return [choices[first], *others], gaps[first]


def _by_places(
    one: Prepared, two: Prepared, at_1: Float[Tensor, "v1 3"], at_2: Float[Tensor, "v2 3"]
) -> Choice:
    """Return the map by nearest places, refined, and how good it is."""
    k = min(K_FIRST, one.basis.k, two.basis.k)
    start = p2p_to_fmap(nearest(at_2, at_1), one.basis.truncate(k), two.basis.truncate(k))
    large = max(one.mesh.n_vertices, two.mesh.n_vertices) > SMALL
    fmap_12, p2p_21, p2p_12 = refine_coupled(
        start,
        one,
        two,
        min(K_ACROSS, one.basis.k, two.basis.k),
        samples=(one.samples, two.samples) if large else None,
        places=(at_1, at_2),
    )
    judged = appraise(fmap_12[None], one, two, len(one.samples))
    scores = {
        "orientation": float(judged.orientation[0]),
        "residual": float(judged.residual[0]),
        "coverage": float(judged.coverage[0]),
        "roughness": float(roughness(p2p_21[None], one, two)[0]),
        "curvature": float(curvature_agreement(p2p_21[None], one, two)[0]),
        "places": _gap(p2p_21, at_1, at_2, two),
    }
    rank = scores["orientation"] - scores["places"]
    return Choice(fmap_12, p2p_21, rank, scores, p2p_12)


def _gap(
    p2p_21: Int64[Tensor, " v2"],
    at_1: Float[Tensor, "v1 3"],
    at_2: Float[Tensor, "v2 3"],
    two: Prepared,
) -> float:
    """Return the mean distance of places that a map takes to each other."""
    return float((at_1[p2p_21] - at_2).norm(dim=1) @ two.basis.mass / two.basis.mass.sum())


def _shifted(
    at_2: Float[Tensor, "v2 3"],
    at_1: Float[Tensor, "v1 3"],
    two: Prepared,
    landmarks: Int64[Tensor, "p 2"] | None,
) -> Float[Tensor, "v2 3"]:
    """Return the places of 2, shifted around landmarks to those of their counterparts."""
    if landmarks is None:
        return at_2
    points = torch.from_numpy(two.mesh.vertices.copy()).to(at_2)
    away = torch.cdist(points, points[landmarks[:, 1]])
    weight = torch.exp(-0.5 * (away / REACH).square())
    shift = at_1[landmarks[:, 0]] - at_2[landmarks[:, 1]]
    return at_2 + weight @ shift / weight.sum(dim=1, keepdim=True).clamp(min=1.0)
