"""Which neighbours a pixel is joined to: against components around it, and stars against cells."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from geo3d.topology.grids import Pixels, label_components, neighbourhood
from geo3d.topology.joins import needed_steps
from geo3d.topology.merging import stack
from geo3d.topology.tunnels import Grid, grids

READINGS: tuple[Pixels, ...] = ("cells", "vertices")


@pytest.mark.parametrize("pixels", READINGS)
@pytest.mark.parametrize("flat", [False, True])
def test_one_step_to_each_component_around_a_pixel(pixels: Pixels, flat: bool) -> None:
    rng = np.random.default_rng(4)
    steps = neighbourhood(2 if flat else 3, pixels)
    places = np.pad(steps, ((0, 0), (1, 0))) if flat else steps
    shape = (1, 3, 3) if flat else (3, 3, 3)
    for share in np.linspace(0.1, 0.9, 60):
        before = rng.random(shape) < share
        centre = tuple(side // 2 for side in shape)
        before[centre] = False
        rank = np.where(before, 0, 2).astype(np.int32)
        rank[centre] = 1
        taken = needed_steps(rank[None], 13 + places @ np.array([9, 3, 1]), pixels == "cells")
        parts, _ = label_components(before, corners=pixels == "cells")
        expected, seen = 0, {0}
        for k, place in enumerate(places):
            part = int(parts[tuple(np.add(centre, place))])
            if part not in seen:
                expected |= 1 << k
                seen.add(part)
        assert int(taken[(0, *centre)]) == expected


def squares_around(grid: Grid, at: tuple[int, ...]) -> set[tuple[tuple[int, ...], ...]]:
    """Return the squares and cubes that enter with a voxel, as sets of voxels."""
    found = set()
    for signs in product((-1, 0, 1), repeat=3):
        if sum(map(abs, signs)) < 2:
            continue
        cell = {
            tuple(n + use * sign for n, use, sign in zip(at, uses, signs, strict=True))
            for uses in product((0, 1), repeat=3)
        }
        if all(grid.rank[other] < grid.rank[at] for other in cell - {at}):
            found.add(signs)
    return found


@pytest.mark.parametrize("pixels", READINGS)
def test_stars_hold_the_cells_that_enter_with_a_voxel(pixels: Pixels) -> None:
    values = np.random.default_rng(5).random((1, 3, 4, 3))
    (grid,) = grids(stack(values), pixels)
    stars = grid.star.reshape(grid.rank.shape)
    for at in np.ndindex(*values.shape[1:]):
        padded = tuple(n + 1 for n in at)
        cells = squares_around(grid, padded)
        star = int(stars[padded])
        assert (star & 0xFFF).bit_count() == sum(0 in signs for signs in cells)
        cubes = {tuple(2 * (o >> axis & 1) - 1 for axis in range(3)) for o in range(8)}
        there = {c for c in cubes if star >> (12 + sum((c[j] > 0) << j for j in range(3))) & 1}
        assert there == {signs for signs in cells if 0 not in signs}
