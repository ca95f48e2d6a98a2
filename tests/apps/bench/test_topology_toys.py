"""Which topology terms repair which toys by themselves, and which cannot."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from apps.bench.topology_toys import FRAMES, TERMS, descend, painted, toys
from geo3d.topology.betti import betti_numbers
from geo3d.topology.losses.critical import critical_batch

TOYS = {toy.name: toy for toy in toys()}
STEPS = 50


def test_every_toy_starts_with_the_wrong_topology() -> None:
    assert betti_numbers(TOYS["gap"].true) == (1, 0)
    assert betti_numbers(TOYS["bridge"].true) == (2, 0)
    assert betti_numbers(TOYS["broken_ring"].true) == (1, 1)
    assert betti_numbers(TOYS["false_hole"].true) == (1, 0)
    for toy in TOYS.values():
        assert betti_numbers(toy.wrong) != betti_numbers(toy.true)
        mask = (toy.scores[0, 1] > toy.scores[0, 0]).numpy()
        assert betti_numbers(mask) == betti_numbers(toy.wrong)


@pytest.mark.parametrize("toy", list(TOYS))
@pytest.mark.parametrize("term", ["topo_loss", "warping", "topo_win"])
def test_corrected_terms_repair(term: str, toy: str) -> None:
    found = descend(TOYS[toy], term, STEPS)
    assert found.repaired and 0 < (found.steps_needed or 0) <= STEPS


@pytest.mark.slow
@pytest.mark.parametrize("toy", list(TOYS))
@pytest.mark.parametrize("term", ["betti_matching", "topo_grad"])
def test_slower_corrected_terms_repair(term: str, toy: str) -> None:
    assert descend(TOYS[toy], term, STEPS).repaired


@pytest.mark.parametrize("toy", ["gap", "bridge"])
@pytest.mark.parametrize("term", ["topo_loss, published", "warping, published"])
def test_published_terms_do_not_repair(term: str, toy: str) -> None:
    found = descend(TOYS[toy], term, STEPS)
    assert not found.repaired and found.steps_needed is None
    assert found.errors[-1] == found.errors[0]


def test_only_right_pixels_are_critical_to_the_published_warping() -> None:
    for toy in TOYS.values():
        wrong, true = (torch.from_numpy(m)[None] for m in (toy.wrong, toy.true))
        critical = critical_batch(wrong, ~true, "counted 8/8")
        assert critical.any() and not (critical & (wrong != true)).any()


@pytest.mark.parametrize("toy", ["broken_ring", "false_hole"])
def test_the_cavity_term_repairs_holes(toy: str) -> None:
    assert descend(TOYS[toy], "cavity", STEPS).repaired


@pytest.mark.parametrize("toy", ["gap", "bridge"])
def test_the_cavity_term_does_not_see_components(toy: str) -> None:
    found = descend(TOYS[toy], "cavity", STEPS)
    assert not found.repaired and len(found.errors) == 1


@pytest.mark.parametrize("toy", ["gap", "broken_ring"])
def test_skeleton_recall_joins_what_is_broken(toy: str) -> None:
    assert descend(TOYS[toy], "skeleton_recall", STEPS).repaired


def test_recall_does_not_see_what_is_too_much() -> None:
    assert not descend(TOYS["bridge"], "skeleton_recall", STEPS).repaired


def test_the_distances_of_cb_dice_are_zero_in_a_gap() -> None:
    assert descend(TOYS["bridge"], "cb_dice", STEPS).repaired
    assert not descend(TOYS["gap"], "cb_dice", STEPS).repaired


def test_pictures_are_framed_by_topology() -> None:
    toy = TOYS["gap"]
    good, bad = painted(toy.true, toy), painted(toy.wrong, toy)
    assert good.shape == bad.shape == (128, 128, 3)
    assert np.array_equal(good[2, 2], FRAMES[1]) and np.array_equal(bad[2, 2], FRAMES[0])
    assert set(TERMS) >= {"cl_dice", "topo_grad"}
