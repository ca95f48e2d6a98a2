"""Correspondences between creatures of different kinds, by their skeletons."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from geo3d.errors import InputError
from geo3d.mesh.ops import total_area
from geo3d.synth.creatures import Creature, generate_creature, vary_proportions
from geo3d.synth.creatures.kinship import BUILT_ALIKE, counterparts


@cache
def creature(kind: str, seed: int = 5) -> Creature:
    return generate_creature(kind, seed, 1500)


def owners(one: Creature) -> np.ndarray:
    """Return the name of the bone that holds each vertex."""
    names = np.array([bone.name for bone in one.bones])
    return names[one.weights.argmax(axis=1)]


@pytest.mark.parametrize("kind", BUILT_ALIKE)
def test_a_relative_has_the_same_places(kind: str) -> None:
    one = creature(kind)
    other = vary_proportions(one, 1, 0.2)
    found = counterparts(one, other)
    known = found >= 0
    gap = one.rest.vertices[found[known]] - one.rest.vertices[known]
    assert known.mean() > 0.7
    assert np.linalg.norm(gap, axis=1).mean() < 0.002 * np.sqrt(total_area(one.rest))


@pytest.mark.parametrize(
    ("first", "second", "limbs"),
    [
        ("biped", "quadruped", {"fore_foot_left": "hand_left", "hind_foot_right": "foot_right"}),
        ("quadruped", "bird", {"wing_tip_right": "fore_foot_right", "foot_left": "hind_foot_left"}),
        ("bird", "biped", {"hand_left": "wing_tip_left", "head": "head"}),
    ],
)
def test_limbs_go_to_limbs_on_the_same_side(first: str, second: str, limbs: dict[str, str]) -> None:
    one, two = creature(first), creature(second)
    found = counterparts(one, two)
    for here, there in limbs.items():
        rows = (owners(two) == here) & (found >= 0)
        assert rows.sum() > 5
        assert np.mean(owners(one)[found[rows]] == there) > 0.9


def test_the_mirror_image_of_a_place_is_the_place_of_the_mirror_image() -> None:
    one, two = creature("biped"), creature("quadruped")
    found = counterparts(one, two)
    mirrored = found[two.symmetry]
    both = (found >= 0) & (mirrored >= 0)
    expected = one.symmetry[mirrored[both]]
    gap = one.rest.vertices[expected] - one.rest.vertices[found[both]]
    assert np.linalg.norm(gap, axis=1).mean() < 0.01 * np.sqrt(total_area(one.rest))


def test_what_one_has_not_has_no_counterpart() -> None:
    one, two = creature("biped", 300), creature("quadruped")
    tail = owners(two) == "tail0"
    assert not any(bone.group == "tail0" for bone in one.bones)
    assert tail.any() and (counterparts(one, two)[tail] == -1).all()


def test_creatures_without_such_parts_are_refused() -> None:
    with pytest.raises(InputError) as caught:
        counterparts(creature("biped"), creature("octopus"))
    assert caught.value.code == "creature.not_built_alike"
