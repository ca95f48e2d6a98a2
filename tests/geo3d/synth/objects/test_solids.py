"""Solids are closed, look outward and have the volumes they should."""

from __future__ import annotations

import numpy as np
import pytest

from geo3d.synth.objects.solids import (
    Solid,
    box,
    cylinder,
    ellipsoid,
    front_prism,
    hull_along,
    lathe,
    mirrored,
    part,
    prism,
    rotation,
    side_prism,
    torus,
    tube,
)

SQUARE = [(0.0, 0.0), (2.0, 0.0), (2.0, 1.0), (0.0, 1.0)]
CUP = [(0, 0), (0.5, 0), (0.6, 1.0), (0.55, 1.0), (0.45, 0.1), (0, 0.1)]


def is_watertight(solid: Solid) -> bool:
    """Tell whether every edge is run through exactly once in each direction."""
    directed = solid.faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    there, count = np.unique(directed, axis=0, return_counts=True)
    back = np.unique(directed[:, ::-1], axis=0)
    return bool((count == 1).all()) and np.array_equal(there, back)


@pytest.mark.parametrize(
    ("solid", "volume", "tolerance"),
    [
        (box((0, 0, 0), (1, 2, 3)), 6.0, 1e-12),
        # a pyramid stump: h/3 (A + B + sqrt(A B))
        (box((0, 0, 0), (2, 2, 3), (0.5, 0.5)), 4 + 1 + 2, 1e-12),
        (cylinder(1.0, 2.0, sides=400), 2 * np.pi, 1e-3),
        (ellipsoid((1, 2, 3), 200), 8 * np.pi, 1e-2),
        (torus(2.0, 0.5, 200, 100), 2 * np.pi**2 * 2 * 0.25, 1e-2),
        (tube([(0, 0, 0), (0, 0, 1), (0, 0, 3)], 0.5, 300), 0.75 * np.pi, 1e-3),
        (prism(SQUARE, 1.0, 4.0), 6.0, 1e-12),
        (side_prism(SQUARE, -1.0, 2.0), 6.0, 1e-12),
        (front_prism(SQUARE, -1.0, 2.0), 6.0, 1e-12),
        (hull_along("y", [(0, 0, 0, 2, 2), (3, 0, 0, 2, 2)], 2.0, 400), 3 * np.pi, 1e-2),
        (mirrored(box((0, 0, 0), (1, 2, 3)), "y"), 6.0, 1e-12),
        (box((0, 0, 0), (1, 2, 3)).scaled(2, 1, 1).turned("x", 0.7).moved(5, 6, 7), 12.0, 1e-9),
    ],
)
def test_volumes(solid: Solid, volume: float, tolerance: float) -> None:
    assert solid.volume() == pytest.approx(volume, rel=tolerance)
    assert is_watertight(solid)


def test_a_cup_holds_less_than_its_outside() -> None:
    cup, filled = lathe(CUP, 200), lathe([*CUP[:3], (0, 1.0)], 200)
    inside = lathe([(0, 0.1), (0.45, 0.1), (0.55, 1.0), (0, 1.0)], 200)
    assert is_watertight(cup)
    assert cup.volume() == pytest.approx(filled.volume() - inside.volume(), rel=1e-9)


def test_views_of_prisms_keep_their_axes() -> None:
    side, front = side_prism(SQUARE, -1.0, 5.0), front_prism(SQUARE, -1.0, 5.0)
    assert np.ptp(side.vertices, axis=0) == pytest.approx([6, 2, 1])
    assert np.ptp(front.vertices, axis=0) == pytest.approx([2, 6, 1])


def test_turning_is_counter_clockwise() -> None:
    assert rotation("z", np.pi / 2) @ [1, 0, 0] == pytest.approx(np.array([0, 1, 0]), abs=1e-12)
    assert rotation("x", np.pi / 2) @ [0, 1, 0] == pytest.approx(np.array([0, 0, 1]), abs=1e-12)
    assert rotation("y", np.pi / 2) @ [0, 0, 1] == pytest.approx(np.array([1, 0, 0]), abs=1e-12)


def test_a_hole_in_a_surface_is_seen() -> None:
    whole = box((0, 0, 0), (1, 1, 1))
    assert not is_watertight(Solid(whole.vertices, whole.faces[1:]))


def test_colours_are_spread_over_a_part() -> None:
    block = part("block", box((0, 0, 0), (1, 1, 1)), (10, 20, 30))
    assert block.colors.dtype == np.uint8 and (block.colors == [10, 20, 30]).all()
