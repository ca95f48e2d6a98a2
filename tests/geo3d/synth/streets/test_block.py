"""Blocks of every length: the last one of a street may end anywhere."""

from __future__ import annotations

import numpy as np
import pytest

from geo3d.synth.streets.block import Block, furnish
from geo3d.synth.streets.generate import generate_street, street_section
from geo3d.synth.streets.path import BLOCK, STREET_KINDS, Path, Start, StreetKind

CROSSED = 2
"""Number of the first block that a side street may cross."""


@pytest.mark.parametrize("kind", STREET_KINDS)
def test_a_street_may_end_anywhere(kind: StreetKind) -> None:
    start = CROSSED * BLOCK
    # a step that divides nothing, so that every draw meets many lengths and seeds
    for seed, length in enumerate(np.arange(0.01, BLOCK + 0.01, 0.083)):
        end = float(min(start + length, start + BLOCK))
        random = np.random.default_rng([seed, CROSSED])
        path = Path(end, seed, kind, 0.0, Start())
        block = Block(path, street_section(seed), CROSSED, random, end=end)
        furnish(block)
        assert all(np.isfinite(p.world_vertices()).all() for p in block.made), (kind, length)


@pytest.mark.parametrize("length", [3.05, 12.0, 14.4, 72.0, 92.0, 112.0, 63.02])
def test_lengths_that_left_no_room_for_a_house_or_a_tree(length: float) -> None:
    """Down to three metres (case `street_length`)."""
    for seed in range(8):
        assert generate_street(length, seed).primitives


def test_drawing_where_there_is_no_room_takes_the_lower_end() -> None:
    one, other = (
        Block(
            Path(20.0, 0, "straight", 0.0, Start()), street_section(0), 0, np.random.default_rng(5)
        )
        for _ in range(2)
    )
    assert one.between(9.0, 7.5) == 9.0
    # what follows does not depend on whether there was room
    other.between(0.0, 1.0)
    assert one.between(0.0, 1.0) == other.between(0.0, 1.0)
