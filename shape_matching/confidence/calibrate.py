"""A finished map with its probabilities in place of raw scores, and what they mean in words."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Int64

from geo3d.mesh.ops import total_area, vertex_areas
from shape_matching.confidence.model import load_confidence
from shape_matching.confidence.signals import LOCAL, signals
from shape_matching.correspondence import Correspondence
from shape_matching.evaluate.metrics import FLAG, RIGHT
from shape_matching.search.choice import ELSEWHERE
from shape_matching.search.mend import can_mend, mended

DOUBTFUL = 0.5
"""Probability below which a vertex is pointed out."""
WORTH_A_WORD = 0.03
"""Share of the mapped area that must be doubtful, or turned over, for a remark."""
TURNED = 0.6
MOST = 0.5
"""Share from which the whole is turned over, no part of it: a map of one side to the other, which
landmarks may ask for."""
LEFT_OVER = 1 / 3
"""Share of what was turned over that may still be after bending."""


def calibrated(found: Correspondence) -> Correspondence:
    """Return the map with its probabilities; see `_judged`."""
    return _judged(found)[0]


def put_right(
    found: Correspondence, landmarks: Int64[np.ndarray, "p 2"] | None = None
) -> Correspondence:
    """Return ``found`` as `calibrated` does; a part that came out turned over is bent to be right
    (`shape_matching.search.mend`) where that is found to be better, landmarks kept.

    Raises:
        MeshError: what the Laplacian raises.
    """
    before, over = _judged(found)
    if not WORTH_A_WORD < over < MOST or not can_mend(found):
        return before
    other = mended(found)
    other = other if landmarks is None else other.through(landmarks)
    note = f"A part that came out turned over ({over:.0%} of the target) was put right by bending."
    after, still = _judged(replace(other, notes=(*found.notes, note)))
    assert before.probability is not None and after.probability is not None
    better = still < LEFT_OVER * over and after.probability >= before.probability
    return after if better else before


def _judged(found: Correspondence) -> tuple[Correspondence, float]:
    """Return ``found`` with calibrated probabilities: of the map, and per target vertex; and the
    share of the target on which it turns the surface over.

    Where a roundtrip does not return, or there is no counterpart, confidence stays 0.
    """
    seen = signals(found)
    if seen is None:
        none = np.zeros_like(found.confidence)
        return replace(found, probability=0.0, confidence=none), 0.0
    probability, at_samples = load_confidence().probabilities(seen)
    none = (found.confidence == 0) | (found.p2p_21 < 0)
    if found.overlap_2 is not None:
        none |= ~found.overlap_2
    confidence = np.where(none, 0.0, seen.spread(found.target, at_samples).clip(0, 1))
    turned = seen.spread(found.target, seen.local[:, LOCAL.index("turned_over")])
    area = np.where(none, 0.0, vertex_areas(found.target) if found.target.n_faces else 1.0)
    over = float(area[turned > TURNED].sum()) / max(float(area.sum()), 1e-30)
    remarks = _remarks(probability, confidence, over, area)
    if remarks or found.ambiguous:
        remarks += _alternative(found, area)
    notes = (*found.notes, *remarks)
    return replace(found, probability=probability, confidence=confidence, notes=notes), over


def _alternative(found: Correspondence, area: np.ndarray) -> tuple[str, ...]:
    """Return what to do about a doubtful map for which the search has another one."""
    other = found.alternative_21
    if other is None:
        return ()
    points = found.source.vertices.astype(np.float64)
    gap = np.linalg.norm(points[other] - points[found.p2p_21], axis=1)
    far = gap > ELSEWHERE * np.sqrt(total_area(found.source))
    share = float(area[far].sum()) / max(float(area.sum()), 1e-30)
    return (
        f"Another map of the search differs on {share:.0%} of the target (the alternative); "
        "--choose 2 takes that one.",
    )


def _remarks(
    probability: float, confidence: np.ndarray, over: float, area: np.ndarray
) -> tuple[str, ...]:
    """Return what a user should know; ``area`` is 0 where nothing is mapped."""
    total = max(float(area.sum()), 1e-30)
    notes = []
    if probability < FLAG:
        notes.append(
            f"This map may well be wrong: the chance that its mean error is below "
            f"{100 * RIGHT:g} is {probability:.0%}. Three landmarks usually settle it."
        )
    low = float(area[confidence < DOUBTFUL].sum()) / total
    if over > WORTH_A_WORD:
        notes.append(
            f"On {over:.0%} of the target the map turns the surface over: left and right, or two "
            "limbs, may be exchanged there."
        )
    elif probability >= FLAG and low > WORTH_A_WORD:
        notes.append(f"On {low:.0%} of the target the match is doubtful (confidence below 0.5).")
    return tuple(notes)
