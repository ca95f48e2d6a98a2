"""A finished map with its probabilities in place of raw scores, and what they mean in words."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from geo3d.mesh.ops import vertex_areas
from shape_matching.confidence.model import load_confidence
from shape_matching.confidence.signals import LOCAL, signals
from shape_matching.correspondence import Correspondence
from shape_matching.evaluate.metrics import FLAG, RIGHT

DOUBTFUL = 0.5
"""Probability below which a vertex is pointed out."""
WORTH_A_WORD = 0.03
"""Share of the mapped area that must be doubtful, or turned over, for a remark."""
TURNED = 0.6


def calibrated(found: Correspondence) -> Correspondence:
    """Return ``found`` with calibrated probabilities: of the map, and per target vertex.

    Where a roundtrip does not return, or there is no counterpart, confidence stays 0.
    """
    seen = signals(found)
    if seen is None:
        return replace(found, probability=0.0, confidence=np.zeros_like(found.confidence))
    probability, at_samples = load_confidence().probabilities(seen)
    none = (found.confidence == 0) | (found.p2p_21 < 0)
    if found.overlap_2 is not None:
        none |= ~found.overlap_2
    confidence = np.where(none, 0.0, seen.spread(found.target, at_samples).clip(0, 1))
    turned = seen.spread(found.target, seen.local[:, LOCAL.index("turned_over")])
    area = np.where(none, 0.0, vertex_areas(found.target) if found.target.n_faces else 1.0)
    notes = (*found.notes, *_remarks(probability, confidence, turned, area))
    return replace(found, probability=probability, confidence=confidence, notes=notes)


def _remarks(
    probability: float, confidence: np.ndarray, turned: np.ndarray, area: np.ndarray
) -> tuple[str, ...]:
    """Return what a user should know; ``area`` is 0 where nothing is mapped."""
    total = max(float(area.sum()), 1e-30)
    notes = []
    if probability < FLAG:
        notes.append(
            f"This map may well be wrong: the chance that its mean error is below "
            f"{100 * RIGHT:g} is {probability:.0%}. Three landmarks usually settle it."
        )
    over = float(area[turned > TURNED].sum()) / total
    low = float(area[confidence < DOUBTFUL].sum()) / total
    if over > WORTH_A_WORD:
        notes.append(
            f"On {over:.0%} of the target the map turns the surface over: left and right, or two "
            "limbs, may be exchanged there."
        )
    elif probability >= FLAG and low > WORTH_A_WORD:
        notes.append(f"On {low:.0%} of the target the match is doubtful (confidence below 0.5).")
    return tuple(notes)
