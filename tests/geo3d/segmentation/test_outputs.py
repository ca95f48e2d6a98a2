"""Regions of masks against Betti numbers and by hand, and the images of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geo3d.errors import ShapeError
from geo3d.segmentation.outputs import (
    COMPONENT_COLORS,
    HOLE_COLOR,
    draw_overlay,
    find_topology,
)
from geo3d.topology.betti import betti_numbers


def ring_and_dot() -> np.ndarray:
    mask = np.zeros((40, 60), bool)
    mask[5:35, 5:35] = True
    mask[10:20, 10:20] = False
    mask[25:30, 10:14] = False
    mask[3:5, 50:53] = True
    return mask


def test_regions_by_hand() -> None:
    found = find_topology(ring_and_dot())
    assert found.betti == (2, 2)
    sizes = [(r.kind, r.number, r.pixels) for r in found.regions]
    assert sizes == [
        ("component", 1, 900 - 100 - 20),
        ("component", 2, 6),
        ("hole", 1, 100),
        ("hole", 2, 20),
    ]
    for region in found.regions:
        labels = found.components if region.kind == "component" else found.holes
        assert labels[region.row, region.column] == region.number


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.2, 0.8))
def test_regions_are_counted_like_betti_numbers(seed: int, share: float) -> None:
    mask = np.random.default_rng(seed).random((17, 23)) < share
    found = find_topology(mask)
    assert found.betti == betti_numbers(mask)
    assert len(found.regions) == sum(found.betti)
    assert ((found.components > 0) == mask).all()


@pytest.mark.parametrize("mask", [np.zeros((9, 8), bool), np.ones((9, 8), bool)])
def test_empty_and_full_masks(mask: np.ndarray) -> None:
    found = find_topology(mask)
    assert found.betti == betti_numbers(mask)
    draw_overlay(np.zeros((9, 8, 3), np.uint8), found)


def test_outlines_lie_inside_their_regions() -> None:
    mask = ring_and_dot()
    image = np.full((40, 60, 3), 100, np.uint8)
    topology = find_topology(mask)
    drawn = draw_overlay(image, topology, numbers=False)
    scale = drawn.shape[0] // 40
    assert scale > 1
    assert drawn.shape == (40 * scale, 60 * scale, 3)
    assert (drawn[5 * scale, 5 * scale] == COMPONENT_COLORS[0]).all()
    assert (drawn[3 * scale, 50 * scale] == COMPONENT_COLORS[1]).all()
    assert (drawn[10 * scale, 10 * scale] == HOLE_COLOR).all()
    assert (drawn[0, 0] == 100).all()
    assert not (drawn[7 * scale, 7 * scale] == 100).all()
    numbered = draw_overlay(image, topology)
    assert (numbered != drawn).any()
    assert (image == 100).all()


def test_images_of_other_sizes_are_refused() -> None:
    with pytest.raises(ShapeError) as caught:
        draw_overlay(np.zeros((5, 5, 3), np.uint8), find_topology(ring_and_dot()))
    assert caught.value.code == "overlay.unequal_sizes"
