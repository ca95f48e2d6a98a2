"""Drawn vessels, roads and tubes: what they are like, and that they follow from the seed."""

from __future__ import annotations

import numpy as np
import pytest

from geo3d.errors import ConfigError
from geo3d.synth.lines import GROUPS, Lines, road_map, tube_volume, vessel_image
from geo3d.topology.betti import betti_numbers


def drawn(what: str, seed: int = 0, group: str = "indistr") -> Lines:
    if what == "tubes":
        return tube_volume(seed, 40, group=group)
    return {"vessels": vessel_image, "roads": road_map}[what](seed, 72, 80, group=group)


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("what", ["vessels", "roads", "tubes"])
def test_lines_are_thin_and_differ_from_the_ground(what: str, group: str) -> None:
    found = drawn(what, 3, group)
    assert found.image.dtype == np.uint8 and found.image.shape[:-1] == found.mask.shape
    assert 0.005 < found.mask.mean() < 0.5
    apart = found.image[found.mask].mean(axis=0) - found.image[~found.mask].mean(axis=0)
    assert np.abs(apart).max() > 4
    assert betti_numbers(found.mask)[0] <= 8


@pytest.mark.parametrize("what", ["vessels", "roads", "tubes"])
def test_everything_follows_from_the_seed(what: str) -> None:
    first, again, other = drawn(what), drawn(what), drawn(what, 1)
    np.testing.assert_array_equal(first.image, again.image)
    assert (first.mask != other.mask).any()


def test_roads_enclose_blocks_and_tubes_have_tunnels() -> None:
    assert sum(betti_numbers(drawn("roads", s).mask)[1] for s in range(4)) > 4
    assert sum(betti_numbers(drawn("tubes", s).mask)[1] for s in range(4)) > 2


def test_slips_are_named() -> None:
    for action, code in (
        (lambda: vessel_image(0, group="night"), "lines.unknown_group"),
        (lambda: tube_volume(0, 8), "lines.too_small"),
    ):
        with pytest.raises(ConfigError) as caught:
            action()
        assert caught.value.code == code
