"""Strokes by hand: what they cover, what they join and cut, what they refuse."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from geo3d.errors import InputError
from geo3d.topology.betti import betti_numbers
from geo3d.topology.grids import Pixels
from geo3d.topology.stroke import MAX_POINTS, brushed, stroke


def two_pieces() -> np.ndarray:
    mask = np.zeros((9, 20), dtype=bool)
    mask[3:6, 2:8] = mask[3:6, 12:18] = True
    return mask


def test_a_join_makes_one_piece_of_two_and_flipping_back_undoes_it() -> None:
    mask = two_pieces()
    found = stroke(mask, [(4.5, 7.5), (4.5, 12.5)], 1, True)
    assert (found.before, found.after) == ((2, 0), (1, 0))
    assert found.mask.sum() - mask.sum() == 4 == len(found.changed)
    back = found.mask.copy()
    back.ravel()[found.changed] ^= True
    assert (back == mask).all()
    assert (mask == two_pieces()).all(), "the mask that was given is left alone"


def test_a_ring_that_is_closed_gets_a_hole_and_loses_it_by_a_cut() -> None:
    ring = np.ones((7, 7), dtype=bool)
    ring[2:5, 2:5] = False
    ring[3, 5:] = False
    closed = stroke(ring, [(3.5, 6.5)], 1, True)
    assert (closed.before, closed.after) == ((1, 0), (1, 1))
    cut = stroke(closed.mask, [(0, 3.5), (3.5, 3.5)], 1, False)
    assert cut.after == (1, 0)


@pytest.mark.parametrize("end", [(0.0, 13.0), (13.0, 0.0), (3.0, 13.0), (12.9, 5.1)])
@pytest.mark.parametrize("pixels", ["cells", "vertices"])
def test_the_thinnest_line_joins_and_cuts_however_slanted(
    end: tuple[float, float], pixels: Pixels
) -> None:
    start = (13.0 - end[0], 13.0 - end[1])
    line = stroke(np.zeros((13, 13), bool), [start, end], 0.01, True, pixels)
    assert line.after == (1, 0)
    parted = stroke(np.ones((13, 13), bool), [start, end], 0.01, False, pixels)
    assert parted.after[0] == 2


def test_what_is_covered_is_within_half_the_width_of_the_line() -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        points, width = generator.uniform(-4, 24, (3, 2)), float(generator.uniform(3, 9))
        expected = np.zeros((18, 21), dtype=bool)
        for row, column in np.ndindex(18, 21):
            centre = np.array([row + 0.5, column + 0.5])
            for a, b in pairwise(points):
                t = np.clip((centre - a) @ (b - a) / ((b - a) @ (b - a)), 0, 1)
                expected[row, column] |= np.linalg.norm(centre - a - t * (b - a)) <= width / 2
        # The pixels of the middle line are within 0.71 of it, so these widths hold them.
        assert (brushed((18, 21), points, width) == expected).all()


def test_a_dot_and_what_lies_outside() -> None:
    assert np.argwhere(brushed((5, 5), [(2.5, 3.5)], 1)).tolist() == [[2, 3]]
    assert brushed((5, 5), [(2.5, 2.5)], 3).sum() == 5 + 4
    assert not brushed((5, 5), [(-9, -9), (-9, 40)], 4).any()
    found = stroke(np.ones((5, 5), bool), [(2, 2)], 4, True)
    assert found.before == found.after and not len(found.changed)


def test_volumes_are_painted_too() -> None:
    tube = np.zeros((9, 9, 21), dtype=bool)
    tube[3:6, 3:6, :8] = tube[3:6, 3:6, 13:] = True
    joined = stroke(tube, [(4.5, 4.5, 7), (4.5, 4.5, 14)], 3, True)
    assert (joined.before, joined.after) == ((2, 0, 0), (1, 0, 0))
    assert (
        betti_numbers(stroke(joined.mask, [(0, 4.5, 10.5), (9, 4.5, 10.5)], 4, False).mask)[0] == 2
    )


@pytest.mark.parametrize(
    ("points", "width"),
    [
        ([], 1),
        ([(1, 2, 3)], 1),
        ([(1, float("nan"))], 1),
        ([(1, 2), (3,)], 1),
        ([(1, 2)], 0),
        ([(1, 2)], float("nan")),
        ([(1, 2)], 1e9),
        (np.zeros((MAX_POINTS + 1, 2)), 1),
    ],
)
def test_what_is_no_stroke_is_refused(points: object, width: float) -> None:
    with pytest.raises(InputError, match=r"topology\.bad_stroke"):
        stroke(np.ones((4, 4), bool), points, width, True)  # type: ignore[arg-type]
