"""Parts that came out turned over are put right by bending."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from geo3d.synth.creatures import generate_creature, pose
from shape_matching.correspondence import Correspondence
from shape_matching.search.mend import can_mend, mended


def test_a_mirrored_head_is_put_right() -> None:
    """A part that is turned over is bent right (case `head-mirrored-unambiguous`)."""
    creature = generate_creature("biped", 3, 1500)
    source, target = (pose(creature, seed, 0.3) for seed in (1, 2))
    head = creature.weights[:, [b.name for b in creature.bones].index("head")] > 0.5
    same = np.arange(source.n_vertices)
    wrong = np.where(head, creature.symmetry, same)
    found = Correspondence(source, target, wrong, wrong, None, np.ones(len(same)))
    assert can_mend(found)
    better = mended(found)
    gaps = [
        np.linalg.norm(source.vertices[p2p] - source.vertices, axis=1)
        for p2p in (wrong, better.p2p_21)
    ]
    assert gaps[1][head].mean() < 0.4 * gaps[0][head].mean()
    assert gaps[1][~head].max() < 0.1


def test_a_right_map_stays_as_it_is() -> None:
    creature = generate_creature("quadruped", 3, 1500)
    source, target = (pose(creature, seed, 0.3) for seed in (1, 2))
    same = np.arange(source.n_vertices)
    found = Correspondence(source, target, same, same, None, np.ones(len(same)))
    better = mended(found)
    assert (better.p2p_21 == same).mean() > 0.99


def test_pieces_and_large_shapes_are_left_alone() -> None:
    creature = generate_creature("bird", 3, 1500)
    same = np.arange(creature.rest.n_vertices)
    found = Correspondence(creature.rest, creature.rest, same, same, None, np.ones(len(same)))
    everywhere = np.ones(len(same), bool)
    assert can_mend(found)
    assert not can_mend(replace(found, overlap_1=everywhere, overlap_2=everywhere))
