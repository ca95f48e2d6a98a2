"""The referee: readings by hand, verdicts on results that are known, wrong regions, the page."""

from __future__ import annotations

import numpy as np
import pytest

from geo3d.segmentation.referee import (
    BASE,
    READINGS,
    mean_table,
    measure_masks,
    redrawn,
    verdicts,
    without_small,
)
from geo3d.segmentation.referee_page import page
from geo3d.segmentation.wrong_regions import draw_region, wrong_regions
from geo3d.topology.betti import betti_numbers
from geo3d.topology.metrics import betti_matching_errors


def ring(size: int = 20) -> np.ndarray:
    mask = np.zeros((size, size), dtype=bool)
    mask[4:-4, 4:-4] = True
    mask[7:-7, 7:-7] = False
    return mask


def result(dice: float, betti: float) -> dict[str, float]:
    return {"Dice": dice, "Betti0": betti}


def test_small_components_and_holes_do_not_count() -> None:
    mask = ring()
    mask[1, 1:3] = True
    mask[5, 5] = False
    assert betti_numbers(mask) == (2, 2)
    assert betti_numbers(without_small(mask, 2, "cells")) == (2, 1)
    assert betti_numbers(without_small(mask, 3, "cells")) == (1, 1)
    assert (without_small(mask, 3, "cells") == ring()).all()
    # What reaches the border is no hole, however small.
    corner = np.ones((5, 5), dtype=bool)
    corner[0, 0] = False
    assert (without_small(corner, 9, "cells") == corner).all()


def test_noise_moves_the_outline_by_its_strength_and_follows_from_the_name() -> None:
    half = np.zeros((400, 60), dtype=bool)
    half[:, 30:] = True
    moved = redrawn(half, 1.5, "a")
    edge = moved.argmax(axis=1) - 30
    assert 0.8 < edge.std() < 2.2
    assert abs(edge.mean()) < 1
    assert (moved == redrawn(half, 1.5, "a")).all()
    assert (moved != redrawn(half, 1.5, "b")).any()
    assert redrawn(half, 0, "a") is half
    empty = np.zeros((4, 4), dtype=bool)
    assert not redrawn(empty, 2, "a").any()


def test_all_readings_measure_all_methods() -> None:
    found = measure_masks({"same": ring(), "none": ~ring()}, ring(), "x")
    assert list(found) == [reading.name for reading in READINGS]
    base = found[BASE.name]
    assert base["same"]["Dice"] == 1
    assert base["same"]["BettiMatching"] == 0
    assert base["none"]["Dice"] == 0
    assert "" not in base
    assert 0.5 < found["noise 0.5, first"][""]["Dice"] < 1


def results_of(n: int, flips: bool) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    generator = np.random.default_rng(0)
    found = {}
    for k in range(n):
        noise = generator.normal(0, 0.01)
        base = {"a": result(0.9 + noise, 1), "b": result(0.8, 1)}
        other = {"a": result(0.7, 1), "b": result(0.8, 1)} if flips else base
        redrawn_ = {**base, "": result(0.97, 0.5)}
        found[f"{k}"] = {BASE.name: base, "vertices": other, "noise 0.5, first": redrawn_}
    return found


def test_a_clear_difference_is_sure_unless_it_flips() -> None:
    dice_, betti = verdicts(results_of(20, flips=False))
    assert (dice_.metric, dice_.better, dice_.worse) == ("Dice", "a", "b")
    assert dice_.difference == pytest.approx(0.1, abs=0.01)
    assert dice_.floor == pytest.approx(0.03)
    assert dice_.is_sure
    assert betti.p == 1
    assert not betti.is_sure
    flipped = verdicts(results_of(20, flips=True))[0]
    assert flipped.flips == ("vertices",)
    assert not flipped.is_sure


def test_few_images_and_small_differences_are_not_sure() -> None:
    assert verdicts(results_of(3, flips=False))[0].p >= 0.25
    found = results_of(20, flips=False)
    for image in found.values():
        image["noise 0.5, first"][""]["Dice"] = 0.85
    assert not verdicts(found)[0].is_sure


def test_wrong_regions_are_as_many_as_the_unmatched() -> None:
    generator = np.random.default_rng(1)
    for shape in ((25, 30), (7, 8, 9)):
        for _ in range(4):
            one, two = generator.random((2, *shape)) < (0.4 if len(shape) == 2 else 0.15)
            found = wrong_regions(one, two)
            components = [r for r in found if r.kind.endswith("component")]
            unmatched = betti_matching_errors(one, two)
            assert (len(components), len(found) - len(components)) == (unmatched[0], unmatched[-1])


def test_a_false_piece_and_a_missed_hole_are_named_and_drawn() -> None:
    true = ring(40)
    predicted = true.copy()
    predicted[7:-7, 7:-7] = True
    predicted[1, 30:33] = True
    found = wrong_regions(predicted, true)
    assert [(r.kind, r.pixels) for r in found] == [("missed hole", 676), ("false component", 3)]
    assert found[1].box == ((1, 2), (30, 33))
    picture = draw_region(predicted, true, found[1])
    colors = {tuple(c) for c in picture.reshape(-1, 3)}
    assert (213, 94, 0) in colors and (204, 60, 150) in colors
    assert max(picture.shape) <= 400


def test_the_page_holds_tables_marks_and_pictures() -> None:
    found = results_of(8, flips=True)
    picture = np.zeros((4, 4, 3), dtype=np.uint8)
    text = page(mean_table(found), verdicts(found), [("<b>", "1", "x", picture)], ["a & b"])
    assert "the order flips" in text
    assert "a &amp; b" in text and "<h3>&lt;b&gt;</h3>" in text
    assert text.count("data:image/png;base64,") == 1
    assert "http" not in text
